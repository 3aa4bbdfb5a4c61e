"""Schedules: what looks at everything every night, whatever the sensors saw."""

import dagster as dg

from kb_pipeline.defs.jobs import VERIFICATION_JOB, chain_job_name
from kb_pipeline.defs.orchestration import TRIGGER_TAG
from kb_pipeline.defs.partitions import register, wanted_keys
from kb_pipeline.ingestion.workspace import Workspace


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
    def reconcile(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        register(context.instance, workspace)
        when = context.scheduled_execution_time.isoformat()
        return [
            dg.RunRequest(run_key=f"{key}:{when}", partition_key=key, tags={TRIGGER_TAG: "nightly"})
            for key in wanted_keys(workspace, type_)
        ]

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
