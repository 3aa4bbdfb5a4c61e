"""Old runs go, and nothing goes with them that a person looks at. Real runs on an instance of its own, on disk."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from kb_pipeline.defs import history
from kb_pipeline.defs.history import Dropped, prune
from kb_pipeline.orchestrator import Options, Orchestrator, Report
from kb_pipeline.settings.load import load
from kb_pipeline_tests.defs.conftest import Project, failure_sentence

HANDBOOK = "{name: handbook, type: local_directory, path: ./docs}"
STAGES = ("documents", "chunks", "embeddings")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Like that of `kb run`: SQLite files, one a run, and no capture of the process's own output."""
    (tmp_path / "home").mkdir()
    logs = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
    with dg.DagsterInstance.local_temp(str(tmp_path / "home"), overrides={"compute_logs": logs}) as opened:
        yield opened


@pytest.fixture
def handbook(tmp_path: Path, instance: dg.DagsterInstance) -> Project:
    """One folder with one file; one run stays, and four materializations."""
    made = Project(tmp_path / "project", instance)
    made.write("docs/tide.md", "# Tide\n\nA float rises and falls.\n")
    return keeping(made, 1, 4)


def keeping(project: Project, runs: int, materializations: int) -> Project:
    return project.configure(HANDBOOK, more=f"history: {{keep_runs: {runs}, keep_materializations: {materializations}}}")


def orchestrate(project: Project) -> Report:
    orchestrator = Orchestrator(load(project.config), project.instance, resources={"embedder": project.embedder})
    return orchestrator.run(Options(connections=["handbook"], max_concurrent_sources=1))


def publish(project: Project) -> None:
    orchestrator = Orchestrator(load(project.config), project.instance, resources={"embedder": project.embedder})
    assert orchestrator.release(Options()).errors == []


def runs(project: Project) -> list[dg.DagsterRun]:
    return list(project.instance.get_runs())


def files(tmp_path: Path) -> set[str]:
    return {path.name.partition(".db")[0] for path in (tmp_path / "home/history/runs").glob("*.db*")} - {"index", ""}


def rows(tmp_path: Path, query: str, *values: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(tmp_path / "home/history/runs/index.db")) as index:
        return index.execute(query, values).fetchall()


def shown(project: Project) -> dict[str, object]:
    """What the UI says of assets, their partitions and checks."""
    instance = project.instance
    graph = project.definitions.resolve_asset_graph()
    found: dict[str, object] = {}
    for key in graph.get_all_asset_keys():
        event = instance.get_latest_materialization_event(key)
        found[key.to_user_string()] = (event, instance.get_materialized_partitions(key))
        if event is not None:
            assert instance.get_run_by_id(event.run_id) is not None, "the link to its run leads somewhere"
        partitions = graph.get(key).partitions_def
        if partitions is not None:
            keys = partitions.get_partition_keys(dynamic_partitions_store=instance)
            found[f"{key.to_user_string()} by partition"] = instance.get_status_by_partition(key, keys, partitions)
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(graph.asset_check_keys))
    found["checks"] = {key: (record.run_id, record.status) for key, record in checks.items()}
    return found


def test_the_newest_runs_stay_and_the_points_of_others(handbook: Project, tmp_path: Path) -> None:
    keeping(handbook, 3, 6)
    seen: set[str] = set()
    for number in range(12):
        handbook.write("docs/tide.md", f"# Tide\n\nA float rose {number} times.\n")
        report = orchestrate(handbook)
        assert (report.status, report.totals.embedded) == ("completed", 1)
        seen |= {run.run_id for run in runs(handbook)}
    assert len(seen) == 12 * 4, "every run was there once"
    followed = {each.run for each in handbook.workspace.ledger.progress.since(0)}
    assert followed == {run.tags["kb/orchestration"] for run in runs(handbook)}, "progress goes with its run"
    left = Counter((run.job_name, run.tags.get("dagster/partition")) for run in runs(handbook))
    assert left == {("inventory", None): 3, ("local_directory_chain", "handbook"): 3, ("corpus_release", None): 3}
    assert files(tmp_path) == {run.run_id for run in runs(handbook)}
    assert prune(handbook.instance, handbook.workspace, 100) == Dropped()

    for stage in STAGES:
        points = handbook.instance.fetch_materializations(dg.AssetKey(["local_directory", stage]), limit=100).records
        assert len(points) == 6, stage
        times = [point.timestamp for point in points]
        assert times == sorted(times, reverse=True)
        assert all(point.asset_materialization and point.asset_materialization.metadata for point in points)
    # Of a run that went, nothing is left but those points; of a point that went, nothing.
    began = "SELECT run_id FROM event_logs WHERE dagster_event_type = 'PIPELINE_START'"
    kinds = rows(tmp_path, f"SELECT DISTINCT dagster_event_type FROM event_logs WHERE run_id NOT IN ({began})")
    assert kinds == [("ASSET_MATERIALIZATION",)]
    assert rows(tmp_path, "SELECT 1 FROM asset_event_tags WHERE event_id NOT IN (SELECT id FROM event_logs)") == []
    assert rows(tmp_path, f"SELECT 1 FROM asset_check_executions WHERE run_id NOT IN ({began})") == []


