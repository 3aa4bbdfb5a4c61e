"""The blocking checks: each finds a row that was lost behind its back, and what fails one goes no further."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kb_pipeline.ingestion import checks, listing
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests import current
from kb_pipeline_tests.defs.conftest import Project, failure_sentence

HANDBOOK = Partition("local_directory", "handbook")


def check(asset: str, name: str) -> dg.AssetSelection:
    return dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(asset.split("/")), name))


def lose_a_row(path: Path, key: str) -> None:
    """Rewrite a Parquet table without one row; its annotations stay, so that nothing else looks different."""
    table = pq.read_table(path)
    annotations = pq.read_metadata(path).metadata or {}
    kept = [row for row in range(table.num_rows) if table["key"][row].as_py() != key]
    assert len(kept) == table.num_rows - 1
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table.take(kept))
        writer.add_key_value_metadata({k.decode(): v.decode() for k, v in annotations.items() if k != b"ARROW:schema"})


def test_conservation_finds_a_lost_manifest_row(project: Project) -> None:
    project.chain("local_directory", "handbook")
    alone = check("local_directory/documents", "conservation")
    assert project.execute(alone, partition="handbook").get_asset_check_evaluations()[0].passed

    lose_a_row(current.path(project.workspace.storage, "documents", HANDBOOK), "wind.md")
    evaluation = project.execute(alone, partition="handbook").get_asset_check_evaluations()[0]
    assert not evaluation.passed
    assert evaluation.blocking
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert "handbook: 1 listed items have no row" in str(evaluation.description)
    assert evaluation.metadata["examples"].value == ["wind.md"]
    assert evaluation.partition == "handbook"

    project.write("docs/another.md", "# Another\n")  # changes the listing: documents are made anew, and heal
    assert project.run("local_directory/documents", partition="handbook").success


def test_documents_without_chunks_are_found(project: Project) -> None:
    project.chain("local_directory", "handbook")
    lose_a_row(current.path(project.workspace.storage, "chunks", HANDBOOK), "tide.md")
    result = project.execute(check("local_directory/chunks", "every_document_chunked"), partition="handbook")
    evaluation = result.get_asset_check_evaluations()[0]
    assert not evaluation.passed
    assert "1 documents with text have no chunks" in str(evaluation.description)


@pytest.mark.parametrize("damage", ["a row lost", "a row twice"])
def test_the_nightly_verification_finds_a_damaged_index(project: Project, damage: str) -> None:
    project.chain("local_directory", "handbook")
    project.publish()
    alone = check("corpus/knowledge_base", "nothing_drifted")
    assert project.execute(alone).get_asset_check_evaluations()[0].passed

    table = lancedb.connect(str(project.root / ".kb/corpus/knowledge_base/index")).open_table("chunks")
    row = table.search().where("key = 'tide.md'").limit(1).to_arrow()
    if damage == "a row lost":
        table.delete("key = 'tide.md'")
    else:
        table.add(row.select(table.schema.names))
    result = project.execute(alone)
    evaluation = result.get_asset_check_evaluations()[0]
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert "handbook: " in str(evaluation.description)
    assert evaluation.metadata["examples"].value == row["chunk_id"].to_pylist()
    assert not result.success, "a failed blocking check must fail the run that a person looks at"

    project.publish()
    assert project.execute(alone).get_asset_check_evaluations()[0].passed


@pytest.fixture
def unfair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listings that hold an item which no manifest has: what a bug in `documents` would look like to its check."""
    original = listing.read

    def read(storage: Storage, partition: Partition) -> tuple[listing.ListingInfo, pa.Table]:
        info, rows = original(storage, partition)
        ghost = rows.slice(0, 1).set_column(0, "key", pa.array(["ghost.md"]))
        return info, pa.concat_tables([rows, ghost.cast(rows.schema)])

    class Listing:
        """Stands in for the module in ``checks`` alone: the stage itself reads the true listing."""

    Listing.read = staticmethod(read)  # type: ignore[attr-defined]
    monkeypatch.setattr(checks, "listing", Listing)


@pytest.mark.usefixtures("unfair")
def test_a_failing_blocking_check_stops_what_comes_after(project: Project) -> None:
    result = project.run(
        "local_directory/documents", "local_directory/chunks", "local_directory/embeddings", partition="handbook"
    )
    assert not result.success
    assert "ghost.md" in str(result.get_asset_check_evaluations()[0].metadata["examples"].value)
    assert "conservation" in failure_sentence(result) or "listed items have no row" in failure_sentence(result)
    assert project.event("local_directory/documents", "handbook") is not None
    assert project.event("local_directory/chunks", "handbook") is None
    assert project.workspace.storage.pointer("chunks", HANDBOOK) is None
