"""Verification sees what no run looks at any more, judges nothing that is under way, and can be told to mend."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from kb_pipeline.findings import Finding
from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import KNOWLEDGE_BASE
from kb_pipeline_tests import current
from kb_pipeline_tests.acceptance.world import World, orchestration
from kb_pipeline_tests.damage import double, rewrite


def verdicts(world: World) -> list[bool]:
    """Of the release, its manifests and the head."""
    return [finding.passed for finding in world.chain.verify()]


def heal(world: World) -> list[Finding]:
    """What ``kb verify --heal`` has the release's run do."""
    return world.publish(everything=True).findings


def lose_a_data_file(world: World) -> None:
    folder = Path(world.storage.index_location.uri) / f"{TABLE}.lance" / "data"
    max(folder.iterdir(), key=lambda path: path.stat().st_size).unlink()


def test_an_unchanged_run_compares_nothing_and_verification_everything(world: World) -> None:
    world.run()
    again = world.publish()
    assert (again.index.compared, again.index.skipped) == (0, 4)
    for finding in (world.chain.verify()[0], world.chain.verify()[2]):
        assert finding.metrics == {"partitions_compared": 4, "partitions_behind": 0}


def test_only_what_changed_is_compared(world: World) -> None:
    world.run()
    world.write("alpha", "a.md", "deserts wait")
    result = world.run()
    assert (result.index.compared, result.index.skipped) == (1, 3)
    assert result.findings[0].metrics["partitions_compared"] == 1


def forge(table: pa.Table) -> pa.Table:
    """The rows with another text and hash."""
    for name in ("text", "row_hash"):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [["forged"] * table.num_rows])
    return table


def test_a_damaged_table_that_no_run_looks_at_is_found(world: World) -> None:
    world.run()
    rewrite(current.path(world.storage, "chunks", Partition("local_directory", "alpha")), forge)
    assert world.publish().faults == [], "nothing says that it changed"
    release, _, head = world.chain.verify()
    for finding in (release, head):
        assert not finding.passed
        assert "alpha: 0 rows missing, 1 differ, 0 too many" in finding.sentence


def test_a_table_with_another_number_of_rows_is_found(world: World) -> None:
    world.run()
    double(world.storage.local, "alpha")
    release, _, head = world.chain.verify()
    assert (release.passed, head.passed) == (False, False)
    assert "alpha: its table has 2 rows, 1 recorded" in release.sentence


def test_a_lost_file_of_the_index_is_found_and_healed(world: World) -> None:
    world.run()
    rows = world.rows()
    lose_a_data_file(world)
    release, manifests, head = world.chain.verify()
    assert (release.passed, manifests.passed, head.passed) == (False, True, False)
    assert "the head of the index can't be read: " in head.sentence
    assert all(finding.passed for finding in heal(world))
    assert verdicts(world) == [True, True, True]
    assert world.release().record.name == "release-2"
    assert world.rows() == rows


@pytest.mark.parametrize("damage", ["gone", "unreadable", "other rows"])
def test_a_damaged_manifest_is_found_and_healed(world: World, damage: str) -> None:
    record = world.run().release
    assert record is not None
    entry = record.partitions["local_directory/alpha"]
    path = Path(world.storage.files.uri(f"{KNOWLEDGE_BASE}/manifests/{entry.documents}.parquet"))
    if damage == "gone":
        path.unlink()
    elif damage == "unreadable":
        path.write_bytes(b"PAR1 no longer")
    else:
        rewrite(path, lambda table: table.slice(0, 0))
    _, finding, _ = world.chain.verify()
    assert not finding.passed
    assert "local_directory/alpha: it" in finding.sentence
    heal(world)
    assert verdicts(world) == [True, True, True]
    assert Releases(world.storage).manifest(record, "local_directory/alpha").num_rows == 1


def test_what_is_newer_than_the_release_is_not_judged(world: World) -> None:
    world.run()
    world.write("alpha", "a.md", "deserts wait")
    for partition in world.partitions("alpha"):
        world.ingest(partition)
    release, _, head = world.chain.verify()
    assert (release.passed, head.passed) == (True, True)
    assert head.metrics == {"partitions_compared": 3, "partitions_behind": 1}


def test_an_index_that_is_being_updated_is_not_judged(world: World) -> None:
    world.run()
    with world.workspace.ledger.leases.acquire("corpus/knowledge_base", "a run"):
        world.storage.index_location.open(TABLE).delete("connection = 'alpha'")  # on its way to something else
        _, _, head = world.chain.verify()
    assert head.passed
    assert "was not looked at" in head.sentence
    assert verdicts(world) == [True, True, False]


def test_a_candidate_that_waits_at_its_checks_is_verified_at_the_head(world: World) -> None:
    world.run()
    world.write("alpha", "a.md", "deserts wait")
    for partition in world.partitions("alpha"):
        world.ingest(partition)
    world.chain.index(orchestration(), world.kb_model)
    assert verdicts(world) == [True, True, True]
    world.storage.index_location.open(TABLE).delete("connection = 'beta'")
    assert verdicts(world) == [True, True, False]


def test_before_the_first_release_there_is_nothing_to_verify(world: World) -> None:
    assert verdicts(world) == [True]
