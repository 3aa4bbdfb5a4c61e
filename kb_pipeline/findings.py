"""Findings: what a check or an audit has to say, before anyone knows of Dagster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. ``examples`` names up to ten offenders; ``sentence`` is for a reader."""

    passed: bool
    sentence: str
    examples: tuple[str, ...] = ()
