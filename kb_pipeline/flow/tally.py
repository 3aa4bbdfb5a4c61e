"""Counting errors by class and by what was done about them, and how often that helped.

What belongs here: adding up, and handing sums over now and then. What doesn't: where they are kept.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kb_pipeline.flow.kinds import ErrorClass

_SECONDS = 2.0
"""Between two times that sums are handed over, at least: each may be written to a disk."""


class Measure(StrEnum):
    """What can be done about an error."""

    RETRY = "retry"
    DEGRADE = "degrade"
    """Tried again with less at a time."""
    SKIP = "skip"
    """The item was set aside."""
    BREAKER = "breaker"
    """The connection was left alone for a while."""
    FAIL = "fail"
    """The connection failed."""


@dataclass(slots=True)
class Count:
    """How often a measure was taken, and how often it helped."""

    occurred: int = 0
    recovered: int = 0


Key = tuple[ErrorClass, Measure]


class Tally:
    """Counts of one connection. ``write`` is given what came since the last time. Safe between threads."""

    def __init__(self, write: Callable[[Mapping[Key, Count]], None] = lambda counts: None) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._new: dict[Key, Count] = defaultdict(Count)
        self._all: dict[Key, Count] = defaultdict(Count)
        self._written = time.monotonic()

    def add(self, kind: ErrorClass, measure: Measure, occurred: int = 0, recovered: int = 0) -> None:
        """Count. Raises what ``write`` raises."""
        with self._lock:
            for counts in (self._new, self._all):
                counts[kind, measure].occurred += occurred
                counts[kind, measure].recovered += recovered
            due = time.monotonic() - self._written > _SECONDS
        if due:
            self.flush()

    def flush(self) -> None:
        """Hand over what is new."""
        with self._lock:
            new, self._new = dict(self._new), defaultdict(Count)
            self._written = time.monotonic()
        if new:
            self._write(new)

    def sentences(self) -> dict[str, str]:
        """Everything counted so far, for people: "network, retry" -> "7, of which 6 recovered"."""
        with self._lock:
            return {
                f"{kind}, {measure}": f"{count.occurred}, of which {count.recovered} recovered"
                for (kind, measure), count in sorted(self._all.items())
            }
