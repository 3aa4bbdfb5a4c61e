"""The parsing benchmark: counting over good and bad files, and workers that hang or die."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import parsing
from benchmarks.parsing import Tool, compare, figures, formats, over
from benchmarks.peers.environment import INGESTION, PARSERS, peers_python

OURS = Tool("kb", (sys.executable, "-m", "benchmarks.parse_worker"))
ODD = """
import json, sys, time
print(json.dumps({"version": "1"}), flush=True)
for line in sys.stdin:
    if "2-" in line: time.sleep(60)
    if "4-" in line: sys.exit(1)
    print(json.dumps({"status": "parsed", "characters": 2, "seconds": 0.5}), flush=True)
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    content = {
        "a.md": b"# One\n\ntext",
        "sub/b.md": b"# Two\n\ntext",
        "c.pdf": b"%PDF-1.7\nnot really",
        "d.bin": bytes(range(256)),
        "e.txt": b"",
        "f.txt": b"text",
    }
    for name, data in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_files_are_sorted_by_the_parser_that_is_chosen(files: Path) -> None:
    assert {name: [path.name for path in paths] for name, paths in formats(files).items()} == {
        "markdown": ["a.md", "b.md"],
        "no parser": ["d.bin"],
        "pdf": ["c.pdf"],
        "text": ["e.txt", "f.txt"],
    }


def test_our_parsers_over_a_folder(files: Path) -> None:
    found = compare(files, [OURS], rounds=1)
    assert {name: facts["tools"]["kb"]["statuses"] for name, facts in found.items()} == {
        "markdown": {"parsed": 2},
        "no parser": {"excluded": 1},
        "pdf": {"corrupt": 1},
        "text": {"empty": 1, "parsed": 1},
    }
    values = {figure.name: figure.value for figure in figures(found)}
    assert (values["markdown: files"], values["markdown: parsed"], values["pdf: corrupt"]) == (2, 2, 1)
    assert values["markdown: MB/s"] > 0
    assert values["pdf: peak memory"] > 1


def test_a_worker_that_hangs_or_dies_loses_one_file_and_goes_on(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "SECONDS", 2.0)
    paths = [files / name for name in ("1-x", "2-x", "3-x", "4-x", "5-x")]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * (number + 1))
    outcome = over(Tool("odd", (sys.executable, "-c", ODD)), paths)
    assert outcome.statuses == {"crashed": 1, "parsed": 3, "timed_out": 1}
    assert outcome.restarts == 2
    assert [each.partition(":")[0] for each in outcome.failures] == ["2-x", "4-x"]
    assert 3.5 <= outcome.seconds < 10.0


def test_a_tool_reads_only_formats_made_of_its_files(files: Path) -> None:
    tool = Tool("odd", (sys.executable, "-c", ODD), frozenset({".md"}))
    found = compare(files, [tool], rounds=2)
    assert [name for name, facts in found.items() if facts["tools"]] == ["markdown"]
    assert found["markdown"]["tools"]["odd"]["rates"]["docs_per_s"] == 2.0


def test_each_environment_has_pins_of_its_own(tmp_path: Path) -> None:
    for folder in (INGESTION, PARSERS):
        lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
        assert all("==" in line for line in lines if not line.startswith("#"))
    for name in ("requirements.txt", ".venv/.installed", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x==1\n", encoding="utf-8")
    assert peers_python(tmp_path) == tmp_path / ".venv/bin/python"
