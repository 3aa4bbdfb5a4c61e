"""The circuit breaker of one connection, as those see it who ask the connection.

What belongs here: the state machine (``flow.breaker``) kept in the ledger, where every process sees it, and its words for
people. What doesn't: when to ask, what to do when one may not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from kb_pipeline.flow import breaker as machine
from kb_pipeline.flow.breaker import Admission, Breaker, Policy, State
from kb_pipeline.flow.kinds import Diagnosis, ErrorClass
from kb_pipeline.sources.base import ListingFailed

_MOST_WORDS = 300


class Breakers(Protocol):
    """Where breakers are kept; ``ledger.Breakers`` is one."""

    def get(self, connection: str) -> Breaker: ...

    def update(self, connection: str, change: Callable[[Breaker, float], Breaker]) -> Breaker: ...


class BreakerOpen(ListingFailed):
    """The connection is being left alone. The message says since when, why and until when."""


class Circuit:
    """The breaker of a connection. Safe between threads.

    What one process finds out, others see when they ask next or fail themselves. While all is well, nobody reads or writes.
    """

    def __init__(self, breakers: Breakers, connection: str, policy: Policy) -> None:
        self._breakers = breakers
        self._connection = connection
        self._policy = policy
        self._lock = threading.Lock()
        self._seen: Breaker | None = None
        self.changes = 0
        """Grows whenever this process changes the breaker."""

    @property
    def seen(self) -> Breaker:
        """The breaker as this process last saw it."""
        with self._lock:
            if self._seen is None:
                self._seen = self._breakers.get(self._connection)
            return self._seen

    def refuses(self) -> Breaker | None:
        """The breaker, when nobody is to ask the connection now."""
        breaker = self.seen
        due = breaker.state is State.CLOSED or breaker.probe_at is None or time.time() >= breaker.probe_at
        return None if due else breaker

    def admit(self) -> tuple[Admission, Breaker]:
        """Whether to ask the connection now; of all who want to, one is let through when a probe is due."""
        seen = self.seen
        if seen.state is State.CLOSED:
            return "asks", seen
        admission: Admission = "waits"

        def change(breaker: Breaker, now: float) -> Breaker:
            nonlocal admission
            breaker, admission = machine.admit(breaker, now, self._policy)
            return breaker

        changed = self._update(change)
        return admission, changed

    def failed(self, diagnosis: Diagnosis, message: str, *, trip: bool = False) -> bool:
        """Tell of a failure; whether it opened the breaker. ``trip``: open it, however many there were."""
        words = " ".join(message.split())[:_MOST_WORDS]
        opened = False

        def change(breaker: Breaker, now: float) -> Breaker:
            nonlocal opened
            changed = machine.failed(breaker, now, self._policy, diagnosis, words, trip=trip)
            opened = breaker.state is State.CLOSED and changed.state is State.OPEN
            return changed

        self._update(change)
        return opened

    def succeeded(self) -> ErrorClass | None:
        """Tell of an answer; why the breaker was open that it closed."""
        seen = self.seen
        if seen.state is State.CLOSED and not seen.failures:
            return None
        closed: ErrorClass | None = None

        def change(breaker: Breaker, now: float) -> Breaker:
            nonlocal closed
            if breaker.state is not State.CLOSED and breaker.error_class:
                closed = ErrorClass(breaker.error_class)
            return machine.succeeded(breaker)

        self._update(change)
        return closed

    def _update(self, change: Callable[[Breaker, float], Breaker]) -> Breaker:
        changed = self._breakers.update(self._connection, change)
        with self._lock:
            if changed != self._seen:
                self.changes += 1
            self._seen = changed
        return changed


def refusal(breaker: Breaker) -> BreakerOpen:
    """Why nobody asks a connection now."""
    kind = ErrorClass(breaker.error_class) if breaker.error_class else None
    return BreakerOpen(sentence(breaker), kind=kind)


def sentence(breaker: Breaker) -> str:
    """An open breaker for people: since when, why, when it is tried again, and how to have it tried at once."""
    since = f"since {_clock(breaker.opened_at)} " if breaker.opened_at is not None else ""
    times = "failure" if breaker.failures == 1 else "failures"
    again = f"the next try is at {_clock(breaker.probe_at)}" if breaker.probe_at is not None else "it is tried again soon"
    if breaker.state is State.HALF_OPEN:
        again = "it is being tried again now"
    return (
        f"left alone {since}after {breaker.failures} {times} in a row ({breaker.error_class}: {breaker.message}); "
        f"{again}, or with `kb sources reset {breaker.connection}` at once"
    )


def _clock(seconds: float) -> str:
    """A time of day, with the date when it isn't today."""
    when, today = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M:%S" if when[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", when)
