"""One orchestration over several connections: what a failure of one may and may not do to the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.orchestrator import Options, Orchestrator, Report
from kb_pipeline.settings.load import load
from kb_pipeline.storage.table import Storage
from kb_pipeline.tables import values
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
    storage = Storage(project / ".kb")
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
