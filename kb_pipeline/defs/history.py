"""Run history: old runs are dropped, so that a folder that changes all day doesn't fill the disk with logs.

A finished run of ours costs about 30 rows and 150 KB for ever: Dagster's SQLite storage gives each run a database of its
own, and drops none. What a person looks at stays: the newest runs of each job and partition, its newest failure, every
run whose event is the latest of an asset partition or of a check (the UI's status and links), and, of the runs that go,
the last materializations with their numbers, which the UI plots.

What belongs here: which runs go, and dropping them. ``DagsterInstance.delete_run`` isn't used: it takes the plotted
materializations along, leaves the run's database file and its check results behind, and opens every such file first.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import dagster as dg

from kb_pipeline.dagster_home import dagster_home, is_own
from kb_pipeline.defs.orchestration import BACKFILL_TAG, PARTITION_TAG, RANGE_TAGS, orchestration_id
from kb_pipeline.defs.runs import OurRuns
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.ledger.errors import LeaseHeld
from kb_pipeline.settings.model import Settings

if TYPE_CHECKING:
    from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

LEASE = "dagster/history"
TESTED = frozenset({"1.13.27"})
"""Dagster's versions whose tables this was tested with. After an upgrade: run the tests of this module, then add it."""
INTERVAL_SECONDS = 600
"""Seconds between two looks of the daemon."""
MAX_RUNS = 200
"""Runs the daemon drops at a time; a few milliseconds each."""
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_BACKFILL_UNDER_WAY = ("REQUESTED", "CANCELING", "FAILING")
_PAGE = 500
"""Run records read at a time."""
_BUSY_SECONDS = 20.0
"""How long to wait for a database that another process writes to; Dagster's own number."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What went: runs, and materializations of runs that were gone already; or why everything was left ``alone``."""

    runs: int = 0
    materializations: int = 0
    alone: str | None = None


def reason_to_leave_alone(instance: dg.DagsterInstance, settings: Settings) -> str | None:
    """Why this instance's history isn't touched, as a sentence; None when it may be.

    Pruning writes into Dagster's own SQLite tables, so they must be kb's own, and ones that it knows.
    """
    if not is_own(settings):
        return (
            f"old runs are kept: the Dagster instance in {dagster_home(settings)} isn't kb's own; delete them in the UI, or "
            "as it is done there"
        )
    from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage  # imports SQLAlchemy: slow

    kind = type(instance.event_log_storage)
    if not issubclass(kind, SqliteEventLogStorage):
        return (
            f"old runs are kept: the run history lies in {kind.__name__}, and only Dagster's SQLite storage is pruned; "
            "set its retention with your database"
        )
    if dg.__version__ not in TESTED:
        known = ", ".join(sorted(TESTED))
        return (
            f"old runs are kept: pruning was tested with Dagster {known}, and this is {dg.__version__}; "
            "delete runs in the UI, or install a tested version"
        )
    return None


def prune(instance: dg.DagsterInstance, workspace: Workspace, limit: int) -> Dropped:
    """Drop runs that ``history`` of kb.yaml no longer keeps, at most ``limit``.

    Does nothing while another process does it, and where ``reason_to_leave_alone`` says why. Raises what the storage raises
    when it can't be written; the next call then goes on from there.
    """
    workspace.ledger.progress.prune()
    alone = reason_to_leave_alone(instance, workspace.settings)
    if alone is not None:
        return Dropped(alone=alone)
    events = cast("SqliteEventLogStorage", instance.event_log_storage)
    try:
        lease = workspace.ledger.leases.acquire(LEASE, "dropping old runs")
    except LeaseHeld:
        return Dropped()
    with lease, closing(sqlite3.connect(events.path_for_shard("index"), timeout=_BUSY_SECONDS)) as index:
        return _Pruning(instance, events, index, workspace).drop(limit)


