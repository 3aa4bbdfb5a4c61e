"""The circuit breaker of a connection as a state machine: what it is, and what each event makes of it. Pure.

Closed: the connection is asked. After so many failures in a row it opens, and nobody asks until a moment that is set then.
The first to come after that moment takes the probe: half-open, and still nobody else asks. If the probe succeeds, it
closes; if not, it opens for twice as long. Whoever took a probe and never reported is replaced after a while.

What belongs here: states and transitions. What doesn't: where a breaker is kept (the ledger, so that several processes
share one), which errors count, what a refused caller does.

Method: the circuit breaker of M. Nygard, "Release It!" (2007), with the backoff applied to its reset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from kb_pipeline.flow.kinds import Diagnosis

_LONGEST_RETRY_AFTER = 86_400.0
"""Seconds. No source's word keeps us away for longer than a day."""


class State(StrEnum):
    """The states of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Breaker:
    """The circuit breaker of a connection. Times are seconds since the epoch.

    ``opened_at``   when it opened; kept while probes fail
    ``failures``    in a row
    ``probe_at``    when the next probe is due; half-open: when the one under way counts as lost
    ``error_class`` and ``message``   of the last failure
    """

    connection: str
    state: State = State.CLOSED
    opened_at: float | None = None
    failures: int = 0
    probe_at: float | None = None
    error_class: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """When a breaker opens and for how long. Times in seconds.

    ``failures``      in a row that open it
    ``cooldown``      from opening to the first probe; twice as long after each probe that fails
    ``max_cooldown``  at most
    ``probe_seconds`` a probe that hasn't reported by then is lost, and another may be made
    """

    failures: int
    cooldown: float
    max_cooldown: float
    probe_seconds: float


Admission = Literal["asks", "probes", "waits"]
"""What a caller may do: ask; ask as the one probe; or not before ``probe_at``."""


def admit(breaker: Breaker, now: float, policy: Policy) -> tuple[Breaker, Admission]:
    """Whether somebody may ask the connection, and what that makes of the breaker."""
    if breaker.state is State.CLOSED:
        return breaker, "asks"
    if breaker.probe_at is not None and now < breaker.probe_at:
        return breaker, "waits"
    return replace(breaker, state=State.HALF_OPEN, probe_at=now + policy.probe_seconds), "probes"


def failed(
    breaker: Breaker, now: float, policy: Policy, diagnosis: Diagnosis, message: str, *, trip: bool = False
) -> Breaker:
    """After a failure. ``trip``: open it, however many there were: nothing has come of the connection for too long."""
    told = replace(breaker, error_class=diagnosis.kind.value, message=message)
    if breaker.state is State.OPEN:
        return told  # of somebody who asked before it opened: another failure of then, not one more since
    failures = max(breaker.failures + 1, policy.failures if trip else 0)
    told = replace(told, failures=failures)
    if failures < policy.failures:
        return told
    since = breaker.opened_at if breaker.state is State.HALF_OPEN and breaker.opened_at is not None else now
    return replace(
        told, state=State.OPEN, opened_at=since, probe_at=now + _cooldown(failures, policy, diagnosis.retry_after)
    )


def succeeded(breaker: Breaker) -> Breaker:
    """After an answer: the connection lives, whoever asked it and when."""
    return Breaker(breaker.connection)


def _cooldown(failures: int, policy: Policy, retry_after: float | None) -> float:
    """Seconds to the next probe. The source's own word goes before ours."""
    if retry_after is not None:
        return min(max(retry_after, policy.cooldown), _LONGEST_RETRY_AFTER)
    probes = min(max(0, failures - policy.failures), 32)
    return float(min(policy.cooldown * 2**probes, max(policy.max_cooldown, policy.cooldown)))
