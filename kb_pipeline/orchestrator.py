"""One orchestration over many sources, through Dagster runs: listing, ingestion, completion.

What belongs here: which runs are launched in which order, and the report over all of them. Used by the command line;
what a run does is in ``defs``.

Each connection goes its own way, several at a time: it is listed, then its partitions run in this process, one after the
other; the embedding model is loaded once for all. Nobody waits for anybody: a connection that fails doesn't stop the others,
one that can only wait for its source lends them its turn, and what the others brought is published while it waits.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

import dagster as dg

from kb_pipeline import stages
from kb_pipeline.dagster_home import is_own
from kb_pipeline.definitions import build_defs
from kb_pipeline.defs import history
from kb_pipeline.defs.jobs import CORPUS_JOB, INVENTORY_JOB, chain_job_name
from kb_pipeline.defs.orchestration import (
    COMPARE_TAG,
    CONNECTIONS_TAG,
    EVERYTHING,
    ORCHESTRATION_TAG,
    PROCESS_TAG,
    USER_TAG,
    blocks,
    breaker_tag,
    told_by,
)
from kb_pipeline.defs.partitions import register
from kb_pipeline.defs.reaping import dead_runs, process_tag
from kb_pipeline.flow.errors import ErrorClass, classify, innermost
from kb_pipeline.flow.turns import Stopped, Turns
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ingestion.report import stored_counts
from kb_pipeline.ingestion.work import Orchestration
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.ledger.recorder import RecordedProgress
from kb_pipeline.monitoring.progress import Progress
from kb_pipeline.settings.model import Settings
from kb_pipeline.sources.circuit import BreakerOpen
from kb_pipeline.stages import Stage
from kb_pipeline.storage.partitions import Partition

MAX_CONCURRENT_LISTINGS = 8
"""Connections listed at a time: mostly they wait for answers."""
_LISTING, _INGESTING = "listing", "ingesting"
_logger = logging.getLogger(__name__)

_SAID: set[str] = set()
"""Sentences about the instance that this process has said: once is enough."""

OverallStatus = Literal["completed", "completed_with_issues", "failed", "cancelled"]


@dataclass(slots=True)
class SourceCounts:
    """COUNTS of a report. ``stale``: the listing or a later step failed, so these are the last known counts."""

    listed: int = 0
    indexed: int = 0
    unchanged: int = 0
    quarantined: int = 0
    excluded: int = 0
    deleted: int = 0
    chunks: int = 0
    embedded: int = 0
    reused: int = 0
    stale: bool = False

    def add(self, metadata: Mapping[str, Any]) -> None:
        """Add numbers by name; other names are ignored."""
        for name in _NUMBERS:
            if name in metadata:
                setattr(self, name, getattr(self, name) + int(metadata[name]))


_NUMBERS = [name for name in SourceCounts.__dataclass_fields__ if name != "stale"]


@dataclass(frozen=True, slots=True)
class SourceFault:
    """Why a connection, or the release, failed. ``source`` is a connection's name or "release"."""

    source: str
    error_class: str
    message: str


@dataclass(frozen=True, slots=True)
class RunWarning:
    """What a person should know although nothing failed. ``source`` as of a fault."""

    source: str
    message: str


@dataclass(slots=True)
class Report:
    """What ``kb run`` reports."""

    orchestration_id: str
    status: OverallStatus = "completed"
    seconds: float = 0.0
    release: str | None = None
    sources: dict[str, SourceCounts] = field(default_factory=dict)
    errors: list[SourceFault] = field(default_factory=list)
    warnings: list[RunWarning] = field(default_factory=list)

    @property
    def totals(self) -> SourceCounts:
        """Sums over the connections."""
        total = SourceCounts()
        for counts in self.sources.values():
            total.add(asdict(counts))
            total.stale = total.stale or counts.stale
        return total

    def as_dict(self) -> dict[str, Any]:
        """The report as its JSON contract says."""
        return {
            "orchestration_id": self.orchestration_id,
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "release": self.release,
            "sources": {name: asdict(counts) for name, counts in sorted(self.sources.items())},
            "totals": asdict(self.totals),
            "errors": [{"source": each.source, "class": each.error_class, "message": each.message} for each in self.errors],
            "warnings": [asdict(each) for each in self.warnings],
        }


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may be told. ``connections`` are names; None means all. ``log_level`` is that of Dagster's console."""

    connections: Sequence[str] | None = None
    user_id: str | None = None
    max_concurrent_sources: int | None = None
    log_level: str = "CRITICAL"


