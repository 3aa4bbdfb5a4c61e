from __future__ import annotations

import pytest

from kb_pipeline.settings.cron import check_cron


@pytest.mark.parametrize(
    "good",
    [
        "0 3 * * *",
        "*/5 * * * *",
        "0,30 8-18/2 1 jan-mar mon-fri",
        "0 0 29 2 *",
        "0 0 31 2 1",
        "59 23 31 12 7",
        "5/10 * * * *",
    ],
)
def test_good(good: str) -> None:
    check_cron(good)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("@daily", "five fields"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("a * * * *", "minute"),
        ("1, * * * *", "minute"),
        ("0 0 31 2,4 *", "date that exists"),
        ("0 0 30 feb *", "date that exists"),
    ],
)
def test_bad(bad: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_cron(bad)
