"""What readers see: whole releases, one after the other, and the one they opened for as long as they like."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from kb_pipeline.ingestion.retirement import retire_connection
from kb_pipeline.knowledge_base import snapshot
from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline.knowledge_base.releases import NoRelease, ReleaseRecord, Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.sources.base import ListingFailed
from kb_pipeline_tests.acceptance.world import CountingEmbedder, WordEmbedder, World


def texts(world: World, release: str = "current") -> list[str]:
    return sorted(row["text"] for row in world.rows(release))


def rollback(world: World, name: str) -> ReleaseRecord:
    with world.workspace.ledger.leases.acquire("corpus/knowledge_base", "a rollback") as lease:
        return Releases(world.storage).rollback(lease, name)


def passes(world: World) -> bool:
    return all(finding.passed for finding in world.chain.verify())


def test_nothing_to_publish_publishes_nothing(world: World) -> None:
    result = world.publish()
    assert (result.published, result.release) == (False, None)
    with pytest.raises(NoRelease, match="kb run"):
        world.release()
    assert passes(world)


def test_an_unchanged_world_is_published_once(world: World) -> None:
    assert world.run().published
    again = world.run()
    assert (again.published, again.index.changed_rows, again.index.removed_rows) == (False, 0, 0)
    assert [record.name for record in Releases(world.storage).all()] == ["release-1"]


def test_an_open_release_is_not_disturbed_by_later_ones(world: World) -> None:
    world.run()
    reader = world.release()
    before = reader.to_arrow()
    world.write("alpha", "a.md", "deserts wait")
    world.delete("beta", "b.txt")
    assert world.run().published
    assert reader.to_arrow().equals(before)
    assert "deserts wait" in texts(world)


def test_tags_of_releases_never_move(world: World) -> None:
    seen: dict[str, tuple[int, pa.Table]] = {}
    for number in range(3):
        world.write("alpha", "a.md", f"version {number}")
        world.run()
        name = f"release-{number + 1}"
        seen[name] = Releases(world.storage).get(name).version, world.release(name).to_arrow()
    rollback(world, "release-1")
    Releases(world.storage).unpin()
    world.run()
    tags = world.storage.index_location.open(TABLE).tags.list()
    for name, (version, rows) in seen.items():
        assert tags[name]["version"] == version
        assert world.release(name).to_arrow().equals(rows)


def test_a_release_keeps_its_manifests(world: World) -> None:
    first = world.run().release
    world.write("alpha", "new.md", "new")
    second = world.run().release
    assert first is not None
    assert second is not None
    releases = Releases(world.storage)
    assert releases.manifest(first, "local_directory/alpha")["key"].to_pylist() == ["a.md"]
    assert releases.manifest(second, "local_directory/alpha")["key"].to_pylist() == ["a.md", "new.md"]


def test_a_rollback_pins_until_it_is_taken_off_and_then_publishes(world: World) -> None:
    world.run()
    first = texts(world)
    world.write("alpha", "a.md", "deserts wait")
    world.run()
    rollback(world, "release-1")
    assert texts(world) == first
    world.write("alpha", "a.md", "islands float")
    result = world.run()
    assert (result.published, Releases(world.storage).pinned()) == (False, "release-1")
    assert texts(world) == first
    assert world.release().record.name == "release-1"
    assert passes(world)
    assert Releases(world.storage).unpin() == "release-1"
    assert texts(world) == first, "until the next run"
    result = world.publish()
    assert (result.published, Releases(world.storage).pinned()) == (True, None)
    assert result.release is not None
    assert result.release.name == "release-3"
    assert "islands float" in texts(world)
    assert passes(world)


def test_a_rollback_to_nowhere_names_the_known_releases_and_pins_nothing(world: World) -> None:
    world.run()
    with pytest.raises(NoRelease, match="release-1"):
        rollback(world, "release-7")
    assert Releases(world.storage).pinned() is None


def test_a_rollback_between_releases_of_equal_rows_names_the_one_it_went_to(world: World) -> None:
    world.run()
    world.write("alpha", "x.png", b"\x89PNG pixels")  # another manifest, the same rows
    world.run()
    assert world.release().record.name == "release-2"
    rollback(world, "release-1")
    assert world.release().record.name == "release-1"


def test_an_empty_knowledge_base_is_a_release_without_rows(folder: Path) -> None:
    world = World(folder, WordEmbedder())
    result = world.run()
    assert result.published
    assert world.rows() == []
    for mode in ("hybrid", "vector", "text"):
        assert world.release().search("anything", world.embedder.embed_query, mode=mode) == []
    assert passes(world)


def test_a_knowledge_base_may_become_empty_and_full_again(world: World) -> None:
    world.run()
    for connection, name in (("alpha", "a.md"), ("beta", "b.txt"), ("gamma", "sub/c.md")):
        world.delete(connection, name)
    world.run()
    assert texts(world) == []
    assert world.release().search("rivers", world.embedder.embed_query) == []
    world.write("alpha", "a.md", "rivers run to the sea")
    world.run()
    assert [hit.text for hit in world.release().search("rivers", world.embedder.embed_query)] == ["rivers run to the sea"]


# ---------------------------------------------------------------------------------------------------- connections


def test_one_dead_connection_blocks_nobody(world: World) -> None:
    world.run()
    world.faults.listings = {"beta": 0}
    with pytest.raises(ListingFailed):
        world.run("beta")
    world.write("alpha", "a.md", "deserts wait")
    assert world.run("alpha", "gamma").published
    assert "deserts wait" in texts(world)
    assert "mountains stand where they are" in texts(world)
    record = world.release().record
    assert record.partitions["local_directory/beta"].chunks == 1
    assert passes(world)


def test_a_partition_caught_between_two_stages_keeps_its_rows(world: World) -> None:
    world.run()
    (alpha,) = world.partitions("alpha")
    world.write("alpha", "a.md", "deserts wait")
    world.documents(alpha)
    world.write("beta", "b.txt", "islands float")
    assert world.run("beta").published
    assert "rivers run to the sea" in texts(world)
    assert "islands float" in texts(world)
    assert passes(world)


def test_a_connection_that_left_the_settings_is_served_until_it_is_retired(world: World) -> None:
    world.run()
    kept = tuple(config for config in world.settings.sources if config.name != "beta")
    world.settings = world.settings.model_copy(update={"sources": kept})
    world.run()
    assert "mountains stand where they are" in texts(world)
    assert passes(world)
    retire_connection(world.workspace, "local_directory", "beta")
    assert world.publish().published
    assert "mountains stand where they are" not in texts(world)
    assert "local_directory/beta" not in world.release().record.partitions
    assert passes(world)


def test_a_retired_connection_that_is_back_in_the_settings_is_published_again(world: World) -> None:
    world.run()
    before = texts(world)
    retire_connection(world.workspace, "local_directory", "beta")
    world.run()
    assert texts(world) == before
    assert passes(world)


@pytest.mark.parametrize("removed", [False, True])
def test_a_partition_that_changes_while_it_is_published_disturbs_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    world.run()
    world.write("alpha", "a.md", "deserts wait")
    (alpha,) = world.partitions("alpha")
    world.ingest(alpha)
    rows = snapshot.rows
    changed = threading.Event()

    def disturbed(storage, partition, dimension):  # type: ignore[no-untyped-def]
        if partition.partition == alpha and not changed.is_set():
            changed.set()
            world.write("alpha", "a.md", "islands float")
            world.ingest(alpha)
            if removed:
                monkeypatch.setattr(type(storage.files), "grace", 0.0)
                assert storage.remove_superseded() >= 3
        return rows(storage, partition, dimension)

    monkeypatch.setattr(snapshot, "rows", disturbed)
    assert world.publish().published
    assert changed.is_set()
    # What it had begun with is whole, and stays for a while: only when that is gone it begins anew.
    assert ("islands float" in texts(world)) is removed
    assert ("deserts wait" in texts(world)) is not removed
    assert passes(world), "a partition that was published since is judged by the next run"
    world.publish()
    assert "islands float" in texts(world)
    assert passes(world)


# ---------------------------------------------------------------------------------------------------- change of shards


def many(world: World) -> None:
    for number in range(6):
        world.write("alpha", f"{number}.md", f"text number {number}")


def test_a_change_of_shards_switches_at_once_and_old_rows_are_served_until_then(world: World) -> None:
    many(world)
    world.run()
    before = texts(world)
    world.reshard("alpha", 3)
    world.write("alpha", "0.md", "edited")
    parts = world.partitions("alpha")
    for partition in parts[:2]:
        world.ingest(partition)
        world.publish()
        assert texts(world) == before
        assert {row["partition"] for row in world.rows() if row["connection"] == "alpha"} == {"alpha"}
        assert passes(world)
    world.ingest(parts[2])
    assert world.publish().published
    assert sorted([*before, "edited"]) == sorted([*texts(world), "text number 0"])
    served = {row["partition"] for row in world.rows() if row["connection"] == "alpha"}
    assert served <= {partition.key for partition in parts}
    assert len(served) > 1
    assert passes(world)
    assert {each.key for each in world.storage.partitions("documents", "local_directory")} == {
        *(partition.key for partition in parts),
        "beta",
    }


@pytest.mark.parametrize("between", [1, 2])
def test_a_change_of_shards_left_unfinished_does_not_disturb_the_next_one(world: World, between: int) -> None:
    many(world)
    world.run()
    before = texts(world)
    world.reshard("alpha", 2)
    world.write("alpha", "0.md", "edited")
    for partition in world.partitions("alpha")[:between]:
        world.ingest(partition)  # and nothing is published
    world.reshard("alpha", 3)
    for partition in world.partitions("alpha"):
        result = world.publish()
        assert result.faults == []
        assert texts(world) == before
        assert passes(world)
        world.ingest(partition)
    world.publish()
    assert "edited" in texts(world)
    assert {each.shards for each in world.storage.partitions("documents") if each.connection == "alpha"} == {3}
    assert passes(world)


def test_a_change_of_shards_under_a_pin_is_published_when_the_pin_goes(world: World) -> None:
    many(world)
    world.run()
    world.write("alpha", "0.md", "edited")
    world.run()
    rollback(world, "release-1")
    for shards in (2, 3):
        world.reshard("alpha", shards)
        world.run()
        assert "edited" not in texts(world)
    Releases(world.storage).unpin()
    world.publish()
    assert "edited" in texts(world)
    assert {row["partition"][-3:] for row in world.rows() if row["connection"] == "alpha"} == {"003"}
    assert passes(world)


# ---------------------------------------------------------------------------------------------------- change of model


@pytest.mark.parametrize("dimension", [16, 8])
def test_a_change_of_model_waits_for_every_partition_and_then_switches_in_one_step(world: World, dimension: int) -> None:
    world.run()
    reader = world.release()
    before = reader.to_arrow()
    old = world.kb_model
    world.embedder = CountingEmbedder(WordEmbedder("another model", dimension))
    waiting = world.partitions()
    while waiting:
        result = world.publish()
        assert not result.published
        assert sorted(result.index.waiting) == sorted(f"{each.type}/{each.key}" for each in waiting)
        assert world.release().record.model_id == old.id
        assert passes(world)
        world.ingest(waiting.pop())
    assert world.publish().published
    assert {row["model_id"] for row in world.rows()} == {world.kb_model.id}
    assert {len(row["vector"]) for row in world.rows()} == {dimension}
    assert world.release().record.dimension == dimension
    assert passes(world)
    assert reader.to_arrow().equals(before), "a reader of the old model's release still sees it"
    found = world.release().search("rivers run to the sea", world.embedder.embed_query, mode="vector", k=1)
    assert [hit.text for hit in found] == ["rivers run to the sea"]


def test_a_change_of_model_back_and_forth_embeds_nothing_again(world: World) -> None:
    world.run()
    first = world.embedder
    second = CountingEmbedder(WordEmbedder("another model", 8))
    world.embedder = second
    world.run()
    world.embedder = first
    count = len(first.texts)
    assert world.run().published
    assert len(first.texts) == count
    assert passes(world)
    assert {row["model_id"] for row in world.rows()} == {first.model_id}


def test_one_can_roll_back_over_a_change_of_dimension(world: World) -> None:
    world.run()
    before = world.release().to_arrow()
    world.embedder = CountingEmbedder(WordEmbedder("another model", 8))
    world.run()
    rollback(world, "release-1")
    assert world.release().to_arrow().equals(before)
    assert Release.open(world.storage.local).record.dimension == 16


def test_a_change_of_model_does_not_wait_for_a_layout_that_was_left_unfinished(world: World) -> None:
    many(world)
    world.run()
    world.reshard("alpha", 2)
    world.ingest(world.partitions("alpha")[0])
    world.reshard("alpha", 1)
    world.embedder = CountingEmbedder(WordEmbedder("another model", 8))
    assert world.run().published
    assert passes(world)
