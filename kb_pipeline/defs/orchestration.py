"""Run tags: which orchestration a run belongs to, and how failures are told to Dagster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg

from kb_pipeline.flow.errors import ErrorClass, diagnose
from kb_pipeline.ingestion.work import Orchestration
from kb_pipeline.ingestion.workspace import Workspace

if TYPE_CHECKING:
    from dagster._core.execution.plan.objects import UserFailureData

ORCHESTRATION_TAG = "kb/orchestration"
CONNECTIONS_TAG = "kb/connections"
USER_TAG = "kb/user"
TRIGGER_TAG = "kb/trigger"
"""What asked for a run of the daemon."""
DISCOVERY = "discovery"
PROCESS_TAG = "kb/process"
"""``machine:pid:start time`` of the process that executes the run itself; lets a later one reap it when it was killed."""

COMPARE_TAG = "kb/compare"
EVERYTHING = "everything"
"""Value of COMPARE_TAG: a run so tagged compares the whole index with its tables, whatever is noted of it."""
BREAKER_TAG = "kb/breaker"
"""State of the connection's circuit breaker when the run was asked for."""

PARTITION_TAG = "dagster/partition"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
BACKFILL_TAG = "dagster/backfill"
"""Dagster's own tags."""
UNDER_WAY = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
"""States of runs that have not ended."""
_RETRIED = frozenset({ErrorClass.NETWORK, ErrorClass.RATE_LIMITING})

RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def of_run(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Orchestration:
    """The orchestration of a run: its tag, its backfill, or the run alone.

    A run alone trusts listings begun after it was created, so that it always sees today's source.
    """
    run = context.run
    record = context.instance.get_run_record_by_id(run.run_id)
    created = record.create_timestamp.timestamp() if record is not None else 0.0
    return Orchestration(orchestration_id(run), created, f"run {run.run_id[:8]} of {run.job_name}")


def orchestration_id(run: dg.DagsterRun) -> str:
    """What a run's work, and its progress in the ledger, belongs to."""
    tags: Mapping[str, str] = run.tags
    return tags.get(ORCHESTRATION_TAG) or tags.get(BACKFILL_TAG) or run.run_id


def breaker_tag(workspace: Workspace, connection: str) -> dict[str, str]:
    """The tag of a run of one connection."""
    return {BREAKER_TAG: workspace.circuit(connection).seen.state.value}


@contextmanager
def told_to_dagster(what: str) -> Iterator[None]:
    """Turn an exception into a Failure whose description is the sentence a person needs.

    Retried only where trying again can help; the exception stays attached as the cause.
    """
    try:
        yield
    except dg.Failure:
        raise
    except Exception as error:
        raise failure(what, error) from error


def blocks(evaluation: dg.AssetCheckEvaluation) -> bool:
    """Whether a check found what must stop a run: a warning is told and stops nothing."""
    error = evaluation.severity == dg.AssetCheckSeverity.ERROR
    return error and bool(evaluation.blocking) and not evaluation.passed


def failure(what: str, error: Exception, facts: Mapping[str, Any] | None = None) -> dg.Failure:
    """A Failure for ``what`` with the class of the error and further facts in its metadata, and the error as its cause."""
    found = diagnose(error)
    kind = found.kind
    sentence = str(error) or type(error).__name__
    if kind is ErrorClass.INTERNAL:
        sentence = f"{type(error).__name__}: {sentence}"
    result = dg.Failure(
        description=f"{what}: {sentence}",
        metadata={"error_class": kind.value, "message": sentence, **(facts or {})},
        allow_retries=kind in _RETRIED and not found.lasting,
    )
    result.__cause__ = error
    return result


def told_by(told: UserFailureData) -> tuple[str, str]:
    """(class, message) of a Failure in a run's events, ``failure``'s own or anybody's; the message may be empty."""
    facts = {name: str(value.value) for name, value in told.metadata.items()}
    return facts.get("error_class", ErrorClass.INTERNAL.value), facts.get("message") or told.description or ""


def combined(failures: Sequence[dg.Failure], advice: str = "") -> dg.Failure:
    """One failure for several partitions. Retried only where every one of them may be."""
    first = failures[0]
    if len(failures) == 1 and not advice:
        return first
    sentences = ". ".join(part for part in ("; ".join(str(each.description) for each in failures), advice) if part)
    result = dg.Failure(
        description=sentences,
        metadata={**first.metadata, "message": sentences},
        allow_retries=all(each.allow_retries for each in failures),
    )
    result.__cause__ = first.__cause__
    return result
