"""Memory of the process that ingests: what docs/operations.md promises holds for a large item."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.memory import Case, csv, figures, run, small

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak")
_MB = 20


def test_a_large_item_takes_no_more_than_is_allowed(tmp_path: Path) -> None:
    limits = {"max_item_bytes": _MB * 10**6, "parse_memory_mib": 512}
    large = Case("large", csv(_MB * 10**6), limits, chunks=False)
    baseline = run(Case("small", small, chunks=False), tmp_path / "small")
    found = run(large, tmp_path / "large")
    assert found["documents"]["status"] == "parsed"
    taken = found["documents"]["peak_mb"] - baseline["documents"]["peak_mb"]
    # Nothing else is in flight, and one process parses: what is left of the bound is the text and its copies.
    assert taken < (memory.WRITTEN + memory.PARSED) * _MB
    shown = {figure.name: figure for figure in figures(baseline, {"large": found}, [large])}
    assert shown["large: documents"].verdict == "met"
    assert shown["large: its parser process"].verdict == "met"
    assert shown["large: its parser process"].value > 0


def test_an_item_above_the_limit_is_not_read(tmp_path: Path) -> None:
    refused = Case("refused", csv(_MB * 10**6), {"max_item_bytes": 10**6}, chunks=False)
    found = run(refused, tmp_path)["documents"]
    assert (found["status"], found["parser_mb"]) == ("too_large", 0)
