"""One orchestration over several connections: what a failure of one may and may not do to the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from kb_pipeline.findings import Finding, Severity
from kb_pipeline.knowledge_base import gate
from kb_pipeline.knowledge_base.candidates import Candidate
from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.orchestrator import Options, Orchestrator, Report
from kb_pipeline.settings.load import load
from kb_pipeline.storage.storage import Storage
from kb_pipeline.tables import values
from kb_pipeline_tests.damage import double
from kb_pipeline_tests.defs.conftest import HashEmbedder


class OtherEmbedder(HashEmbedder):
    """Another model: other vectors of another length."""

    model_id = "fedcba9876543210" * 2
    dimension = 6


def orchestrate(root: Path, instance: dg.DagsterInstance, embedder: HashEmbedder) -> Report:
    # One at a time: an ephemeral instance lives in memory, in a database that one thread may use.
    options = Options(max_concurrent_sources=1)
    return Orchestrator(load(root / "kb.yaml"), instance, resources={"embedder": embedder}).run(options)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two folders with a file each."""
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "note.md").write_text(f"# {name}\n\nSaid in the {name}.\n")
    sources = [f"  - {{name: {name}, type: local_directory, path: ./{name}}}" for name in ("north", "south")]
    (tmp_path / "kb.yaml").write_text("\n".join(["sources:", *sources, ""]))
    return tmp_path


def test_a_change_of_model_does_not_wait_for_a_dead_connection(project: Path) -> None:
    storage = Storage.of_folder(project / ".kb")
    with dg.DagsterInstance.ephemeral() as instance:
        before = orchestrate(project, instance, HashEmbedder())
        assert before.errors == []
        shutil.rmtree(project / "south")
        report = orchestrate(project, instance, OtherEmbedder())
    assert report.status == "completed_with_issues"
    assert [fault.source for fault in report.errors] == ["south"]
    assert report.sources["south"].stale
    assert report.sources["south"].embedded == 1, "what is stored of it was embedded anew"
    current = Releases(storage).current()
    assert current is not None
    assert current.model_id == OtherEmbedder.model_id
    keys = values(Release(storage, current).to_arrow(["connection"]).column(0))
    assert sorted(set(keys)) == ["north", "south"]


def test_damage_keeps_the_old_release_and_the_report_says_what_failed(project: Path) -> None:
    storage = Storage(project / ".kb")
    with dg.DagsterInstance.ephemeral() as instance:
        assert orchestrate(project, instance, HashEmbedder()).release == "release-1"
        # A row is gone from the index, and the table it must come back from holds it twice.
        storage.index_location.open(TABLE).delete("connection = 'north'")
        double(storage.local, "north")
        report = orchestrate(project, instance, HashEmbedder())
    assert (report.status, report.release) == ("failed", "release-1")
    (fault,) = report.errors
    assert fault.source == "release"
    assert fault.message.startswith("index_equals_tables: the index differs from its tables: north: ")
    keys = values(Release.open(storage).to_arrow(["connection"]).column(0))
    assert sorted(keys) == ["north", "south"]


def few_words(storage: Storage, made: Candidate) -> Finding:
    """Says enough."""
    return Finding(False, "few words", severity=Severity.WARNING)


def test_a_warning_is_in_the_report_and_the_release_comes_about(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CHECKS", (*gate.CHECKS, few_words))
    with dg.DagsterInstance.ephemeral() as instance:
        report = orchestrate(project, instance, HashEmbedder())
    assert (report.status, report.release, report.errors) == ("completed_with_issues", "release-1", [])
    assert report.as_dict()["warnings"] == [{"source": "release", "message": "few_words: few words"}]


def test_a_change_of_model_that_waits_is_told(project: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        orchestrate(project, instance, HashEmbedder())
        settings = load(project / "kb.yaml")
        options = Options(connections=["north"], max_concurrent_sources=1)
        report = Orchestrator(settings, instance, resources={"embedder": OtherEmbedder()}).run(options)
    assert (report.status, report.release) == ("completed_with_issues", "release-1")
    (warning,) = report.warnings
    assert "the new release waits for the vectors of local_directory/south" in warning.message
