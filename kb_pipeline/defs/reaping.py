"""Runs whose process is gone: how they are recognised. Needed because Dagster watches only the runs it launched."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from kb_pipeline.defs.orchestration import PROCESS_TAG, UNDER_WAY
from kb_pipeline.ledger.processes import Holder, process_alive

_BEGUN = [each for each in UNDER_WAY if each is not dg.DagsterRunStatus.QUEUED]
"""A run that waits in the queue has no process yet."""


def process_tag() -> str:
    """The value of ``PROCESS_TAG`` for runs that this process executes."""
    process = Holder.this_process("")
    return f"{process.host}:{process.pid}:{process.started}"


def dead_runs(instance: dg.DagsterInstance, *, others: bool) -> Iterator[dg.DagsterRun]:
    """Unfinished runs that some process of this machine executed and that process is no more.

    ``others``: also runs that kb didn't tag. Dagster notes their processes without the machine, so that is right only in an
    instance that no other machine works on.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=_BEGUN)):
        tagged = run.tags.get(PROCESS_TAG)
        if tagged is not None:
            host, pid, started = tagged.rsplit(":", 2)
            if Holder(host, int(pid), float(started), "").dead:
                yield run
        elif others and (process := _process(instance, run)) is not None and not process_alive(process):
            yield run


def _process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int | None:
    """Pid of the process that executes a run, from Dagster's own engine events."""
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        metadata = event.engine_event_data.metadata if event is not None else {}
        if "pid" in metadata:
            return int(str(metadata["pid"].value))
    return None
