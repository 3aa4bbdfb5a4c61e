"""Failed runs, whoever started them: recorded where ``kb status`` reads, and told in one sentence.

An asset records what fails inside it itself. What it can't record is found here: its process was killed or never started,
or a blocking check failed. What belongs here: what a failed run was about, and recording it. What doesn't: telling
somebody, for which there are hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import dagster as dg

from kb_pipeline import stages
from kb_pipeline.defs.jobs import chain_job_name
from kb_pipeline.defs.orchestration import PARTITION_TAG, RANGE_TAGS, blocks, told_by
from kb_pipeline.flow.errors import ErrorClass
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.storage.partitions import Partition, parse_key

INTERVAL_SECONDS = 30
_SAYS_NOTHING = "This run has been marked as failed"
"""How Dagster's message begins for a run whose process it found gone; what it knows stands in the event before."""


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run that failed: what it was about and why.

    ``partitions``: those of a chain's run; empty for a run of the inventory or the corpus. ``stage``: where it failed, as
    far as that is known. ``recorded``: the asset itself recorded it.
    """

    run_id: str
    job: str
    partitions: tuple[Partition, ...]
    stage: str
    error_class: str
    message: str
    recorded: bool

    @property
    def sentence(self) -> str:
        """For a log or a message."""
        about = ", ".join(f"{each.type}/{each.key}" for each in self.partitions) or "no partition"
        return f"run {self.run_id[:8]} of {self.job} ({about}) failed at {self.stage}: {self.message} ({self.error_class})"


Hook = Callable[[FailedRun], None]
"""Called for every failed run, once; for alerts."""


def run_failures(workspace: Workspace, hooks: Sequence[Hook] = ()) -> dg.SensorDefinition:
    """Records failed runs as outcomes of their connections, so that ``kb status`` shows them."""

    @dg.run_failure_sensor(
        name="run_failures",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records why runs failed, for `kb status`. Starts no run.",
    )
    def record(context: dg.RunFailureSensorContext) -> None:
        failed = describe(
            context.instance, workspace, context.dagster_run, context.failure_event.message or "the run failed"
        )
        context.log.error(failed.sentence)
        if not failed.recorded:
            for partition in failed.partitions:
                if not _made_since(context, partition, failed.stage):
                    workspace.record(partition, failed.stage, (failed.error_class, failed.message))
        for hook in hooks:
            hook(failed)

    return record


def describe(instance: dg.DagsterInstance, workspace: Workspace, run: dg.DagsterRun, message: str) -> FailedRun:
    """What a failed run was about, from its events. ``message``: Dagster's own, for a run that left no better one."""
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id) if entry.dagster_event is not None]
    type_ = _type(workspace, run, events)
    partitions = () if type_ is None else tuple(parse_key(type_, key) for key in _keys(instance, run, type_))
    stage, error_class, recorded = _stage_under_way(events, type_, run), ErrorClass.INTERNAL.value, False
    if message.startswith(_SAYS_NOTHING):
        message = _last_words(events) or message
    for event in events:
        if event.is_step_failure and event.step_key is not None:
            data = event.step_failure_data
            told = data.user_failure_data
            stage = _stage_of(event.step_key, type_) or stage
            if told is not None:
                error_class, words = told_by(told)
                message = words or message
                recorded = event.step_key in _stage_steps(type_)
            elif data.error is not None:
                cause = data.error  # "Exceeded max_retries" says nothing
                while cause.cause is not None:
                    cause = cause.cause
                message = cause.message.strip()
            break
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if blocks(evaluation):
                stage, message, recorded = evaluation.asset_key.path[-1], str(evaluation.description), False
    return FailedRun(run.run_id, run.job_name, partitions, stage, error_class, message, recorded)


def _last_words(events: Iterable[dg.DagsterEvent]) -> str | None:
    """What Dagster said of the run's process just before it called the run failed, as when a signal ended it."""
    said = None
    for event in events:
        if event.event_type == dg.DagsterEventType.RUN_FAILURE:
            break
        if event.event_type == dg.DagsterEventType.ENGINE_EVENT:
            said = event.message if event.engine_event_data.error is None else event.engine_event_data.error.message
    else:
        return None
    # Its advice is for people who configure memory and executors elsewhere than here.
    return None if said is None else said.removeprefix("[DagsterApiServer] ").partition(" Possible solutions")[0].strip()


def _type(workspace: Workspace, run: dg.DagsterRun, events: Iterable[dg.DagsterEvent]) -> str | None:
    """The source type whose chain the run was of: by its job, by what was chosen, or by the steps that began."""
    chosen = {key.path[0] for key in run.asset_selection or ()}
    chosen |= {check.asset_key.path[0] for check in run.asset_check_selection or ()}
    steps = {event.step_key for event in events if event.is_step_start and event.step_key is not None}
    for type_ in workspace.types():
        begun = any(_stage_of(step, type_) for step in steps)
        if run.job_name == chain_job_name(type_) or chosen == {type_} or begun:
            return type_
    return None


def _keys(instance: dg.DagsterInstance, run: dg.DagsterRun, type_: str) -> Sequence[str]:
    """The partition keys of a run; none where one of a range's ends was retired since."""
    if PARTITION_TAG in run.tags:
        return [run.tags[PARTITION_TAG]]
    if RANGE_TAGS[0] not in run.tags:
        return []
    first, last = (run.tags[tag] for tag in RANGE_TAGS)
    known = list(instance.get_dynamic_partitions(f"kb_{type_}"))
    return known[known.index(first) : known.index(last) + 1] if first in known and last in known else []


def _stage_steps(type_: str | None) -> dict[str, str]:
    """Dagster's names of the steps that make the stages of a type."""
    return {f"{type_}__{stage.name}": stage.name for stage in stages.STAGES}


def _stage_of(step: str, type_: str | None) -> str | None:
    """The stage that a step makes or checks."""
    found = [name for key, name in _stage_steps(type_).items() if step == key or step.startswith(f"{key}_")]
    return found[0] if found else None


def _stage_under_way(events: Iterable[dg.DagsterEvent], type_: str | None, run: dg.DagsterRun) -> str:
    """The stage that a run which just ended was at: the last step begun, or the first that was planned."""
    began = [event.step_key for event in events if event.is_step_start and event.step_key is not None]
    for step in reversed(began):
        found = _stage_of(step, type_)
        if found is not None:
            return found
    chosen = {key.path[-1] for key in run.asset_selection or ()}
    return next((stage.name for stage in stages.STAGES if not chosen or stage.name in chosen), run.job_name)


def _made_since(context: dg.RunFailureSensorContext, partition: Partition, stage: str) -> bool:
    """Whether the stage of the partition was made after the run failed: then the failure is history."""
    record = context.instance.get_run_record_by_id(context.dagster_run.run_id)
    ended = record.end_time if record is not None else None
    if ended is None:
        return False
    wanted = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey([partition.type, stage]), asset_partitions=[partition.key], after_timestamp=ended
    )
    return bool(context.instance.fetch_materializations(wanted, limit=1).records)
