"""What happens to the index or the tables behind our back is found by verification and mended by the next publication."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from kb_pipeline.ingestion import checks
from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline_tests import current
from kb_pipeline_tests.acceptance.world import World


def head(world: World) -> Any:
    return world.storage.index_location.open(TABLE)


def row_of(world: World, connection: str) -> dict[str, Any]:
    (row,) = [row for row in world.rows() if row["connection"] == connection]
    return row


def append(world: World, **changes: Any) -> None:
    """Add a copy of alpha's row with some values changed."""
    table = head(world)
    table.add(pa.Table.from_pylist([{**row_of(world, "alpha"), **changes}], schema=table.schema))


def delete_a_row(world: World) -> None:
    head(world).delete("connection = 'alpha'")


def delete_everything(world: World) -> None:
    head(world).delete("true")


def duplicate_a_row(world: World) -> None:
    append(world)


def change_a_row(world: World) -> None:
    head(world).update(where="connection = 'alpha'", values={"text": "forged", "row_hash": "0" * 32})


def add_a_foreign_row(world: World) -> None:
    append(world, chunk_id="f" * 32, key="foreign.md")


def add_a_row_of_a_foreign_partition(world: World) -> None:
    append(world, chunk_id="f" * 32, partition="alpha.001-of-009")


def add_a_row_of_a_foreign_connection(world: World) -> None:
    append(world, chunk_id="f" * 32, connection="stranger", partition="stranger")


DRIFTS = [
    delete_a_row,
    delete_everything,
    duplicate_a_row,
    change_a_row,
    add_a_foreign_row,
    add_a_row_of_a_foreign_partition,
    add_a_row_of_a_foreign_connection,
]


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_reported_then_healed_and_no_reader_ever_saw_it(world: World, drift: Callable[[World], None]) -> None:
    world.run()
    before = world.release().to_arrow()
    drift(world)
    findings = world.chain.verify()
    assert [finding.passed for finding in findings] == [True, True, False]
    assert findings[2].examples
    assert world.release().to_arrow().equals(before)
    result = world.publish()
    assert result.faults == []
    assert all(finding.passed for finding in world.chain.verify())
    assert world.release().to_arrow().equals(before)
    assert head(world).count_rows() == before.num_rows


def test_drift_is_healed_under_a_new_release(world: World) -> None:
    world.run()
    delete_a_row(world)
    result = world.publish()
    assert (result.published, result.index.changed_rows) == (True, 1)
    assert not world.publish().published


def test_verification_names_the_row_that_is_gone(world: World) -> None:
    world.run()
    chunk = row_of(world, "alpha")["chunk_id"]
    delete_a_row(world)
    _, _, finding = world.chain.verify()
    assert finding.examples == (chunk,)
    assert "alpha: 1 rows missing, 0 differ, 0 too many" in finding.sentence


def test_verification_changes_nothing(world: World) -> None:
    world.run()
    delete_a_row(world)
    version = head(world).version
    world.chain.verify()
    assert head(world).version == version


def test_rows_of_a_partition_that_is_not_ready_are_not_lost_when_they_are_doubled(world: World) -> None:
    world.run()
    duplicate_a_row(world)
    (alpha,) = world.partitions("alpha")
    world.write("alpha", "a.md", "deserts wait")
    world.documents(alpha)  # and no further
    world.write("beta", "b.txt", "islands float")
    world.run("beta")
    assert "rivers run to the sea" in {row["text"] for row in world.rows()}
    world.run()
    assert sorted(row["connection"] for row in world.rows()) == ["alpha", "beta", "gamma"]


def test_conservation_names_a_row_that_was_deleted_from_a_manifest(world: World) -> None:
    world.write("alpha", "lost.md", "lost")
    world.run()
    (alpha,) = world.partitions("alpha")
    assert checks.conservation(world.storage, alpha).passed
    table = current.table(world.storage, "documents", alpha)
    kept = table.filter(pc.not_equal(table["key"], pa.scalar("lost.md")))
    current.damage(world.storage, "documents", alpha, kept)
    finding = checks.conservation(world.storage, alpha)
    assert not finding.passed
    assert finding.examples == ("lost.md",)
    assert "1 listed items have no row" in finding.sentence


def test_conservation_names_a_row_that_no_listing_knows_and_one_that_is_there_twice(world: World) -> None:
    world.run()
    (alpha,) = world.partitions("alpha")
    rows = current.table(world.storage, "documents", alpha)
    forged = pa.Table.from_pylist([{**rows.to_pylist()[0], "key": "forged.md"}], schema=rows.schema)
    current.damage(world.storage, "documents", alpha, pa.concat_tables([rows, rows, forged]))
    finding = checks.conservation(world.storage, alpha)
    assert finding.examples == ("forged.md",)
    assert "1 rows have no listed item, 1 rows are there twice" in finding.sentence


def test_a_document_without_chunks_is_named(world: World) -> None:
    world.write("alpha", "blank.md", "  \n")
    world.run()
    (alpha,) = world.partitions("alpha")
    assert checks.every_document_chunked(world.storage, alpha).passed
    table = current.table(world.storage, "chunks", alpha)
    lost = table["document_hash"][0].as_py()
    current.damage(world.storage, "chunks", alpha, table.slice(0, 0))
    finding = checks.every_document_chunked(world.storage, alpha)
    assert (finding.passed, finding.examples) == (False, (lost,))