class Orchestrator:
    """Runs orchestrations of one kb.yaml on one Dagster instance."""

    def __init__(
        self,
        settings: Settings,
        instance: dg.DagsterInstance,
        progress: Progress | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        self._turns = Turns()
        self._workspace = Workspace(settings, self._turns)
        # What is recorded is shown by whoever follows the ledger: this process's own display, `kb watch`, or nobody.
        self._progress = progress or RecordedProgress(lambda: self._workspace.ledger.progress)
        self._chain = Chain(self._workspace, self._progress)
        self._instance = instance
        # The very chain that lists: what it knows of a connection, the runs know as well.
        self._definitions = build_defs(
            settings, progress=self._progress, resources={"chain": self._chain, **(resources or {})}
        )
        self._embedding = threading.Lock()

    def cancel(self) -> None:
        """Start nothing more and wait for no source; what runs finishes its step."""
        self._turns.stop()

    def run(self, options: Options, orchestration: str | None = None) -> Report:
        """One whole orchestration, by an id given or by a new one. Its progress can be followed in the ledger by that id.

        Never raises for the failure of a connection: the report says it.
        """
        started = time.time()
        report = Report(orchestration or uuid.uuid4().hex)
        reap_dead_runs(self._instance, others=is_own(self._workspace.settings))
        register(self._instance, self._workspace)
        names = [
            config.name
            for config in self._workspace.connections
            if options.connections is None or config.name in options.connections
        ]
        for name in names:
            self._workspace.ledger.retirements.revive(name)
        workers = options.max_concurrent_sources or self._workspace.settings.limits.max_concurrent_sources
        self._turns.limit({_LISTING: MAX_CONCURRENT_LISTINGS, _INGESTING: workers})
        self._ingest_all(names, report, options)
        self._record_inventory(report, options, names)
        if not self._turns.stopped:
            self._release(report, options)
        self._progress.flush()
        # Twice what an orchestration makes: the work stays in proportion, and an older history shrinks.
        self._drop_old_runs(4 * (1 + sum(len(self._workspace.partitions(name)) for name in names)))
        current = Releases(self._workspace.storage).current()
        report.release = current.name if current else None
        report.seconds = time.time() - started
        report.status = self._status(report)
        return report

    def materialize(
        self, partition: Partition, asset: str, options: Options, orchestration: str | None = None
    ) -> SourceFault | None:
        """One asset of one partition; None when it succeeded."""
        register(self._instance, self._workspace)
        selection = [dg.AssetKey([partition.type, asset])]
        tags = self._tags(orchestration or uuid.uuid4().hex, options) | breaker_tag(self._workspace, partition.connection)
        job = chain_job_name(partition.type)
        _, fault = self._execute(partition.connection, job, tags, options, partition.key, selection)
        self._progress.flush()
        return fault

    def materialize_corpus(self, asset: str, options: Options, orchestration: str | None = None) -> SourceFault | None:
        """``index``, with its checks, or ``knowledge_base`` alone; None when it succeeded."""
        tags = self._tags(orchestration or uuid.uuid4().hex, options)
        _, fault = self._execute("release", CORPUS_JOB, tags, options, selection=[dg.AssetKey(["corpus", asset])])
        self._progress.flush()
        return fault

    def release(self, options: Options, orchestration: str | None = None, *, everything: bool = False) -> Report:
        """Only the last phase: bring the index in step, check it, publish. ``everything``: compare the whole index."""
        report = Report(orchestration or uuid.uuid4().hex)
        self._release(report, options, everything=everything)
        self._progress.flush()
        current = Releases(self._workspace.storage).current()
        report.release = current.name if current else None
        report.status = "failed" if report.errors else "completed"
        return report

    def _ingest_all(self, names: Sequence[str], report: Report, options: Options) -> None:
        """Every connection; a release as soon as all who are left can only wait for their sources."""
        unfinished = set(names)

        def ingest(name: str) -> None:
            try:
                counts, faults = self._ingest(name, report.orchestration_id, options)
                report.sources[name] = counts
                report.errors.extend(faults)
            finally:
                unfinished.discard(name)
                self._turns.notify()

        with ThreadPoolExecutor(max_workers=max(1, len(names)), thread_name_prefix="kb-source") as executor:
            futures = [executor.submit(ingest, name) for name in names]
            released = len(names)

            def due(waiting: frozenset[str]) -> bool:
                return not unfinished or (len(unfinished) < released and unfinished <= waiting)

            while True:
                self._turns.until(due)
                released = len(unfinished)
                if not released or self._turns.stopped:
                    break
                # What goes wrong with it is told by the release at the end.
                self._release(Report(report.orchestration_id), options)
            for future in futures:
                future.result()

    def _record_inventory(self, report: Report, options: Options, names: Sequence[str]) -> None:
        """What was listed, as Dagster's assets show it. Lists nothing: every listing was made, or failed, before."""
        tags = self._tags(report.orchestration_id, options) | {CONNECTIONS_TAG: ",".join(sorted(names))}
        self._execute("discovery", INVENTORY_JOB, tags, options)

    def _ingest(self, name: str, orchestration: str, options: Options) -> tuple[SourceCounts, list[SourceFault]]:
        """One connection: listed, then partition by partition."""
        counts = SourceCounts()
        faults: list[tuple[str, SourceFault]] = []
        partitions = self._workspace.partitions(name)
        try:
            with self._turns.taken(name, _LISTING):
                left_alone = self._list(name, orchestration)
            with self._turns.taken(name, _INGESTING):
                for partition in partitions:
                    fault = self._ingest_partition(partition, orchestration, options, counts, left_alone)
                    if fault is not None:
                        faults.append((partition.key, fault))
        except Stopped:  # while it waited for its source, or for its turn: nothing was begun
            for partition in partitions:
                self._count_stored(counts, partition)
        return counts, _merged(faults, len(partitions))

    def _list(self, name: str, orchestration: str) -> SourceFault | None:
        """List a connection; a fault when it is being left alone. Other trouble is met again, and told, by its runs."""
        try:
            self._chain.take_listing(name, Orchestration(orchestration, time.time(), f"kb run {orchestration[:8]}"))
        except BreakerOpen as error:
            return SourceFault(name, classify(error).value, str(error))
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told with the run of the documents
            _logger.debug("%s can't be listed: %s", name, innermost(error))
        return None

    def _ingest_partition(
        self,
        partition: Partition,
        orchestration: str,
        options: Options,
        counts: SourceCounts,
        left_alone: SourceFault | None,
    ) -> SourceFault | None:
        """Bring one partition up to date and add up what came of it; what went wrong."""
        if self._turns.stopped:
            self._count_stored(counts, partition)
            return None
        made, fault = self._make(partition, orchestration, options, left_alone)
        for stage in stages.STAGES:
            counts.add({key: value for key, value in made.get(stage.name, {}).items() if key in stage.counts})
        self._add_last_known(counts, partition, items=stages.first().name not in made, chunks="chunks" not in made)
        counts.stale = counts.stale or fault is not None
        return fault

    def _make(
        self, partition: Partition, orchestration: str, options: Options, left_alone: SourceFault | None
    ) -> tuple[dict[str, dict[str, Any]], SourceFault | None]:
        """Bring one partition up to date; returns the metadata of each asset made, and what went wrong.

        Two runs: several connections may fetch and parse at a time, but only one embeds. A run of this process that
        waited for the `gpu` pool would not sleep but spin (Dagster's in-process executor), and starve the one that works.
        """
        made: dict[str, dict[str, Any]] = {}
        first = left_alone
        groups = stages.groups() if left_alone is None else self._without_source(stages.groups(), partition)
        while groups:
            group = groups.pop(0)
            with self._embedding if any(stage.pool == stages.GPU_POOL for stage in group) else nullcontext():
                result, fault = self._execute(
                    partition.connection,
                    chain_job_name(partition.type),
                    self._tags(orchestration, options) | breaker_tag(self._workspace, partition.connection),
                    options,
                    partition.key,
                    [dg.AssetKey([partition.type, stage.name]) for stage in group],
                )
            for event in result.get_asset_materialization_events() if result is not None else ():
                if event.asset_key is not None:
                    metadata = event.materialization.metadata
                    made[event.asset_key.path[-1]] = {key: value.value for key, value in metadata.items()}
            first = first or fault
            if fault is not None:
                unreachable = stages.first() in group and stages.first().name not in made
                groups = self._without_source([group, *groups], partition) if unreachable else []
        return made, first

    def _without_source(self, groups: Sequence[tuple[Stage, ...]], partition: Partition) -> list[tuple[Stage, ...]]:
        """What remains to be done for a partition whose source can't be reached.

        What is stored of it must follow the settings all the same: otherwise a new model's release would wait for it, and
        one dead connection would hold up all the others.
        """
        source = stages.first()
        if self._workspace.storage.pointer(source.name, partition) is None:
            return []
        rest = (tuple(stage for stage in group if stage != source) for group in groups)
        return [group for group in rest if group]

    def _count_stored(self, counts: SourceCounts, partition: Partition) -> None:
        """Of a partition that was not even looked at: what is known of it."""
        counts.stale = True
        self._add_last_known(counts, partition, items=True, chunks=True)

    def _add_last_known(self, counts: SourceCounts, partition: Partition, *, items: bool, chunks: bool) -> None:
        """Add what the tables say of a partition, where this run has nothing to say of it."""
        if not (items or chunks):
            return
        stored = stored_counts(self._workspace.storage, (partition,))
        if items:
            counts.add(
                {
                    "listed": stored.listed,
                    "unchanged": stored.indexed,
                    "quarantined": stored.quarantined,
                    "excluded": stored.excluded,
                }
            )
        if chunks:
            counts.chunks += stored.chunks

    def _release(self, report: Report, options: Options, *, everything: bool = False) -> None:
        tags = self._tags(report.orchestration_id, options) | ({COMPARE_TAG: EVERYTHING} if everything else {})
        result, fault = self._execute("release", CORPUS_JOB, tags, options)
        if fault is not None:
            report.errors.append(fault)
        if result is not None:
            report.warnings.extend(RunWarning("release", message) for message in _warnings(result))

    def _drop_old_runs(self, limit: int) -> None:
        try:
            dropped = history.prune(self._instance, self._workspace, limit)
        except Exception as error:  # noqa: BLE001 - what was ingested is none the worse for it
            _logger.warning("old runs could not be dropped, the next run tries again: %s", innermost(error))
        else:
            if dropped.alone is not None and dropped.alone not in _SAID:
                _SAID.add(dropped.alone)
                _logger.warning("%s", dropped.alone)

    def _tags(self, orchestration: str, options: Options) -> dict[str, str]:
        tags = {ORCHESTRATION_TAG: orchestration, PROCESS_TAG: process_tag()}
        return tags | ({USER_TAG: options.user_id} if options.user_id else {})

    def _execute(
        self,
        source: str,
        job: str,
        tags: Mapping[str, str],
        options: Options,
        partition_key: str | None = None,
        selection: Sequence[dg.AssetKey] | None = None,
    ) -> tuple[dg.ExecuteInProcessResult | None, SourceFault | None]:
        """Run a job to its end; the result, and what went wrong. Without a result Dagster could not even keep the run."""
        try:
            result = self._definitions.resolve_job_def(job).execute_in_process(
                run_config={"loggers": {"console": {"config": {"log_level": options.log_level}}}},
                instance=self._instance,
                partition_key=partition_key,
                tags=dict(tags),
                asset_selection=selection,
                raise_on_error=False,
            )
        except Exception as error:  # noqa: BLE001 - Dagster's own storage failed (a full disk): the others may yet succeed
            return None, SourceFault(source, classify(error).value, innermost(error))
        return result, None if result.success else _fault(source, result)

    def _status(self, report: Report) -> OverallStatus:
        if self._turns.stopped:
            return "cancelled"
        failed = {fault.source for fault in report.errors}
        if "release" in failed or (report.sources and failed >= set(report.sources)):
            return "failed"
        return "completed_with_issues" if failed or report.warnings or report.totals.quarantined else "completed"


def _merged(faults: Sequence[tuple[str, SourceFault]], partitions: int) -> list[SourceFault]:
    """Faults of a connection's partitions: each said once, with the partitions it is about where that isn't all of them."""
    keys: dict[SourceFault, list[str]] = {}
    for key, fault in faults:
        keys.setdefault(fault, []).append(key)
    return [
        fault if len(about) == partitions else replace(fault, message=f"{', '.join(about)}: {fault.message}")
        for fault, about in keys.items()
    ]


def _fault(source: str, result: dg.ExecuteInProcessResult) -> SourceFault:
    """The sentence a failed run left behind: of a step's Failure, of a failed check, or of whatever was raised."""
    for event in result.all_node_events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if blocks(evaluation):
                message = f"{evaluation.check_name}: {evaluation.description}"
                return SourceFault(source, ErrorClass.FAILED_CHECK.value, message)
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            told = data.user_failure_data
            if told is not None:
                return SourceFault(source, *told_by(told))
            message = data.error.message if data.error else "a step failed"
            return SourceFault(source, ErrorClass.INTERNAL.value, str(message).strip())
    failed = [event for event in result.all_events if event.is_failure]
    return SourceFault(source, ErrorClass.INTERNAL.value, (failed[-1].message if failed else None) or "the run failed")


def _warnings(result: dg.ExecuteInProcessResult) -> Iterator[str]:
    """What the checks of a run warn of, and which partitions a change of model waits for."""
    for evaluation in result.get_asset_check_evaluations():
        if not evaluation.passed and not blocks(evaluation):
            yield f"{evaluation.check_name}: {evaluation.description}"
    for event in result.get_asset_materialization_events():
        waiting = event.materialization.metadata.get("waiting")
        if waiting is not None and waiting.value:
            partitions = ", ".join(map(str, cast("list[str]", waiting.value)))
            yield f"the model changed; the new release waits for the vectors of {partitions}"


def reap_dead_runs(
    instance: dg.DagsterInstance, say: Callable[[str], None] | None = None, *, others: bool = True
) -> list[str]:
    """Mark runs as failed whose executing process is gone (killed with its machine or its terminal); returns their ids.

    Dagster's own monitoring watches only runs it launched. Without this, such runs stay STARTED and hold pool slots.
    ``others``: also runs of plain Dagster; only in an instance of our own.
    """
    reaped = []
    for run in dead_runs(instance, others=others):
        instance.report_run_failed(run, "The process that executed this run is gone; reaped by a later start.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        reaped.append(run.run_id)
        if say is not None:
            say(f"run {run.run_id[:8]} of {run.job_name} was left behind by a killed process: marked as failed")
    return reaped
