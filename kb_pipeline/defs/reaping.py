"""Runs whose process is gone: how they are recognised. Needed because Dagster watches only the runs it launched."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from kb_pipeline.defs.orchestration import PROCESS_TAG
from kb_pipeline.ledger.processes import process_alive

_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def dead_runs(instance: dg.DagsterInstance) -> Iterator[dg.DagsterRun]:
    """Unfinished runs that some process of this machine executed and that process is no more."""
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        process = _process(instance, run)
        if process is not None and not process_alive(*process):
            yield run


def _process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[int, float | None] | None:
    """(pid, start time) of the process that executes a run: from our tag, or from Dagster's own engine events."""
    tagged = run.tags.get(PROCESS_TAG)
    if tagged is not None:
        pid, started = tagged.split(":")
        return int(pid), float(started)
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        metadata = event.engine_event_data.metadata if event is not None else {}
        if "pid" in metadata:
            return int(str(metadata["pid"].value)), None
    return None
