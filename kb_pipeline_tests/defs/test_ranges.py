"""Runs over several partitions, as a person launches them: every key on its own, and one dead connection harms no other."""

from __future__ import annotations

import dagster as dg
import pytest

from kb_pipeline import tables
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ledger.errors import LeaseHeld
from kb_pipeline.ledger.leases import Leases
from kb_pipeline.ledger.schema import leases as leases_table
from kb_pipeline.storage.partitions import Partition, parse_key
from kb_pipeline_tests import current
from kb_pipeline_tests.defs.conftest import Project, failure_sentence

CHAIN = ("local_directory/documents", "local_directory/chunks", "local_directory/embeddings")


def keys_of(project: Project, partition: str, asset: str = "documents") -> list[str]:
    table = current.table(project.workspace.storage, asset, parse_key("local_directory", partition))
    return sorted(tables.values(table["key"]))


def test_one_partition_is_materialized_alone(project: Project) -> None:
    names = project.folders(2)
    assert project.run(*CHAIN, partition=names[0]).success
    assert keys_of(project, "c0") == ["note.md"]
    assert project.event("local_directory/embeddings", "c0") is not None
    assert project.event("local_directory/documents", "c1") is None
    assert not (project.root / ".kb/local_directory/documents/c1").exists()


def test_a_dead_connection_in_a_range_is_named_and_the_others_are_right(project: Project) -> None:
    project.folders(4, dead=[1])
    result = project.run("local_directory/documents", between=("c0", "c3"))
    assert not result.success
    sentence = failure_sentence(result)
    assert "local_directory/documents of c1:" in sentence
    assert "Published all the same: c0, c2, c3" in sentence
    for name in ("c0", "c2", "c3"):
        assert keys_of(project, name) == ["note.md"]
        assert project.metadata("local_directory/documents", name)["indexed"] == 1
    assert project.event("local_directory/documents", "c1") is None
    assert not (project.root / ".kb/local_directory/documents/c1").exists()

    versions = {name: project.data_version("local_directory/documents", name) for name in ("c0", "c2")}
    assert project.run("local_directory/documents", partition="c0").success
    assert project.data_version("local_directory/documents", "c0") == versions["c0"] != versions["c2"]


def test_the_rest_of_the_chain_goes_on_without_the_dead_one(project: Project) -> None:
    project.folders(3, dead=[2])
    assert not project.run(*CHAIN, between=("c0", "c2")).success
    result = project.run("local_directory/chunks", "local_directory/embeddings", between=("c0", "c1"))
    assert result.success
    assert [project.metadata("local_directory/embeddings", name)["embedded"] for name in ("c0", "c1")] == [1, 1]


def test_a_range_over_shards_and_a_whole_connection(project: Project) -> None:
    for number in range(8):
        project.write(f"big/n{number}.md", f"# {number}\n\nNumber {number}.\n")
    project.write("small/one.md", "# One\n")
    project.configure(
        "{name: big, type: local_directory, path: ./big, shards: 3}", "{name: small, type: local_directory, path: ./small}"
    )
    registered = list(project.instance.get_dynamic_partitions("kb_local_directory"))
    wanted = ["big.001-of-003", "big.002-of-003", "big.003-of-003", "small"]
    assert [key for key in registered if key != "handbook"] == wanted
    result = project.run(*CHAIN, between=(wanted[0], wanted[-1]))
    assert result.success, failure_sentence(result)
    shards = [keys_of(project, key) for key in wanted[:3]]
    assert sorted(key for shard in shards for key in shard) == [f"n{number}.md" for number in range(8)]
    assert [project.metadata("local_directory/documents", key)["listed"] for key in wanted] == [*map(len, shards), 1]


def test_checks_of_a_range_look_at_its_keys_only(project: Project) -> None:
    project.folders(3)
    assert project.run(*CHAIN, between=("c0", "c2")).success
    # c2 is damaged: a range without it passes, one with it fails and says so.
    storage, damaged = project.workspace.storage, Partition("local_directory", "c2")
    current.damage(storage, "documents", damaged, current.table(storage, "documents", damaged).slice(1))
    conservation = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["local_directory", "documents"]), "conservation"))
    fine = project.execute(conservation, between=("c0", "c1"))
    assert fine.success
    assert fine.get_asset_check_evaluations()[0].passed
    evaluation = project.execute(conservation, between=("c1", "c2")).get_asset_check_evaluations()[0]
    assert not evaluation.passed
    assert "c2" in str(evaluation.description)
    assert "c1" not in str(evaluation.description)


