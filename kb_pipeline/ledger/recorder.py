"""Recording progress in the ledger, without holding up the work."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from kb_pipeline.ledger.errors import LedgerUnavailable
from kb_pipeline.ledger.progress import ProgressEvents
from kb_pipeline.monitoring.progress import ProgressEvent

INTERVAL = 0.5
"""Seconds between two events of one stage of a partition."""
_logger = logging.getLogger(__name__)


_AT_THE_END: weakref.WeakSet[_Noted] = weakref.WeakSet()
"""What is written when the process ends. Not when a ``RecordedProgress`` is thrown away: garbage is collected anywhere, in
the middle of a transaction too, and that thread would wait for itself. The thread that writes keeps what is still noted."""


@atexit.register
def _write_the_rest() -> None:
    for each in list(_AT_THE_END):
        each.flush()


class RecordedProgress:
    """Progress that whoever has the ledger can follow.

    An update only notes the newest counts; a thread writes them every ``interval`` seconds, all in one transaction. What
    is still noted when the process ends is written then. A ledger that can't be written costs the events, never the work.
    """

    def __init__(self, events: Callable[[], ProgressEvents], *, interval: float = INTERVAL) -> None:
        self._noted = _Noted(events, interval)
        _AT_THE_END.add(self._noted)

    def update(self, run: str, partition: str, stage: str, done: int, total: int | None, size: int | None = None) -> None:
        """Note how far a stage is."""
        self._noted.add(ProgressEvent(run, partition, stage, done, total, size, time.time()))

    def flush(self) -> None:
        """Write what is noted, now."""
        self._noted.flush()


class _Noted:
    def __init__(self, events: Callable[[], ProgressEvents], interval: float) -> None:
        self._events = events
        self._interval = interval
        self._lock = threading.Lock()
        self._newest: dict[tuple[str, str, str], ProgressEvent] = {}
        self._thread: threading.Thread | None = None
        self._writing = threading.Lock()  # or two writers could put a stage's events in the wrong order
        self._told = False

    def add(self, event: ProgressEvent) -> None:
        with self._lock:
            self._newest[event.run, event.partition, event.stage] = event
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_now_and_then, name="progress", daemon=True)
                self._thread.start()

    def _write_now_and_then(self) -> None:
        """Until nothing is noted for a while: a process that waits for work has no thread that wakes it."""
        pause = threading.Event()
        while True:
            pause.wait(self._interval)
            self.flush()
            with self._lock:
                if not self._newest:
                    self._thread = None
                    return

    def flush(self) -> None:
        with self._writing:
            with self._lock:
                events, self._newest = list(self._newest.values()), {}
            if not events:
                return
            try:
                self._events().record(events)
            except (SQLAlchemyError, LedgerUnavailable, OSError) as error:
                if not self._told:
                    _logger.warning("progress can't be recorded: %s", getattr(error, "orig", None) or error)
                self._told = True
