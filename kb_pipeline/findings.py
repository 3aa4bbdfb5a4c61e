"""Findings: what a check or an audit has to say, before anyone knows of Dagster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """What a finding that didn't pass means: an error stops what comes after it, a warning is told and stops nothing."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    ``examples`` names up to ten offenders; ``sentence`` is for a reader; ``metrics`` are numbers by name, for plots.
    """

    passed: bool
    sentence: str
    examples: tuple[str, ...] = ()
    severity: Severity = Severity.ERROR
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def blocks(self) -> bool:
        """Whether nothing may go on from here."""
        return not self.passed and self.severity is Severity.ERROR