def test_what_the_ui_says_does_not_change(handbook: Project) -> None:
    keeping(handbook, 1000, 1000)
    orchestrate(handbook)
    orchestrate(handbook)
    good = {run.run_id for run in runs(handbook)[:4]}
    shutil.rmtree(handbook.root / "docs")
    for _ in range(2):
        assert orchestrate(handbook).status == "failed"
    before, count = shown(handbook), len(runs(handbook))
    keeping(handbook, 1, 1)
    dropped = prune(handbook.instance, handbook.workspace, 1000)
    assert dropped.runs == count - len(runs(handbook)) > 5
    assert dropped.materializations > 0
    assert shown(handbook) == before
    left = runs(handbook)
    latest = handbook.instance.get_latest_materialization_event(dg.AssetKey(["local_directory", "documents"]))
    assert latest is not None
    assert latest.run_id in good & {run.run_id for run in left}, "the last good run, though others failed after it"


def test_the_newest_failure_stays(handbook: Project) -> None:
    orchestrate(handbook)
    shutil.move(handbook.root / "docs", handbook.root / "away")
    orchestrate(handbook)
    [failed] = [run for run in runs(handbook) if run.job_name.endswith("_chain") and run.status.value == "FAILURE"]
    shutil.move(handbook.root / "away", handbook.root / "docs")
    for _ in range(2):
        assert orchestrate(handbook).status == "completed"
    assert failed.run_id in {run.run_id for run in runs(handbook)}
    events = handbook.instance.all_logs(failed.run_id)
    assert any(entry.dagster_event and entry.dagster_event.is_step_failure for entry in events), "with its traceback"


def test_runs_of_others_and_unfinished_ones_are_not_touched(handbook: Project, tmp_path: Path) -> None:
    @dg.asset(key=["theirs", "table"])
    def table() -> None: ...

    @dg.op
    def work() -> None: ...

    @dg.job(name="inventory")
    def of_the_same_name() -> None:
        work()

    theirs = dg.Definitions([table], jobs=[dg.define_asset_job("corpus_release", [table])])
    others = [of_the_same_name.execute_in_process(instance=handbook.instance).run_id for _ in range(3)]
    for _ in range(3):
        others.append(theirs.resolve_job_def("corpus_release").execute_in_process(instance=handbook.instance).run_id)
        others.append(dg.materialize([table], instance=handbook.instance).run_id)
    unfinished = [
        handbook.instance.create_run_for_job(
            handbook.definitions.resolve_job_def("corpus_release"), status=status, tags={"kb/trigger": "corpus"}
        ).run_id
        for status in (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTED)
    ]
    for _ in range(2):
        orchestrate(handbook)
    assert set(others) | set(unfinished) <= {run.run_id for run in runs(handbook)}
    assert set(others) <= files(tmp_path)
    assert len(runs(handbook)) < len(others) + len(unfinished) + 2 * 4, "ours were dropped"
    points = handbook.instance.fetch_materializations(dg.AssetKey(["theirs", "table"]), limit=100).records
    assert len(points) == 6


