"""What a person sees of an asset in the UI beside its runs: numbers, places, owners, code and its version, freshness."""

from __future__ import annotations

import inspect
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kb_pipeline.defs.metadata import code_reference
from kb_pipeline.ingestion import documents
from kb_pipeline_tests.defs.conftest import Project

FOLDER = "{name: handbook, type: local_directory, path: ./docs}"


def node(project: Project, asset: str) -> Any:
    return project.definitions.resolve_asset_graph().get(dg.AssetKey(asset.split("/")))


def code_versions(project: Project, more: str) -> dict[str, str | None]:
    project.configure(FOLDER, more=more)
    return {stage: node(project, f"local_directory/{stage}").code_version for stage in ("documents", "chunks", "embeddings")}


def test_each_partition_shows_its_rows_and_where_they_lie(project: Project) -> None:
    project.folders(2)
    project.write("c1/more.md", "# More\n")
    assert project.run("local_directory/documents", "local_directory/chunks", between=("c0", "c1")).success
    for asset, rows in (("documents", [1, 2]), ("chunks", [1, 2])):
        seen = [project.metadata(f"local_directory/{asset}", name) for name in ("c0", "c1")]
        assert [each["dagster/partition_row_count"] for each in seen] == rows
        uri = (project.root / f".kb/local_directory/{asset}").as_uri()
        assert all(each["dagster/uri"].startswith(uri) for each in seen)
        assert node(project, f"local_directory/{asset}").metadata["dagster/uri"] == uri
        assert "| note.md |" in seen[0]["preview"]


def test_the_inventory_shows_its_rows_and_changes_its_version_with_the_listing_alone(project: Project) -> None:
    def listed() -> tuple[int, str]:
        assert project.run("local_directory/inventory").success
        event = project.event("local_directory/inventory")
        assert event is not None
        assert event.tags is not None
        rows = event.metadata["dagster/row_count"].value
        assert isinstance(rows, int)
        return rows, event.tags["dagster/data_version"]

    first = listed()
    assert first[0] == 3
    assert listed() == first
    project.write("docs/rain.md", "# Rain\n")
    assert listed() != first


def observations(project: Project) -> list[dict[str, Any]]:
    found = project.instance.fetch_observations(dg.AssetKey(["local_directory", "inventory"]), limit=10).records
    return [
        {name: value.value for name, value in record.asset_observation.metadata.items()}
        for record in found
        if record.asset_observation is not None
    ]


def test_a_listing_that_documents_made_is_an_observation_of_the_inventory(project: Project) -> None:
    assert project.run("local_directory/documents", partition="handbook").success
    [seen] = observations(project)
    assert (seen["connection"], seen["listed"]) == ("handbook", 3)
    tags = {"kb/orchestration": "mine"}
    assert project.run("local_directory/inventory", tags=tags).success
    assert project.run("local_directory/documents", partition="handbook", tags=tags).success
    assert len(observations(project)) == 1, "that listing is one the inventory itself made"


def test_owners_are_those_of_the_settings(project: Project) -> None:
    project.configure(FOLDER, more='owners: ["team:search", ada@example.org]')
    graph = project.definitions.resolve_asset_graph()
    assert {tuple(graph.get(key).owners) for key in graph.get_all_asset_keys()} == {("team:search", "ada@example.org")}
    project.configure(FOLDER)
    assert list(node(project, "local_directory/documents").owners) == []


@pytest.mark.parametrize(
    ("more", "changed"),
    [
        ("limits: {parse_seconds: 5}", {"documents"}),
        ("chunking: {tokens: 64}", {"chunks"}),
        ("chunking: {by_media_type: {text/csv: {tokens: 64}}}", {"chunks"}),
        ("model: {name: another-model}", {"chunks", "embeddings"}),
        ("model: {dtype: float16}", {"embeddings"}),
        ("sensors: {interval_seconds: 30}", set()),
    ],
)
def test_a_code_version_changes_with_what_decides_the_result(project: Project, more: str, changed: set[str]) -> None:
    before = code_versions(project, "")
    assert all(before.values())
    after = code_versions(project, more)
    assert {stage for stage in before if before[stage] != after[stage]} == changed


def test_a_code_version_changes_with_the_parsers(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_versions(project, "")
    monkeypatch.setattr("kb_pipeline.parsing.registry.PARSERS_VERSION", "new")
    monkeypatch.setattr("kb_pipeline.chunking.chunker.CHUNKER_VERSION", "new")
    after = code_versions(project, "")
    assert {stage for stage in before if before[stage] != after[stage]} == {"documents", "chunks"}


def test_a_reference_leads_to_the_line_of_the_function() -> None:
    found = code_reference("kb_pipeline.ingestion.documents:prepare")
    assert found is not None
    assert (found.file_path, found.line_number) == (
        str(Path(documents.__file__)),
        inspect.getsourcelines(documents.prepare)[1],
    )
    assert code_reference("no_such_package.module:name") is None


def test_every_asset_leads_to_its_code(project: Project) -> None:
    graph = project.definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        references = graph.get(key).metadata["dagster/code_references"].code_references
        assert references, key
        for each in references:
            name = each.label.rpartition(".")[2]
            line = Path(each.file_path).read_text().splitlines()[each.line_number - 1]
            assert line.startswith((f"def {name}", f"class {name}")), (key, line)


def test_the_knowledge_base_has_a_freshness_policy(project: Project) -> None:
    project.configure(FOLDER, more="freshness: {hours: 12}")
    policy = node(project, "corpus/knowledge_base").freshness_policy
    assert (policy.fail_window.to_timedelta(), policy.warn_window.to_timedelta()) == (
        timedelta(hours=12),
        timedelta(hours=8),
    )
