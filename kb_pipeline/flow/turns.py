"""Turns: how many connections work at a time, and what becomes of the turn of one that can only wait.

A connection that waits for its source (it was throttled, it gets no answer) needs neither processor nor memory to speak
of; were it to keep its turn, one silent server would hold up everybody else. So it lends its turn, and takes one again
when there is an answer to go on with.

What belongs here: turns, waiting so that a stop ends it at once, and who waits. What doesn't: why somebody waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from kb_pipeline.flow.kinds import ErrorClass


class Stopped(Exception):
    """Somebody asked the whole work to stop while this waited."""

    kind = ErrorClass.SOURCE


class Turns:
    """Turns at work of one process. ``limits``: how many at a time, by what they are for; others are not limited.

    Safe between threads. Names are those of connections; each has one turn at most. One that has none may wait as well.
    """

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self._limits = dict(limits or {})
        self._changed = threading.Condition()
        # By name: what the turn is for.
        self._working: dict[str, str] = {}
        self._lent: dict[str, str] = {}
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether the whole work is to stop."""
        return self._stopped

    def limit(self, limits: Mapping[str, int]) -> None:
        """Set how many may work at a time, by what turns are for."""
        with self._changed:
            self._limits = dict(limits)
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting, now and from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def notify(self) -> None:
        """Have those who wait look again at what they wait for."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def taken(self, name: str, purpose: str) -> Iterator[None]:
        """A turn for as long as the context lasts, waited for. Raises Stopped."""
        with self._changed:
            self._take(name, purpose)
        try:
            yield
        finally:
            with self._changed:
                self._working.pop(name, None)
                self._lent.pop(name, None)
                self._changed.notify_all()

    def lend(self, name: str) -> None:
        """Let others work: ``name`` can only wait. Does nothing when it has no turn."""
        with self._changed:
            if name in self._working:
                self._lent[name] = self._working.pop(name)
                self._changed.notify_all()

    def reclaim(self, name: str) -> None:
        """Take the turn back that was lent, waiting for one. Raises Stopped."""
        with self._changed:
            if name in self._lent:
                self._take(name, self._lent[name])
                self._lent.pop(name, None)  # of two threads of one connection, the other may have been first
                self._changed.notify_all()

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Wait so long, or until something holds that whoever makes it hold tells with ``notify``. Raises Stopped."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not until() and (left := deadline - time.monotonic()) > 0:
                self._check()
                self._changed.wait(left)
            self._check()

    def until(self, condition: Callable[[frozenset[str]], bool]) -> None:
        """Wait until something holds of those who lent their turns; whatever else it depends on is told by ``notify``."""
        with self._changed:
            while not condition(frozenset(self._lent)):
                self._changed.wait()

    def _take(self, name: str, purpose: str) -> None:
        limit = self._limits.get(purpose)
        while limit is not None and name not in self._working and self._at_work(purpose) >= limit:
            self._check()
            self._changed.wait()
        self._check()
        self._working[name] = purpose

    def _at_work(self, purpose: str) -> int:
        return sum(each == purpose for each in self._working.values())

    def _check(self) -> None:
        if self._stopped:
            raise Stopped("stopped while waiting")
