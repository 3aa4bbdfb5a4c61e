"""Parsing in processes that may be killed: a few of them, long-lived, shared by all threads of this process.

What belongs here: the pool as its users see it, and the one that this process shares. What doesn't: how items are shared
out (``jobs``), what is asked of a process and who is blamed (``lane``), the process itself (``child``).
"""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from kb_pipeline.parsing.child import Child, Limits, Unavailable
from kb_pipeline.parsing.delivery import Room
from kb_pipeline.parsing.jobs import Closed, Job, Jobs
from kb_pipeline.parsing.lane import Lane
from kb_pipeline.parsing.outcome import Outcome


class ParserPool:
    """Up to ``size`` parser processes, each started when an item finds the others busy. Safe to share between threads.

    ``limits``: what one item may take. ``size``: by default as many as there are cores. ``items_per_process``: after so
    many a process is replaced, so that leaks don't add up. ``idle_seconds``: a process without work for so long is ended.
    ``namespaces``: whether to try network namespaces. ``worker``: the module that the processes run.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        size: int | None = None,
        items_per_process: int = 20_000,
        idle_seconds: float = 10.0,
        namespaces: bool = True,
        worker: str = "kb_pipeline.parsing.worker",
    ) -> None:
        self._limits = limits or Limits()
        self._items_per_process = items_per_process
        # As much as the longest reply: what waits beyond it waits in files.
        self._room = Room(self._limits.reply_bytes)
        self._namespaces = namespaces
        self._worker = worker
        self._jobs = Jobs(size or usable_cores(), idle_seconds)
        self._lock = threading.Lock()
        self._lanes: set[Lane] = set()
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def submit(self, name: str, data: bytes, *, inside: bool = False, media_type: str | None = None) -> Future[Outcome]:
        """Have one item parsed, given its file name and all its bytes. Raises Unavailable when the pool is closed.

        ``inside``: the item was found in another one; archives are then opened, for no source does it. ``media_type``:
        what its source says it is.
        The future doesn't fail because of the item: an error, a time-out and a crash are outcomes. It raises Unavailable
        when no process can be started, or when the pool is closed meanwhile.
        """
        job = Job(name, data, inside, media_type)
        try:
            if self._jobs.put(job):
                self._start_lane()
        except Closed:
            raise Unavailable("The parser pool is closed.") from None
        return job.future

    def parse(self, name: str, data: bytes) -> Outcome:
        """Parse one item and wait for it. Raises Unavailable."""
        return self.submit(name, data).result()

    def pids(self) -> list[int]:
        """The ids of the processes that run now."""
        with self._lock:
            return [lane.pid for lane in self._lanes if lane.pid is not None]

    def close(self) -> None:
        """End all processes. Items without an outcome fail with Unavailable."""
        left = self._jobs.close()
        with self._lock:
            lanes = list(self._lanes)
        for lane in lanes:
            lane.stop()
        for lane in lanes:
            lane.join()
        for job in left:
            job.future.set_exception(Unavailable("The parser pool was closed."))
        with self._lock:
            if self._folder is not None:
                with suppress(OSError):
                    self._folder.rmdir()
                self._folder = None

    def _start_lane(self) -> None:
        lane = Lane(self._jobs, self._start_child, self._limits, self._items_per_process, self._room, self._forget)
        with self._lock:
            self._lanes.add(lane)
        try:
            lane.start()
        except RuntimeError as error:
            self._forget(lane)
            self._jobs.lost()
            raise Unavailable(f"No thread can be started: {error}") from error

    def _start_child(self) -> Child:
        with self._lock:
            # Gone, when something tidies up folders that nobody wrote to for days.
            if self._folder is None or not self._folder.is_dir():
                self._folder = Path(tempfile.mkdtemp(prefix="kb-parser-"))
            folder = str(self._folder)
        return Child(self._worker, self._limits, folder, namespaces=self._namespaces)

    def _forget(self, lane: Lane) -> None:
        with self._lock:
            self._lanes.discard(lane)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_shared: dict[tuple[Limits, int], ParserPool] = {}
_shared_lock = threading.Lock()


def shared_pool(limits: Limits, size: int) -> ParserPool:
    """The pool of this process for these limits, for all partitions that are parsed side by side. Nobody closes it."""
    with _shared_lock:
        return _shared.setdefault((limits, size), ParserPool(limits, size=size))


def _close_shared() -> None:
    with _shared_lock:
        for pool in _shared.values():
            pool.close()
        _shared.clear()


def _forget_shared() -> None:
    """In a process that was forked off: the threads and the processes of the pools are the parent's."""
    global _shared_lock
    _shared_lock = threading.Lock()
    _shared.clear()


atexit.register(_close_shared)
os.register_at_fork(after_in_child=_forget_shared)
