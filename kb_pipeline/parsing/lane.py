"""A lane: one thread with one parser process after the other.

What belongs here: what is asked of the process and when, how long is waited, and who is blamed.

A process answers in order and at once, so the first item without an answer is the one that is being parsed. When the
process is stopped or dies, the items behind it go back to the queue. It is itself blamed for what a fresh process did:
in any other an item before it may have done the damage, and it is tried again in a fresh one. A process that was killed
(SIGKILL: the system is short of memory, or a person did it) says little about its item, which is tried twice at least.
Time is the exception: the clock tells exactly how long each item took.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from contextlib import suppress

from kb_pipeline.parsing import wire
from kb_pipeline.parsing.child import Child, Died, Limits, Unavailable
from kb_pipeline.parsing.delivery import Room
from kb_pipeline.parsing.jobs import Closed, Job, Jobs
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.statuses import Status

# What a process has waiting, the item that it parses included, so that it never waits for this one. Larger items are sent
# when the process has nothing else: parsing them takes long enough to hide the way there.
# On busy cores this thread may have to wait for some milliseconds: that much work lies in thirty small files.
_AHEAD_ITEMS = 32
_AHEAD_BYTES = 512 * 1024
# Beyond the time limit, for an answer that is on its way: this process may have been stopped as well.
_GRACE_SECONDS = 5.0
_STARTS = 2
_KILLS = 2
_LAST_NUMBER = 0xFFFF_FFFF
_DETAIL_CHARACTERS = 1_000


class Lane:
    """A thread that works off ``jobs``, with processes from ``start_child``; ``ended`` is called at its end.

    ``items_per_process``: after so many items a process is replaced. ``room``: for outcomes that wait to be taken.
    """

    def __init__(
        self,
        jobs: Jobs,
        start_child: Callable[[], Child],
        limits: Limits,
        items_per_process: int,
        room: Room,
        ended: Callable[[Lane], None],
    ) -> None:
        self._jobs = jobs
        self._start_child = start_child
        self._limits = limits
        self._items_per_process = items_per_process
        self._room = room
        self._ended = ended
        self._child: Child | None = None
        # Sent and not answered, with the numbers of their requests.
        self._sent: deque[tuple[int, Job]] = deque()
        self._retry: Job | None = None
        self._number = wire.READY
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="parser-lane", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The id of the process that runs now."""
        child = self._child
        return child.pid if child is not None else None

    def stop(self) -> None:
        """End after ``Jobs.close``: the process is killed, and its items fail with Unavailable."""
        child = self._child
        if child is not None:
            child.kill()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            job = self._jobs.wait(new=True)
            while job is not None:
                self._work(job)
                # While it waits, it must not keep the bytes and the document of the job before.
                job, self._retry = self._retry, None
                job = job or self._jobs.wait()
        finally:
            self._end_child()
            self._ended(self)

    def _work(self, job: Job) -> None:
        """Parse ``job``, and what can be had behind it. Every one of them gets its outcome, or goes back."""
        try:
            child = self._ready_child()
            self._send(child, job)
            while self._sent:
                self._send_ahead(child)
                self._exchange(child)
        except Unavailable as error:
            self._fail(job, error)
        except Closed:
            self._fail(job, Unavailable("The parser pool was closed."))
        # A defect here must leave nobody waiting: it surfaces where the outcomes are waited for.
        except Exception as error:  # noqa: BLE001
            self._fail(job, error)

    def _ready_child(self) -> Child:
        """The process that runs, or a fresh one. Raises Unavailable, Closed."""
        child = self._child
        if child is not None and (child.ended or child.answered >= self._items_per_process):
            self._end_child()
        for attempt in range(1, _STARTS + 1):
            if self._child is not None:
                break
            try:
                self._child = self._start_child()
            except Unavailable:
                # One that the system killed for memory says nothing about the next.
                if attempt == _STARTS or self._jobs.closed:
                    raise
        if self._jobs.closed:
            raise Closed
        assert self._child is not None
        return self._child

    def _send(self, child: Child, job: Job) -> None:
        self._number = self._number % _LAST_NUMBER + 1
        if not self._sent:
            self._deadline = time.monotonic() + self._limits.seconds
        self._sent.append((self._number, job))
        request = wire.Request(self._number, job.name, job.data, job.inside, job.media_type)
        child.send(wire.encode_request(request))

    def _send_ahead(self, child: Child) -> None:
        sent = len(self._sent)
        items = min(_AHEAD_ITEMS, self._items_per_process - child.answered) - sent
        if sent * 2 <= _AHEAD_ITEMS and items > 0:
            size = _AHEAD_BYTES - sum(len(job.data) for _, job in self._sent)
            for job in self._jobs.take(items, size):
                self._send(child, job)

    def _exchange(self, child: Child) -> None:
        """Wait for the process once, and deal with what it said or did."""
        left = self._deadline - time.monotonic()
        try:
            replies = child.exchange(left)
            for reply in replies:
                self._settle(child, reply)
            if not replies and left < -_GRACE_SECONDS:
                raise TimeoutError
        except TimeoutError:
            self._give_up(Outcome(Status.TIMED_OUT, detail=f"Parsing took longer than {self._limits.seconds:g} s."))
        except wire.TooLong as error:
            detail = f"Text and blocks take {error} bytes; the limit is {self._limits.reply_bytes:,}."
            self._blame(child, Outcome(Status.TOO_LARGE, detail=detail))
        except wire.InvalidReply as error:
            detail = f"The parser process answered nonsense ({error})."
            self._blame(child, Outcome(Status.CRASHED, detail=detail[:_DETAIL_CHARACTERS]))
        except Died as death:
            self._bury(child, death)

    def _settle(self, child: Child, reply: wire.Reply) -> None:
        if not self._sent:
            raise wire.InvalidReply("a reply to nothing")
        number, job = self._sent[0]
        outcome = wire.decode_outcome(number, reply)
        self._sent.popleft()
        child.answered += 1
        self._deadline = time.monotonic() + self._limits.seconds
        job.future.deliver(outcome, reply, self._room)

    def _bury(self, child: Child, death: Died) -> None:
        """The process is gone: find out why."""
        if self._jobs.closed:
            raise Closed
        if death.code == -signal.SIGXCPU:
            self._give_up(Outcome(Status.TIMED_OUT, detail=f"Parsing took longer than {self._limits.seconds:g} s."))
        elif death.refused_memory:
            detail = f"Parsing needs more memory than the limit of {self._limits.memory_mib:,} MiB."
            self._blame(child, Outcome(Status.TOO_LARGE, detail=detail))
        else:
            detail = f"The parser process {death}."
            killed = death.code == -signal.SIGKILL
            self._blame(child, Outcome(Status.CRASHED, detail=detail), killed=killed)

    def _blame(self, child: Child, outcome: Outcome, *, killed: bool = False) -> None:
        """End the process. ``outcome`` is that of the item it parsed, unless that gets another chance. Raises Closed."""
        if self._sent:
            _, job = self._sent[0]
            job.killed += killed
            if child.answered or (killed and job.killed < _KILLS):
                self._sent.popleft()
                self._retry = job
                self._give_up(None)
                return
        self._give_up(outcome)

    def _give_up(self, outcome: Outcome | None) -> None:
        """End the process. ``outcome`` is that of the item it parsed; the others go back. Raises Closed."""
        self._end_child()
        if outcome is not None and self._sent:
            _set(self._sent.popleft()[1], outcome)
        self._jobs.give_back([job for _, job in self._sent])
        self._sent.clear()

    def _fail(self, job: Job, error: BaseException) -> None:
        self._end_child()
        jobs = [*(sent for _, sent in self._sent), job, *filter(None, [self._retry])]
        self._sent.clear()
        self._retry = None
        for each in jobs:
            with suppress(InvalidStateError):
                each.future.set_exception(error)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def _set(job: Job, outcome: Outcome) -> None:
    # Its submitter may have lost interest and cancelled it.
    with suppress(InvalidStateError):
        job.future.set_result(outcome)
