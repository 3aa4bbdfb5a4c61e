"""What a person finds in Dagster's event log: numbers to plot, a preview, columns, and versions that tell change."""

from __future__ import annotations

import dagster as dg
import pyarrow.parquet as pq
import pytest

from kb_pipeline import tables
from kb_pipeline.definitions import build_defs
from kb_pipeline.settings.load import load
from kb_pipeline.storage.partitions import Partition
from kb_pipeline_tests import current
from kb_pipeline_tests.defs.conftest import HashEmbedder, Project

HANDBOOK = Partition("local_directory", "handbook")
COUNTS = ["listed", "indexed", "unchanged", "quarantined", "excluded", "deleted"]


def numbers(metadata: dict[str, object], *names: str) -> list[object]:
    found = [metadata[name] for name in names]
    assert all(type(each) is int for each in found), found
    return found


def test_counts_are_numbers_per_partition(project: Project) -> None:
    project.write("docs/broken.ipynb", "{")
    project.chain("local_directory", "handbook")
    project.chain("local_zip", "archive")
    project.chain("upload", "inbox")

    handbook = project.metadata("local_directory/documents", "handbook")
    assert numbers(handbook, *COUNTS) == [4, 2, 0, 1, 1, 0]
    assert numbers(project.metadata("local_zip/documents", "archive"), *COUNTS) == [2, 2, 0, 0, 0, 0]
    assert numbers(project.metadata("upload/documents", "inbox"), *COUNTS) == [0, 0, 0, 0, 0, 0]
    chunks = numbers(project.metadata("local_directory/chunks", "handbook"), "chunks")
    assert chunks == [current.table(project.workspace.storage, "chunks", HANDBOOK).num_rows]
    assert numbers(project.metadata("local_directory/embeddings", "handbook"), "embedded", "reused") == [*chunks, 0]

    project.write("docs/copy-of-tide.md", (project.root / "docs/tide.md").read_text())
    (project.root / "docs/wind.md").unlink()
    project.chain("local_directory", "handbook")
    assert numbers(project.metadata("local_directory/documents", "handbook"), *COUNTS) == [4, 1, 1, 1, 1, 1]
    assert numbers(project.metadata("local_directory/embeddings", "handbook"), "embedded") == [0]
    assert numbers(project.metadata("local_zip/documents", "archive"), *COUNTS) == [2, 2, 0, 0, 0, 0]


def test_a_run_over_several_partitions_records_the_numbers_of_each(project: Project) -> None:
    names = project.folders(3)
    project.write("c1/second.md", "# Second\n\nOne more in folder 1.\n")
    project.write("c2/broken.ipynb", "{")
    result = project.run(
        "local_directory/documents", "local_directory/chunks", "local_directory/embeddings", between=(names[0], names[-1])
    )
    assert result.success
    counts = [numbers(project.metadata("local_directory/documents", name), *COUNTS) for name in names]
    assert counts == [[1, 1, 0, 0, 0, 0], [2, 2, 0, 0, 0, 0], [2, 1, 0, 1, 0, 0]]
    assert [project.metadata("local_directory/chunks", name)["chunks"] for name in names] == [1, 2, 1]
    assert [project.metadata("local_directory/embeddings", name)["embedded"] for name in names] == [1, 2, 1]
    previews = [project.metadata("local_directory/chunks", name)["preview"] for name in names]
    assert [f"Said in folder {number}" in preview for number, preview in enumerate(previews)] == [True] * 3
    assert "folder 0" not in previews[2]


def test_the_preview_is_a_table_of_at_most_five_rows(project: Project) -> None:
    for number in range(9):
        project.write(f"docs/n{number}.md", f"# A | pipe {number}\n\n{'word ' * 60}\n")
    project.chain("local_directory", "handbook")
    event = project.event("local_directory/documents", "handbook")
    assert event is not None
    preview = event.metadata["preview"]
    assert isinstance(preview, dg.MarkdownMetadataValue)
    header, rule, *rows = str(preview.value).splitlines()
    assert header.startswith("| key | status | title |")
    assert len(rows) == 5
    columns = header.count("|")
    for row in (rule, *rows):
        assert row.count("|") - row.count("\\|") == columns
    chunks = str(project.metadata("local_directory/chunks", "handbook")["preview"])
    assert max(len(cell) for line in chunks.splitlines() for cell in line.split(" | ")) <= 84

    empty = project.run("upload/documents", partition="inbox")
    assert empty.success
    assert len(str(project.metadata("upload/documents", "inbox")["preview"]).splitlines()) == 2


@pytest.mark.parametrize("type_", ["local_directory", "local_zip", "upload"])
def test_columns_are_described(project: Project, type_: str) -> None:
    graph = project.definitions.resolve_asset_graph()
    schemas = {"inventory": tables.LISTING, "documents": tables.DOCUMENTS, "chunks": tables.CHUNKS}
    for asset, schema in schemas.items():
        described = graph.get(dg.AssetKey([type_, asset])).metadata["dagster/column_schema"]
        assert isinstance(described, dg.TableSchema | dg.TableSchemaMetadataValue)
        columns = (described.schema if isinstance(described, dg.TableSchemaMetadataValue) else described).columns
        assert [column.name for column in columns] == schema.names
        assert all(column.description for column in columns)


def test_the_data_version_tells_change(project: Project) -> None:
    def version() -> str:
        assert project.run("local_directory/documents", partition="handbook").success
        found = project.data_version("local_directory/documents", "handbook")
        storage = project.workspace.storage
        path = current.path(storage, "documents", HANDBOOK)
        table = pq.read_metadata(path).metadata
        assert table is not None
        assert found == table[tables.FINGERPRINT].decode() == path.stem
        return found

    first = version()
    assert version() == first
    project.write("docs/tide.md", "# Tide\n\nA radar looks down.\n")
    second = version()
    assert second != first
    project.write("docs/tide.md", "# Tide\n\nA float rises and falls.\n")
    assert version() not in (second,)


def test_the_embedder_can_be_swapped(project: Project) -> None:
    class Constant(HashEmbedder):
        model_id = "f" * 32
        dimension = 4

    project.chain("local_directory", "handbook")
    embedder = Constant()
    definitions = build_defs(load(project.config), resources={"embedder": embedder})
    result = definitions.resolve_job_def("local_directory_chain").execute_in_process(
        instance=project.instance, partition_key="handbook", asset_selection=[dg.AssetKey(["local_directory", "embeddings"])]
    )
    assert result.success
    assert sorted(text.split()[-1] for text in embedder.texts) == ["falls.", "wind."]
    storage = project.workspace.storage
    vectors = tables.values(current.table(storage, "embeddings", HANDBOOK)["vector"])
    assert [len(vector) for vector in vectors] == [4, 4]
    pointer = storage.pointer("embeddings", HANDBOOK)
    assert pointer is not None
    assert pointer.recipe == "f" * 32
