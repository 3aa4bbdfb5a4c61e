"""The section ``errors`` of kb.yaml: what is done about trouble with a connection, by the class of the error.

What belongs here: keys, defaults, bounds, and what follows from them alone. What doesn't: doing it (``sources.resilient``,
``flow.breaker``, ``parsing``, ``embedding``), telling of which class an error is (``flow.errors``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kb_pipeline.flow.breaker import Policy
from kb_pipeline.flow.kinds import ErrorClass

Then = Literal["skip", "fail"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Strategy(_Section):
    """What is done about errors of one class; null takes the default of the class."""

    retries: int | None = Field(default=None, ge=0, description="Tries after the first.")
    then: Then | None = Field(
        default=None, description="What becomes of an item after the last try: skip it, or fail its connection."
    )
    breaker: bool | None = Field(default=None, description="Whether such failures open the connection's circuit breaker.")


class Resolved(BaseModel):
    """A strategy with nothing left open."""

    model_config = ConfigDict(frozen=True)

    retries: int
    then: Then
    breaker: bool


DEFAULTS: Mapping[ErrorClass, Resolved] = {
    ErrorClass.AUTHENTICATION: Resolved(retries=0, then="fail", breaker=True),
    ErrorClass.PERMISSION: Resolved(retries=0, then="skip", breaker=False),
    # As often as errors.max_wait_seconds allows: whoever asks for patience gets it.
    ErrorClass.RATE_LIMITING: Resolved(retries=1000, then="skip", breaker=True),
    ErrorClass.NETWORK: Resolved(retries=4, then="skip", breaker=True),
    ErrorClass.NOT_FOUND: Resolved(retries=0, then="skip", breaker=False),
    ErrorClass.DATA_CORRUPTION: Resolved(retries=0, then="skip", breaker=False),
    ErrorClass.RESOURCE_EXHAUSTION: Resolved(retries=4, then="fail", breaker=False),
    ErrorClass.CONFLICT: Resolved(retries=2, then="skip", breaker=False),
    ErrorClass.SOURCE: Resolved(retries=0, then="skip", breaker=False),
    ErrorClass.INTERNAL: Resolved(retries=0, then="fail", breaker=False),
}


class CircuitBreaker(_Section):
    """When a connection is left alone, and for how long."""

    failures: int = Field(default=5, ge=1, description="Failures in a row after which a connection is left alone.")
    cooldown_seconds: float = Field(
        default=30.0, gt=0, allow_inf_nan=False, description="Seconds until it is tried again; doubled after each such try."
    )
    max_cooldown_seconds: float = Field(default=600.0, gt=0, allow_inf_nan=False, description="The most these grow to.")


class ErrorHandling(_Section):
    """What is done about trouble with a connection."""

    timeout_seconds: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="Seconds without a sign of life from a source."
    )
    max_wait_seconds: float = Field(
        default=300.0, ge=0, allow_inf_nan=False, description="Seconds that a connection may bring nothing before it fails."
    )
    backoff_seconds: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="The most the first wait takes; doubled with every try."
    )
    max_backoff_seconds: float = Field(default=60.0, gt=0, allow_inf_nan=False, description="The most a wait grows to.")
    strategies: Mapping[ErrorClass, Strategy] = Field(default={}, description="What is done, by class of error.")
    breaker: CircuitBreaker = Field(default_factory=CircuitBreaker, description="When a connection is left alone.")

    def of(self, kind: ErrorClass) -> Resolved:
        """What is done about errors of a class."""
        given = self.strategies.get(kind)
        return DEFAULTS[kind] if given is None else DEFAULTS[kind].model_copy(update=given.model_dump(exclude_none=True))

    @property
    def policy(self) -> Policy:
        """When a breaker opens and for how long. A probe may take as long as any call, and a little more."""
        breaker = self.breaker
        return Policy(
            breaker.failures, breaker.cooldown_seconds, breaker.max_cooldown_seconds, self.timeout_seconds + _PROBE_GRACE
        )


_PROBE_GRACE = 10.0
"""Seconds."""
