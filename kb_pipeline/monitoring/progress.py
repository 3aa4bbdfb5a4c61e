"""Progress: real counts from the work, for whoever shows them.

What belongs here: the contract between workers and displays. What doesn't: any display.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives counts. Called from worker threads; implementations must be thread-safe and cheap."""

    def update(self, connection: str, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` units of ``stage`` (listing, documents, chunks, embeddings, release) are finished.

        ``total`` is None while it isn't known (during a listing).
        """
        ...


class Silent:
    """Shows nothing."""

    def update(self, connection: str, stage: str, done: int, total: int | None) -> None:
        """Do nothing."""
