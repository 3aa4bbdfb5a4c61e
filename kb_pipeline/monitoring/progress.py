"""Progress: real counts from the work, for whoever shows them.

What belongs here: the contract between those who work and those who record or show it. What doesn't: recording
(``ledger.recorder``), any display.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far a stage of a partition was at a moment.

    ``run``        what the work belongs to: an orchestration of `kb run`, a backfill, or a Dagster run by itself
    ``partition``  a partition key; of a listing the connection's name, of a release "release"
    ``stage``      ``listing``, a stage of the chain, ``release``
    ``done``       units that are finished, of ``total``; None while it isn't known (during a listing)
    ``bytes``      that were read from the source so far; None where nobody counts them
    ``at``         seconds since the epoch
    ``id``         grows from event to event; 0 of one that isn't recorded yet
    """

    run: str
    partition: str
    stage: str
    done: int
    total: int | None
    bytes: int | None
    at: float
    id: int = 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.total is not None and self.done >= self.total


class OnProgress(Protocol):
    """How a stage tells: ``done`` of ``total`` units, and bytes read so far where they are counted."""

    def __call__(self, done: int, total: int, size: int | None = None) -> None: ...


class Progress(Protocol):
    """Receives counts. Called from worker threads; implementations must be thread-safe and cheap."""

    def update(self, run: str, partition: str, stage: str, done: int, total: int | None, size: int | None = None) -> None:
        """The fields of a ProgressEvent; ``size`` is its ``bytes``."""
        ...

    def flush(self) -> None:
        """Return when what was told can be seen by others."""
        ...


class Silent:
    """Shows nothing."""

    def update(self, run: str, partition: str, stage: str, done: int, total: int | None, size: int | None = None) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""
