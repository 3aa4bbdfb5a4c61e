"""docs/performance.md shows what was measured, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench, results
from benchmarks.results import Figure

PAGE = bench.PAGE.read_text(encoding="utf-8")
DOCUMENTS = bench.shown(bench.stored())

# Tables, and what a terminal shows: no claims.
_BLOCK = re.compile(r"<!-- figures of .*?<!-- end -->|^```.*?^```", re.DOTALL | re.MULTILINE)
# A number with a unit of time, memory or comparison, as prose would boast with.
_CLAIM = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s?(?:s|ms|seconds|minutes|MB|x|times|rows)\b")


def numbers(value: Any) -> Iterator[float]:
    """Every number in a JSON value."""
    if isinstance(value, dict):
        for each in value.values():
            yield from numbers(each)
    elif isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def test_the_tables_are_those_of_the_results() -> None:
    assert DOCUMENTS, "nothing was measured"
    assert bench.page(PAGE, DOCUMENTS) == PAGE


@pytest.mark.parametrize("page", ["docs/performance.md", "README.md"])
def test_prose_quotes_no_figure_that_was_not_measured(page: str) -> None:
    text = _BLOCK.sub("", (bench.ROOT / page).read_text(encoding="utf-8"))
    measured = list(numbers([document["figures"] for document in DOCUMENTS.values()]))
    for match in _CLAIM.finditer(text):
        digits = match[1].replace(",", "")
        step = 10.0 ** -len(digits.partition(".")[2])
        assert any(abs(each - float(digits)) <= step / 2 for each in measured), f"{page} says {match[0]!r}"


@pytest.mark.parametrize("path", sorted(results.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_how_it_was_made_and_judges_itself_rightly(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["command"].startswith("python benchmarks/")
    assert "/" not in document["command"].removeprefix("python benchmarks/"), "it would name a folder of some machine"
    assert document["machine"]["cores"] > 0
    derived = {"ratio", "verdict"}
    for row in document["figures"]:
        figure = Figure(**{name: value for name, value in row.items() if name not in derived})
        assert figure.document() == row


def test_a_page_with_a_changed_figure_is_noticed() -> None:
    part, document = next(iter(DOCUMENTS.items()))
    first, *rest = document["figures"]
    changed = {**document, "figures": [{**first, "value": first["value"] + 1}, *rest]}
    assert bench.page(PAGE, {**DOCUMENTS, part: changed}) != PAGE
