"""A stage is one entry and its function: an invented one is taken in by everything that deals with stages."""

from __future__ import annotations

from dataclasses import fields

import dagster as dg
import pyarrow as pa
import pytest

from kb_pipeline import stages
from kb_pipeline.embedding.vector_store import VectorStore
from kb_pipeline.findings import Finding
from kb_pipeline.ingestion.gc import collect
from kb_pipeline.ingestion.retirement import known_connections, retire_connection
from kb_pipeline.ingestion.work import Prepared, Work
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base import snapshot
from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.orchestrator import Options, Orchestrator, SourceCounts
from kb_pipeline.settings.load import load
from kb_pipeline.stages import Stage
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests import current
from kb_pipeline_tests.defs.conftest import Project, failure_sentence

HANDBOOK = Partition("local_directory", "handbook")
EXTRA_TEXT = "a text that only the invented stage names"
EXTRA_KEY = "e" * 64
SHOUTS = pa.schema([pa.field("chunk_id", pa.string()), pa.field(stages.VECTOR_KEY, pa.string())])
SHOUTED: list[str] = []


def shout(work: Work) -> Prepared:
    """Names every chunk's vector once more, and one that no other stage names."""
    storage, partition = work.workspace.storage, work.partition
    SHOUTED.append(partition.key)
    with storage.require("embeddings", partition) as upstream:
        rows = upstream.read(["chunk_id", "text_sha256"]).to_pylist()
        made_from = upstream.fingerprint
    fingerprint = identity.digest("shouts", made_from)
    with storage.write(partition.key, SHOUTS) as writer:
        for row in [*rows, {"chunk_id": "extra", "text_sha256": EXTRA_KEY}]:
            writer.row(row)
        writer.describe(fingerprint, made_from)
    return Prepared(storage.staged("shouts", partition, writer, {"shouted": len(rows)}))


def volume(workspace: Workspace) -> str:
    """Its code version."""
    return "11"


def loud_enough(storage: Storage, partition: Partition) -> Finding:
    """Every chunk was shouted."""
    with storage.require("shouts", partition) as table:
        return Finding(table.num_rows > 0, f"{partition.key}: {table.num_rows} shouts")


INVENTED = Stage(
    "shouts",
    upstream="embeddings",
    run=f"{__name__}:shout",
    version=f"{__name__}:volume",
    schema=lambda dimension: SHOUTS,
    description="What was said, louder.",
    preview=("chunk_id",),
    check=f"{__name__}:loud_enough",
    pool="{type}",
    group="loud",
)


@pytest.fixture(autouse=True)
def _invented(monkeypatch: pytest.MonkeyPatch) -> None:
    SHOUTED.clear()
    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES, INVENTED))


def orchestrate(project: Project) -> SourceCounts:
    project.at_rest()
    options = Options(connections=["handbook"], max_concurrent_sources=1)
    orchestrator = Orchestrator(load(project.config), project.instance, resources={"embedder": project.embedder})
    report = orchestrator.run(options)
    assert report.errors == []
    assert report.release is not None
    return report.sources["handbook"]


def test_it_is_an_asset_with_its_check_in_the_chain_job(project: Project) -> None:
    graph = project.definitions.resolve_asset_graph()
    node = graph.get(dg.AssetKey(["local_directory", "shouts"]))
    assert node.parent_keys == {dg.AssetKey(["local_directory", "embeddings"])}
    assert node.pools == {"local_directory"}
    assert node.code_version == "11"
    assert node.description == "What was said, louder."
    corpus = graph.get(dg.AssetKey(["corpus", "index"]))
    assert dg.AssetKey(["local_directory", "shouts"]) in corpus.parent_keys
    job = project.definitions.resolve_job_def("local_directory_chain")
    assert dg.AssetKey(["local_directory", "shouts"]) in job.asset_layer.executable_asset_keys
    project.chain("local_directory", "handbook")
    result = project.run("local_directory/shouts", partition="handbook")
    assert result.success, failure_sentence(result)
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed, evaluation.blocking) == ("loud_enough", True, True)
    assert project.metadata("local_directory/shouts", "handbook")["shouted"] == 2


def test_a_whole_run_makes_it_and_publishes(project: Project) -> None:
    counts = orchestrate(project)
    assert (counts.indexed, counts.chunks, counts.embedded) == (2, 2, 2)
    assert SHOUTED == ["handbook"]
    outcome = project.workspace.ledger.outcomes.outcome("local_directory", "handbook")
    assert outcome.last_success is not None
    assert outcome.error is None


def test_a_connection_is_well_only_once_its_last_stage_succeeded(project: Project) -> None:
    project.chain("local_directory", "handbook")
    assert project.workspace.ledger.outcomes.outcome("local_directory", "handbook").last_success is None
    assert project.run("local_directory/shouts", partition="handbook").success
    assert project.workspace.ledger.outcomes.outcome("local_directory", "handbook").last_success is not None


def test_a_partition_is_consistent_only_with_it(project: Project) -> None:
    storage = project.workspace.storage
    project.chain("local_directory", "handbook")
    assert snapshot.state(storage, HANDBOOK) is None
    assert project.run("local_directory/shouts", partition="handbook").success
    made = snapshot.state(storage, HANDBOOK)
    assert made is not None
    assert list(made.pointers) == list(stages.names())
    project.write("docs/tide.md", "# Tide\n\nAnother text.\n")
    project.chain("local_directory", "handbook")
    assert snapshot.state(storage, HANDBOOK) is None, "the invented table was made from the embeddings before"


def test_its_release_is_another_one_when_only_its_table_changed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    orchestrate(project)
    first = Releases(project.workspace.storage).current()
    monkeypatch.setattr(stages, "STAGES", stages.STAGES[:-1])
    orchestrate(project)
    second = Releases(project.workspace.storage).current()
    assert first is not None
    assert second is not None
    assert first.content != second.content


def test_vectors_that_only_it_names_stay(project: Project) -> None:
    orchestrate(project)
    store = VectorStore(project.workspace.storage.vectors_location, project.embedder.model_id, project.embedder.dimension)
    store.append([EXTRA_KEY, "f" * 64], project.embedder.embed([EXTRA_TEXT, "nobody's"]))
    assert collect(project.workspace, keep=5).vectors == 1
    assert store.missing([EXTRA_KEY]) == []


def test_retiring_a_connection_drops_its_table(project: Project) -> None:
    orchestrate(project)
    storage = project.workspace.storage
    path = current.path(storage, "shouts", HANDBOOK)
    assert path.exists()
    project.configure("{name: archive, type: local_zip, path: ./archives/*.zip}")
    with project.workspace.ledger.leases.acquire("t", "a test") as lease:
        for name in stages.names()[:-1]:
            storage.drop(lease, name, HANDBOOK)
    assert known_connections(storage) == [("local_directory", "handbook")]
    assert retire_connection(project.workspace, "local_directory", "handbook") == [HANDBOOK]
    assert not path.exists()
    assert storage.pointer("shouts", HANDBOOK) is None


def test_numbers_that_stages_report_are_numbers_of_the_report() -> None:
    known = {field.name for field in fields(SourceCounts)}
    for stage in stages.STAGES:
        assert set(stage.counts) <= known, stage.name


def test_every_stage_comes_after_what_it_is_made_from() -> None:
    made = {stages.INVENTORY}
    for stage in stages.STAGES:
        assert stage.upstream in made, stage.name
        assert set(stage.preview) <= set(stage.schema(1).names), stage.name
        stages.load(stage.run)
        made.add(stage.name)
