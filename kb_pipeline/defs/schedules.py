"""Schedules: what looks at everything every night, whatever the sensors saw."""

import dagster as dg

from kb_pipeline.defs.jobs import VERIFICATION_JOB, chain_job_name
from kb_pipeline.defs.orchestration import TRIGGER_TAG, breaker_tag
from kb_pipeline.defs.partitions import register, wanted_keys
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.sources.circuit import sentence
from kb_pipeline.storage.partitions import parse_key


def nightly(type_: str, workspace: Workspace) -> dg.ScheduleDefinition:
    """One run a partition of the type, at the time kb.yaml says. The corpus trigger publishes afterwards."""
    schedule = workspace.settings.schedule

    @dg.schedule(
        name=f"{type_}_nightly",
        job_name=chain_job_name(type_),
        cron_schedule=schedule.cron,
        execution_timezone=schedule.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Reconciles every {type_} partition with its source.",
    )
    def reconcile(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        register(context.instance, workspace)
        when = context.scheduled_execution_time.isoformat()
        requests: list[dg.RunRequest] = []
        left_alone: dict[str, str] = {}
        for key in wanted_keys(workspace, type_):
            name = parse_key(type_, key).connection
            if (breaker := workspace.circuit(name).refuses()) is not None:
                left_alone[name] = f"{name}: {sentence(breaker)}"
                continue
            tags = {TRIGGER_TAG: "nightly"} | breaker_tag(workspace, name)
            requests.append(dg.RunRequest(run_key=f"{key}:{when}", partition_key=key, tags=tags))
        for note in left_alone.values():
            context.log.warning(note)
        return requests or dg.SkipReason("; ".join(left_alone.values()) or "there is no partition")

    return reconcile


def nightly_verification(workspace: Workspace) -> dg.ScheduleDefinition:
    """Compares the whole index and the release with their tables. Partitions that change meanwhile are not judged."""
    schedule = workspace.settings.schedule

    @dg.schedule(
        name="corpus_nightly",
        job_name=VERIFICATION_JOB,
        cron_schedule=schedule.cron,
        execution_timezone=schedule.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Compares the whole index and the current release with their tables.",
    )
    def verification(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        when = context.scheduled_execution_time.isoformat()
        return dg.RunRequest(run_key=when, tags={TRIGGER_TAG: "nightly"})

    return verification
