"""How much the documents stage may take, and how it accounts for items."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from kb_pipeline.ingestion.plan import Processors
from kb_pipeline.statuses import Status


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one item and all items in flight may take. Bytes; ``workers`` is a number of threads."""

    max_item_bytes: int
    inflight_bytes: int
    workers: int
    parse_seconds: float
    parse_memory_mib: int

    def processors(self) -> Processors:
        """What outcomes depend on; raising a limit makes the next run look again at what it had stopped."""
        limits = f"{self.max_item_bytes}-{self.parse_seconds:g}-{self.parse_memory_mib}"
        from kb_pipeline.parsing.registry import (
            PARSERS_VERSION,  # imports every parser: slow, and many commands parse nothing
        )

        return Processors(good=PARSERS_VERSION, bad=f"{PARSERS_VERSION} {limits}")


@dataclass(slots=True)
class Counts:
    """Law 1: listed = indexed + unchanged + quarantined + excluded. ``deleted`` lies outside the sum."""

    listed: int = 0
    indexed: int = 0
    unchanged: int = 0
    quarantined: int = 0
    excluded: int = 0
    deleted: int = 0

    def add(self, status: Status, number: int = 1, *, fetched: bool) -> None:
        """Put items into exactly one of the four. ``fetched``: they were read in this run."""
        if status is Status.EXCLUDED:
            self.excluded += number
        elif status.quarantined:
            self.quarantined += number
        elif fetched:
            self.indexed += number
        else:
            self.unchanged += number

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)
