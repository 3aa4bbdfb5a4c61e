"""Garbage collection drops what nothing refers to, and nothing else."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from kb_pipeline.embedding.vector_store import VectorStore
from kb_pipeline.ingestion import gc
from kb_pipeline.ingestion.gc import collect
from kb_pipeline.knowledge_base.candidates import Candidates, is_candidate_tag
from kb_pipeline.knowledge_base.index import TABLE, Index
from kb_pipeline.knowledge_base.releases import NoRelease, Releases
from kb_pipeline.ledger.errors import LeaseHeld
from kb_pipeline.storage.files import aside_path
from kb_pipeline.storage.storage import KNOWLEDGE_BASE
from kb_pipeline_tests.acceptance.world import CountingEmbedder, WordEmbedder, World


def edit(world: World, times: int) -> None:
    """Publish so many releases, each with another text."""
    for number in range(times):
        world.write("alpha", "a.md", f"version {number}")
        assert world.run().published


def store(world: World) -> VectorStore:
    return VectorStore(world.storage.vectors_location, world.embedder.model_id, world.embedder.dimension)


def releases(world: World) -> list[str]:
    return [record.name for record in Releases(world.storage).all()]


def rollback(world: World, name: str) -> None:
    with world.workspace.ledger.leases.acquire("corpus/knowledge_base", "a rollback") as lease:
        Releases(world.storage).rollback(lease, name)


def test_a_new_project_has_nothing_to_collect(world: World) -> None:
    assert collect(world.workspace, keep=1) == gc.Collected()


def test_vectors_that_chunks_refer_to_stay_and_others_go(world: World) -> None:
    edit(world, 3)
    assert store(world).count() == 5
    assert collect(world.workspace, keep=10).vectors == 2
    assert store(world).count() == 3
    sent = len(world.embedder.texts)
    world.write("alpha", "copy.md", "version 2")
    world.run()
    assert len(world.embedder.texts) == sent, "what stayed is used again"
    world.write("alpha", "copy.md", "version 0")
    world.run()
    assert world.embedder.texts[sent:] == ["version 0"], "what went is computed again"


def test_vectors_of_chunks_that_are_not_embedded_yet_stay(world: World) -> None:
    edit(world, 2)
    (alpha,) = world.partitions("alpha")
    world.write("alpha", "a.md", "version 0")
    world.documents(alpha)
    world.chunks(alpha)
    assert collect(world.workspace, keep=10).vectors == 0
    sent = len(world.embedder.texts)
    world.embeddings(alpha)
    assert len(world.embedder.texts) == sent


def test_old_releases_go_and_the_kept_ones_can_be_read_and_searched(world: World) -> None:
    edit(world, 5)
    kept = {name: world.release(name).to_arrow() for name in ("release-4", "release-5")}
    collected = collect(world.workspace, keep=2)
    assert (collected.releases, collected.manifests) == (3, 3)
    assert releases(world) == ["release-4", "release-5"]
    with pytest.raises(NoRelease):
        world.release("release-3")
    for name, rows in kept.items():
        assert world.release(name).to_arrow().equals(rows)
        for mode in ("hybrid", "vector", "text"):
            hits = world.release(name).search("version", world.embedder.embed_query, mode=mode, k=1)
            assert [hit.connection for hit in hits] == ["alpha"]
    for record in Releases(world.storage).all():
        for key in record.partitions:
            assert Releases(world.storage).manifest(record, key).num_rows <= 1
    assert all(finding.passed for finding in world.chain.verify())


def test_versions_before_the_oldest_kept_release_are_freed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(world, 4)
    first, last = (Releases(world.storage).get(name).version for name in ("release-1", "release-4"))
    monkeypatch.setattr(gc, "MARGIN", timedelta(seconds=0.2))
    collect(world.workspace, keep=1)
    versions = [each["version"] for each in world.storage.index_location.open(TABLE).list_versions()]
    assert first < min(versions) <= last


def test_the_release_that_a_rollback_pinned_stays(world: World) -> None:
    edit(world, 4)
    first = world.release("release-1").to_arrow()
    rollback(world, "release-1")
    collect(world.workspace, keep=1)
    assert releases(world) == ["release-1", "release-4"]
    assert world.release().to_arrow().equals(first)
    assert world.release().search("version", world.embedder.embed_query, k=1)[0].text == "version 0"


def test_publication_goes_on_after_collection(world: World) -> None:
    edit(world, 3)
    collect(world.workspace, keep=1)
    world.write("alpha", "a.md", "after")
    result = world.run()
    assert result.release is not None
    assert result.release.name == "release-4", "numbers are not given twice"
    assert "after" in {row["text"] for row in world.rows()}
    assert not world.run().published


def test_collection_over_a_change_of_dimension_keeps_the_old_release_readable(world: World) -> None:
    world.run()
    before = world.release().to_arrow()
    world.embedder = CountingEmbedder(WordEmbedder("another model", 8))
    world.run()
    collected = collect(world.workspace, keep=2)
    assert collected.vectors == 0, "the texts are still there, so are both models' vectors"
    assert world.release("release-1").to_arrow().equals(before)
    collect(world.workspace, keep=1)
    assert len(world.rows()) == before.num_rows


def test_what_gone_processes_had_staged_goes_and_what_lives_stays(world: World) -> None:
    world.run()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    staging = world.storage.staging
    mine = aside_path(staging, "alpha")
    dead = mine.with_name(mine.name.replace(f"~{os.getpid()}~", f"~{gone.pid}~"))
    elsewhere = dead.with_name(dead.name.replace(f"~{platform.node()}~", "~another-machine~"))
    for path in (mine, dead, elsewhere):
        path.touch()
    assert collect(world.workspace, keep=1).staged_files == 1
    assert set(staging.iterdir()) == {mine, elsewhere}


def test_a_publication_that_did_not_come_about_leaves_nothing_behind(world: World) -> None:
    world.run()
    table = world.storage.index_location.open(TABLE)
    table.tags.create("release-9", table.version)
    records = Path(world.storage.files.uri(f"{KNOWLEDGE_BASE}/releases"))
    shutil.copy(records / "release-1.json", records / "release-7.json")
    assert releases(world) == ["release-1"], "neither a record nor a tag alone is a release"
    collect(world.workspace, keep=1)
    tags = world.storage.index_location.open(TABLE).tags.list()
    assert {name for name in tags if not is_candidate_tag(name)} == {"release-1", "current"}
    assert [path.name for path in records.iterdir()] == ["release-1.json"]


def test_a_candidate_that_waits_is_kept_with_its_manifests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(world, 2)
    rollback(world, "release-1")
    world.write("alpha", "a.md", "after")
    assert not world.run().published
    monkeypatch.setattr(gc, "MARGIN", timedelta(seconds=0.2))
    collect(world.workspace, keep=1)
    candidate = Candidates(world.storage).last()
    assert candidate is not None
    assert Index.at(world.storage, candidate.model.dimension, candidate.version).rows == 3
    for entry in candidate.partitions.values():
        assert Releases(world.storage).manifest_of(entry.documents).num_rows == entry.chunks
    Releases(world.storage).unpin()
    assert world.publish().published
    assert "after" in {row["text"] for row in world.rows()}


def test_a_partition_that_is_being_embedded_is_not_collected_under_its_writer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(world, 2)
    monkeypatch.setattr(gc, "LEASE_WAIT", 0.0)
    with (
        world.workspace.ledger.leases.acquire("local_directory/embeddings/alpha", "a run"),
        pytest.raises(LeaseHeld, match="a run"),
    ):
        collect(world.workspace, keep=10)
    assert store(world).count() == 4
