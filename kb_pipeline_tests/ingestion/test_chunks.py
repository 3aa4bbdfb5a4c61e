"""What a change of the chunkers' settings costs: the documents concerned are cut, and only new texts are embedded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kb_pipeline import stages, tables
from kb_pipeline.embedding.embed import text_key
from kb_pipeline.ingestion import chunks
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ingestion.work import Orchestration
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.settings.load import load
from kb_pipeline.storage.partitions import Partition
from kb_pipeline_tests import current
from kb_pipeline_tests.acceptance.world import CountingEmbedder, WordEmbedder

PARTITION = Partition("local_directory", "mine")
TABLE = "city,country,remark\n" + "".join(f"town {i},land {i % 7},some text about number {i}\n" for i in range(60))
PROSE = "# One\n\n" + "The quick brown fox jumps over the lazy dog. " * 30
CODE = "".join(f"def function_{i}(x):\n    return x + {i}\n\n\n" for i in range(20))


class Project:
    """A folder with three documents; ``run`` brings its tables in step under some settings of the chunkers."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        (root / "files").mkdir()
        for name, text in (("a.csv", TABLE), ("b.md", PROSE), ("c.py", CODE)):
            (root / "files" / name).write_text(text, encoding="utf-8")
        self.embedder = CountingEmbedder(WordEmbedder())
        self.cut: list[str] = []
        cut = chunks.cut

        def noted(partition: Partition, row: Any, *rest: Any) -> Any:
            self.cut.append(row["key"])
            return cut(partition, row, *rest)

        monkeypatch.setattr(chunks, "cut", noted)

    def run(self, chunking: dict[str, Any] | None = None) -> tuple[list[str], int]:
        """(documents cut, texts embedded)"""
        source = {"name": "mine", "type": "local_directory", "path": "files"}
        settings = {"sources": [source], "chunking": {"tokens": 64, **(chunking or {})}}
        (self.root / "kb.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        chain = Chain(Workspace(load(self.root / "kb.yaml")))
        orchestration = Orchestration("x", 0.0, "a test")
        self.cut.clear()
        self.embedder.texts.clear()
        for stage in stages.STAGES:
            chain.make(stage, PARTITION, orchestration, self.embedder)
        self.storage = chain.workspace.storage
        return sorted(self.cut), len(self.embedder.texts)

    def rows(self) -> list[dict[str, Any]]:
        rows = current.rows(self.storage, "chunks", PARTITION)
        return rows


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


def test_a_setting_of_one_media_type_cuts_only_its_documents(project: Project) -> None:
    cut, embedded = project.run()
    assert cut == ["a.csv", "b.md", "c.py"]
    assert embedded == len({row["text_sha256"] for row in project.rows()})
    assert project.run() == ([], 0)
    before = {row["text_sha256"] for row in project.rows()}
    cut, embedded = project.run({"by_media_type": {"text/csv": {"tokens": 128}}})
    assert cut == ["a.csv"]
    assert embedded == len({row["text_sha256"] for row in project.rows()} - before)
    assert project.run({"by_media_type": {"text/csv": {"tokens": 128}, "text/html": {"tokens": 32}}}) == ([], 0)


def test_going_back_embeds_nothing(project: Project) -> None:
    project.run()
    first = project.rows()
    assert project.run({"by_media_type": {"text/x-source": {"chunker": "prose"}}})[0] == ["c.py"]
    cut, embedded = project.run()
    assert (cut, embedded) == (["c.py"], 0)
    assert sorted(row["row_hash"] for row in project.rows()) == sorted(row["row_hash"] for row in first)


def test_cutting_anew_embeds_only_texts_that_changed(project: Project) -> None:
    project.run()
    before = {row["text_sha256"] for row in project.rows()}
    cut, embedded = project.run({"respect_headings": False})
    assert cut == ["a.csv", "b.md", "c.py"]
    after = {row["text_sha256"] for row in project.rows()}
    assert embedded == len(after - before) < len(after)


@pytest.mark.parametrize("change", [{"tokens": 96}, {"overlap": 16}, {"by_media_type": {"text/*": {"overlap": 16}}}])
def test_every_number_changes_something(project: Project, change: dict[str, Any]) -> None:
    project.run()
    before = [row["row_hash"] for row in project.rows()]
    project.run(change)
    assert [row["row_hash"] for row in project.rows()] != before


def test_a_table_is_embedded_with_its_header_and_keeps_exact_offsets(project: Project) -> None:
    project.run()
    rows = [row for row in project.rows() if row["key"] == "a.csv"]
    assert [row["prefix"] for row in rows] == ["", *["city,country,remark\n"] * (len(rows) - 1)]
    for row in rows:
        assert row["text"] == TABLE[row["start"] : row["end"]]
        assert row["text_sha256"] == text_key(row["prefix"] + row["text"])
        assert row["prefix"] + row["text"] in project.embedder.texts
    assert "".join(row["text"] for row in rows) == TABLE
    assert set(rows[0]) == set(tables.CHUNKS.names)


def test_headings_of_code_are_what_encloses_it(project: Project) -> None:
    project.run()
    rows = [row for row in project.rows() if row["key"] == "c.py"]
    assert rows[0]["heading_path"] == ["function_0"]
    assert all(row["text"].startswith("def ") for row in rows)