@dataclass(frozen=True)
class _Pruning:
    instance: dg.DagsterInstance
    events: SqliteEventLogStorage
    index: sqlite3.Connection
    """The database over all runs: asset events, check results, beginnings and ends of runs."""
    workspace: Workspace

    def _staying(self, doomed: set[str]) -> Iterable[dg.DagsterRun]:
        return (run for run in self.instance.get_runs() if run.run_id not in doomed)

    def drop(self, limit: int) -> Dropped:
        dropped = self._doomed(limit)
        if not dropped:
            return Dropped()
        doomed = [run.run_id for run in dropped]
        # An orchestration has several runs: what was recorded of it goes with the last of them.
        going = {orchestration_id(run) for run in dropped}
        self.workspace.ledger.progress.drop(going - {orchestration_id(run) for run in self._staying(set(doomed))})
        with self.index:
            runs = f"run_id IN ({_marks(doomed)})"
            self.index.execute(
                f"DELETE FROM event_logs WHERE {runs} AND dagster_event_type IS NOT 'ASSET_MATERIALIZATION'", doomed
            )
            self.index.execute(f"DELETE FROM asset_check_executions WHERE {runs}", doomed)
            surplus = self._surplus()
            self.index.executemany("DELETE FROM asset_event_tags WHERE event_id = ?", surplus)
            self.index.executemany("DELETE FROM event_logs WHERE id = ?", surplus)
        # The daemon frees only slots of runs that it finds in the storage.
        for run_id in self.events.get_concurrency_run_ids() & set(doomed):
            self.events.free_concurrency_slots_for_run(run_id)
        captured = Path(self.instance.storage_directory())
        for run_id in doomed:
            shard = Path(self.events.path_for_shard(run_id))
            for path in (shard, shard.with_name(f"{shard.name}-wal"), shard.with_name(f"{shard.name}-shm")):
                path.unlink(missing_ok=True)
            output = captured / run_id  # what steps of a run that Dagster launched wrote to stdout and stderr
            if output.exists():
                shutil.rmtree(output)
            # Last, so that a run whose dropping was cut short is found again.
            self.instance.run_storage.delete_run(run_id)
        return Dropped(len(doomed), len(surplus))

    def _doomed(self, limit: int) -> list[dg.DagsterRun]:
        keep = self.workspace.settings.history.keep_runs
        found: list[dg.DagsterRun] = []
        newest: Counter[tuple[str, ...]] = Counter()
        failed: set[tuple[str, ...]] = set()
        for run in self._finished():
            group = (run.job_name, *(run.tags.get(tag, "") for tag in (PARTITION_TAG, *RANGE_TAGS)))
            newest[group] += 1
            newest_failure = run.status == dg.DagsterRunStatus.FAILURE and group not in failed
            if newest_failure:
                failed.add(group)
            if newest[group] <= keep or newest_failure or run.run_id in self._latest or self._in_backfill(run):
                continue
            found.append(run)
            if len(found) == limit:
                break
        return found

    def _finished(self) -> Iterator[dg.DagsterRun]:
        """Finished runs of ours, job by job, newest first. Others may share $DAGSTER_HOME, and have jobs of these names."""
        for job in self._ours.jobs:
            cursor: str | None = None
            while runs := self.instance.get_runs(dg.RunsFilter(job_name=job, statuses=_FINISHED), cursor, _PAGE):
                yield from (run for run in runs if run in self._ours)
                cursor = runs[-1].run_id

    @cached_property
    def _ours(self) -> OurRuns:
        return OurRuns(self.workspace)

    @cached_property
    def _latest(self) -> frozenset[str]:
        """Runs with the latest event of any kind of an asset partition, or the latest result of a check."""
        marks = _marks(self._ours.assets)
        rows = self.index.execute(
            "SELECT run_id FROM event_logs WHERE id IN (SELECT MAX(id) FROM event_logs "
            f"WHERE asset_key IN ({marks}) GROUP BY asset_key, dagster_event_type, partition) "
            "UNION SELECT run_id FROM asset_check_executions WHERE id IN (SELECT MAX(id) FROM asset_check_executions "
            f"WHERE asset_key IN ({marks}) GROUP BY asset_key, check_name, partition, execution_status)",
            [*self._ours.assets, *self._ours.assets],
        )
        return frozenset(run_id for (run_id,) in rows)

    def _in_backfill(self, run: dg.DagsterRun) -> bool:
        id_ = run.tags.get(BACKFILL_TAG)
        backfill = self.instance.get_backfill(id_) if id_ else None
        return backfill is not None and backfill.status.value in _BACKFILL_UNDER_WAY

    def _surplus(self) -> list[tuple[int]]:
        """Row ids of materializations beyond the number to keep, of dropped runs: the index has nothing else of those."""
        return self.index.execute(
            "SELECT id FROM (SELECT id, run_id, ROW_NUMBER() OVER (PARTITION BY asset_key, partition ORDER BY id DESC) "
            "AS nth FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' "
            f"AND asset_key IN ({_marks(self._ours.assets)})) AS point WHERE nth > ? AND run_id != '' AND NOT EXISTS "
            "(SELECT 1 FROM event_logs WHERE run_id = point.run_id AND dagster_event_type IS NOT 'ASSET_MATERIALIZATION')",
            [*self._ours.assets, self.workspace.settings.history.keep_materializations],
        ).fetchall()


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values))


def housekeeping(workspace: Workspace) -> dg.SensorDefinition:
    """Drops old runs while the daemon runs; asks for no run itself."""

    @dg.sensor(
        name="run_history",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Drops runs that `history` of kb.yaml no longer keeps. Starts no run.",
    )
    def drop(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        dropped = prune(context.instance, workspace, MAX_RUNS)
        return dg.SkipReason(dropped.alone or (f"{dropped.runs} old runs dropped" if dropped.runs else "no run to drop"))

    return drop