def test_runs_of_a_backfill_stay_until_it_is_over(handbook: Project) -> None:
    backfill = PartitionBackfill(
        "abcdefgh", BulkActionStatus.REQUESTED, from_failure=False, tags={}, backfill_timestamp=time.time()
    )
    handbook.instance.add_backfill(backfill)
    by_hand = handbook.definitions.resolve_implicit_global_asset_job_def()  # the one the UI launches
    for _ in range(3):
        result = by_hand.execute_in_process(
            instance=handbook.instance,
            partition_key="handbook",
            asset_selection=[dg.AssetKey(["local_directory", stage]) for stage in STAGES],
            tags={"dagster/backfill": backfill.backfill_id},
        )
        assert result.success, failure_sentence(result)
    assert prune(handbook.instance, handbook.workspace, 100) == Dropped()
    handbook.instance.update_backfill(backfill._replace(status=BulkActionStatus.COMPLETED_SUCCESS))
    prune(handbook.instance, handbook.workspace, 100)
    assert len(runs(handbook)) == 2, "the newest, and the one that listed: the latest observation of the inventory"


def test_at_most_the_limit_goes_at_a_time(handbook: Project) -> None:
    for _ in range(4):
        publish(handbook)
    assert [prune(handbook.instance, handbook.workspace, 2).runs for _ in range(3)] == [2, 1, 0]


def test_one_process_at_a_time(handbook: Project) -> None:
    for _ in range(2):
        publish(handbook)
    with handbook.workspace.ledger.leases.acquire(history.LEASE, "another process"):
        assert prune(handbook.instance, handbook.workspace, 100) == Dropped()
    assert prune(handbook.instance, handbook.workspace, 100).runs == 1


def said_by_the_daemon(project: Project, instance: dg.DagsterInstance) -> str | None:
    sensor = project.definitions.resolve_sensor_def("run_history")
    with dg.build_sensor_context(instance=instance) as context:
        return sensor.evaluate_tick(context).skip_message


def test_a_storage_of_another_kind_is_left_alone_and_that_is_said(
    handbook: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kb_pipeline.orchestrator._SAID", set())
    sentence = "old runs are kept: the run history lies in InMemoryEventLogStorage, and only Dagster's SQLite storage is"
    with dg.DagsterInstance.ephemeral() as other:
        dropped = prune(other, handbook.workspace, 100)
        assert dropped == Dropped(alone=dropped.alone)
        assert str(said_by_the_daemon(handbook, other)).startswith(sentence)
        elsewhere = Project(handbook.root, other)
        for _ in range(2):
            assert orchestrate(elsewhere).status == "completed"
    assert caplog.text.count(sentence) == 1, "once is enough"


def test_an_untested_version_of_dagster_is_left_alone_and_that_is_said(
    handbook: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        publish(handbook)
    with monkeypatch.context() as patched:
        patched.setattr(history, "TESTED", frozenset({"1.12.0"}))
        assert prune(handbook.instance, handbook.workspace, 100).runs == 0
        sentence = f"old runs are kept: pruning was tested with Dagster 1.12.0, and this is {dg.__version__}"
        assert str(said_by_the_daemon(handbook, handbook.instance)).startswith(sentence)
        assert len(runs(handbook)) == 3
    assert prune(handbook.instance, handbook.workspace, 100).runs == 2


def test_the_installed_version_was_tested() -> None:
    assert dg.__version__ in history.TESTED, "these tests pass with it? then add it"


def test_what_is_cut_short_is_done_by_the_next(handbook: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        publish(handbook)

    def full(self: Path, missing_ok: bool = False) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", full)
        with pytest.raises(OSError, match="No space left"):
            prune(handbook.instance, handbook.workspace, 100)
    assert len(runs(handbook)) == 3
    assert prune(handbook.instance, handbook.workspace, 100).runs == 2
    assert files(tmp_path) == {run.run_id for run in runs(handbook)}


def test_a_failure_to_drop_is_told_and_harms_no_run(
    handbook: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def locked(*_: object) -> Dropped:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(history, "prune", locked)
    assert orchestrate(handbook).status == "completed"
    assert "old runs could not be dropped, the next run tries again: database is locked" in caplog.text


def test_the_daemon_drops_them_too(handbook: Project) -> None:
    for _ in range(3):
        publish(handbook)
    output = [Path(handbook.instance.storage_directory()) / run.run_id / "compute_logs" for run in runs(handbook)]
    for each in output:
        each.mkdir(parents=True)  # as runs have it that Dagster launched
    [sensor] = [each for each in handbook.definitions.get_repository_def().sensor_defs if each.name == "run_history"]
    for expected in ("2 old runs dropped", "no run to drop"):
        with dg.build_sensor_context(instance=handbook.instance) as context:
            data = sensor.evaluate_tick(context)
        assert (data.skip_message, data.run_requests) == (expected, [])
    assert [each.parent.exists() for each in output] == [True, False, False]
