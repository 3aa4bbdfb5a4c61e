"""Calls into foreign code that may never return: they run in threads of their own, and are left behind when silent.

A thread can't be ended from outside. What can be done is to stop waiting for it: the caller goes on, the thread stays
until the call returns after all, and nothing that it brings is used. Threads are daemons, so that no process waits for
them at its end, and a ``Caller`` leaves only so many behind: then it makes no further calls until some return.

What belongs here: making a call, noticing that nothing comes of it. What doesn't: trying again, what the call is for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

T = TypeVar("T")

_LOOK_SECONDS = 0.25
"""Between two looks at whether a silent call's caller has lost interest."""
_IDLE_SECONDS = 5.0
"""A thread without a call for so long ends."""
_BATCH_ITEMS = 256
_BATCH_SECONDS = 0.02
_BATCHES_AHEAD = 4


class Silent(Exception):
    """No sign of life for so long that the call was left behind."""


class TooManyLeft(Exception):
    """So many calls were left behind, and haven't returned, that no more are made."""


class Beat:
    """The sign of life of a call; the call itself gives it whenever it gets on."""

    __slots__ = ("at", "dropped", "held")

    def __init__(self) -> None:
        self.at = time.monotonic()
        self.dropped = False  # nobody waits for it any more
        self.held = False  # it is the other side that doesn't get on

    def __call__(self) -> None:
        """Something came."""
        self.at = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return 0.0 if self.held else time.monotonic() - self.at


class _Left:
    """How many calls of one name were left behind and haven't returned, over this whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def of(self, name: str) -> int:
        with self._lock:
            return self._counts.get(name, 0)

    def add(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + number


_left = _Left()


class _Job(Generic[T]):
    """One call on its way, and what came of it."""

    def __init__(self, name: str, function: Callable[[Beat], T]) -> None:
        self.beat = Beat()
        self._name = name
        self._function = function
        self._lock = threading.Lock()
        self._done = threading.Lock()
        self._done.acquire()
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._function(self.beat)
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error
        with self._lock:
            self._done.release()
            if self.beat.dropped:
                self._result = self._error = None
                _left.add(self._name, -1)

    def drop(self) -> bool:
        """Stop waiting for it. False: it has returned, or nobody waits for it any more."""
        with self._lock:
            if self.beat.dropped or not self._done.locked():
                return False
            self.beat.dropped = True
            _left.add(self._name, 1)
            return True

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it came."""
        if self._done.acquire(timeout=max(0.0, seconds)):
            self._done.release()
            return True
        return False

    def result(self) -> T:
        """What it brought. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return cast(T, self._result)


class _Threads:
    """Threads that wait for calls; one more is started when none waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Job[object]]] = []

    def start(self, job: _Job[T]) -> None:
        with self._lock:
            queue = self._idle.pop() if self._idle else None
        if queue is None:
            queue = SimpleQueue()
            threading.Thread(target=self._work, args=(queue,), name="kb-call", daemon=True).start()
        queue.put(cast("_Job[object]", job))

    def _work(self, queue: SimpleQueue[_Job[object]]) -> None:
        while True:
            try:
                job = queue.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if queue not in self._idle:
                        continue  # somebody has just taken it
                    self._idle.remove(queue)
                return
            job.run()
            del job  # its result must not stay until the next
            with self._lock:
                self._idle.append(queue)


_threads = _Threads()


def _forget() -> None:
    """In a process that was forked off: the threads are the parent's."""
    global _threads, _left
    _threads, _left = _Threads(), _Left()


os.register_at_fork(after_in_child=_forget)


class Caller:
    """Makes the calls of one connection.

    ``name``: calls left behind are counted by it. ``timeout``: seconds without a sign of life, after which a call is left
    behind. ``most_left``: as many may be left behind. ``on_silence`` is called a few times a second while nothing comes of
    a call, with the seconds of silence; what it raises ends the waiting.
    """

    def __init__(
        self,
        name: str,
        timeout: float,
        most_left: int,
        on_silence: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._name = name
        self.timeout = timeout
        self._most_left = most_left
        self._on_silence = on_silence

    def call(self, function: Callable[[Beat], T]) -> T:
        """What ``function`` returns; it is given a ``Beat`` to show that it gets on. Raises Silent, TooManyLeft."""
        self._check()
        job = _Job(self._name, function)
        _threads.start(job)
        while not job.wait(min(_LOOK_SECONDS, self.timeout - job.beat.silence)):
            self._look(job)
        return job.result()

    def batches(self, function: Callable[[], Iterator[T]]) -> Iterator[list[T]]:
        """What ``function()`` yields, as it comes, in lists; the first holds one item, and an empty one: nothing yet.

        It runs ahead a little. Each item is a sign of life. Raises Silent, TooManyLeft.
        """
        self._check()
        batches: SimpleQueue[list[T] | None] = SimpleQueue()  # None: there are no more
        room = threading.Semaphore(_BATCHES_AHEAD)

        def pump(beat: Beat) -> None:
            batch: list[T] = []
            since = 0.0  # the first item is handed over at once: it says that the source lives
            items = function()
            try:
                for item in items:
                    beat()
                    batch.append(item)
                    if len(batch) >= _BATCH_ITEMS or beat.at - since >= _BATCH_SECONDS:
                        batches.put(batch)
                        batch = []
                        beat.held = True
                        while not beat.dropped and not room.acquire(timeout=_LOOK_SECONDS):
                            pass
                        beat()
                        beat.held = False
                        since = beat.at
                    if beat.dropped:
                        return
            finally:
                batches.put(batch)
                batches.put(None)
                close = getattr(items, "close", None)
                if close is not None:
                    close()

        job: _Job[None] = _Job(self._name, pump)
        _threads.start(job)
        over = False
        try:
            while not over:
                try:
                    batch = batches.get(timeout=max(0.0, min(_LOOK_SECONDS, self.timeout - job.beat.silence)))
                except Empty:
                    self._look(job)
                    yield []
                    continue
                over = batch is None
                room.release()
                if batch:
                    yield batch
            while not job.wait(_LOOK_SECONDS):
                self._look(job)
            job.result()
        finally:
            job.drop()

    def _check(self) -> None:
        if (number := _left.of(self._name)) >= self._most_left:
            raise TooManyLeft(f"{number} calls that never returned still hang, and no more are made until some do")

    def _look(self, job: _Job[T]) -> None:
        """At a call of which nothing has come for a moment."""
        silence = job.beat.silence
        if silence < self.timeout:
            try:
                self._on_silence(silence)
            except BaseException:
                job.drop()
                raise
        elif job.drop():
            raise Silent(f"no answer for {self.timeout:g} s")