def test_a_check_over_a_gap_names_it(project: Project) -> None:
    project.folders(3, dead=[1])
    conservation = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["local_directory", "documents"]), "conservation"))
    assert not project.run("local_directory/documents", between=("c0", "c2")).success
    gap = project.execute(conservation, between=("c0", "c1")).get_asset_check_evaluations()[0]
    assert not gap.passed
    assert gap.description == "c1: its documents were never materialized"


def test_a_backfill_over_embeddings_is_one_run(project: Project) -> None:
    project.folders(3)
    assert project.run("local_directory/documents", "local_directory/chunks", between=("c0", "c2")).success
    graph = project.definitions.resolve_asset_graph()
    policies = {
        asset: graph.get(dg.AssetKey(["local_directory", asset])).backfill_policy for asset in ("documents", "embeddings")
    }
    assert policies == {"documents": dg.BackfillPolicy.multi_run(1), "embeddings": dg.BackfillPolicy.single_run()}
    result = project.run("local_directory/embeddings", between=("c0", "c2"), tags={"dagster/backfill": "b1"})
    assert result.success
    assert {project.event("local_directory/embeddings", name) is not None for name in ("c0", "c1", "c2")} == {True}
    records = project.instance.fetch_materializations(dg.AssetKey(["local_directory", "embeddings"]), limit=10).records
    assert {record.run_id for record in records} == {result.run_id}
    assert len(records) == 3


def test_a_writer_without_its_lease_publishes_nothing_and_says_so(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.folders(2)
    original = Chain._reporter

    def thief(self: Chain, *about: object) -> object:
        with project.workspace.ledger.database.write() as database:
            mine = leases_table.c.name == "local_directory/documents/c0"
            database.execute(leases_table.update().where(mine).values(token=leases_table.c.token + 1))
        return original(self, *about)  # type: ignore[arg-type]

    monkeypatch.setattr(Chain, "_reporter", thief)
    result = project.run("local_directory/documents", between=("c0", "c1"))
    assert not result.success
    sentence = failure_sentence(result)
    assert "local_directory/documents of c0: the lease" in sentence
    assert "was lost" in sentence
    assert "of c1:" not in sentence
    assert project.workspace.storage.pointer("documents", Partition("local_directory", "c0")) is None
    assert keys_of(project, "c1") == ["note.md"]


def test_a_partition_of_a_range_is_there_for_others_before_the_next_one_is_made(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.folders(3)
    original = Chain.take_listing
    seen: list[tuple[str, list[str], list[str]]] = []

    def look(self: Chain, connection: str, *rest: object) -> object:
        made = [each.key for each in self.workspace.storage.partitions("documents", "local_directory")]
        held = self.workspace.ledger.leases
        free = [name for name in ("c0", "c1", "c2") if _free(held, f"local_directory/documents/{name}")]
        seen.append((connection, made, free))
        return original(self, connection, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Chain, "take_listing", look)
    assert project.run("local_directory/documents", between=("c0", "c2")).success
    assert seen == [("c0", [], ["c1", "c2"]), ("c1", ["c0"], ["c0", "c2"]), ("c2", ["c0", "c1"], ["c0", "c1"])]


def _free(leases: Leases, name: str) -> bool:
    try:
        leases.acquire(name, "a look").release()
    except LeaseHeld:
        return False
    return True


def test_every_partition_of_a_range_has_its_own_numbers_and_one_version(project: Project) -> None:
    project.folders(2)
    project.write("c1/more.md", "# More\n")
    assert project.run(*CHAIN, between=("c0", "c1")).success
    assert [project.metadata("local_directory/documents", name)["listed"] for name in ("c0", "c1")] == [1, 2]
    versions = {project.data_version("local_directory/documents", name) for name in ("c0", "c1")}
    assert len(versions) == 1, "Dagster takes one version for all partitions of a run"
