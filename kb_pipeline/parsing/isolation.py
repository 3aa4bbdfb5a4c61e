"""Parsing in a process that may be killed.

What belongs here: the life of the parser process as its user sees it: start, deadline, death, restart. What the process
does is in ``worker``, what is said in ``wire``.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import kb_pipeline
from kb_pipeline.parsing import wire
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.statuses import Status

_START_SECONDS = 60.0
_READ_BYTES = 1 << 20


class WorkerUnavailable(Exception):
    """The parser process can't be started at all: nothing is known about the item."""


class IsolatedParser:
    """One parser process, started on first use and again after it was killed or died. Safe to share between threads.

    ``seconds``: the time one item may take. ``address_space_mib``: what the process may map (RLIMIT_AS), its own code
    included. ``max_reply_bytes``: the longest reply that is read. ``max_items``: items after which the process is
    replaced, so that leaks don't add up. ``worker``: the module that is run.
    """

    def __init__(
        self,
        *,
        seconds: float = 60.0,
        address_space_mib: int = 1_024,
        max_reply_bytes: int = 512 * 1024 * 1024,
        max_items: int = 1_000,
        worker: str = "kb_pipeline.parsing.worker",
    ) -> None:
        self._seconds = seconds
        self._address_space_mib = address_space_mib
        self._max_reply_bytes = max_reply_bytes
        self._max_items = max_items
        self._worker = worker
        self._lock = threading.Lock()
        self._child: _Child | None = None
        # The kernel ends the child when the thread that started it ends, so one thread is kept for that.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parser-start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the parser process. An item that is being parsed in another thread is finished first."""
        with self._lock:
            self._end_child()
            self._starter.shutdown()

    def parse(self, parser_id: str, data: bytes, name: str) -> Document:
        """Parse one item with the parser ``parser_id`` of the worker.

        Raises ParseError: TIMED_OUT after ``seconds``, CRASHED when the process dies or answers nonsense, and what the
        parser itself raised. Raises WorkerUnavailable when no process can be started.
        """
        with self._lock:
            while True:
                child = self._ready_child()
                fresh = child.items == 0
                try:
                    return self._ask(child, parser_id, data, name)
                except _Died as death:
                    self._end_child()
                    # Other items may have damaged the process that read them: only a fresh one's death counts.
                    if fresh:
                        raise ParseError(Status.CRASHED, f"The parser process {death}.") from None

    def _ask(self, child: _Child, parser_id: str, data: bytes, name: str) -> Document:
        deadline = time.monotonic() + self._seconds
        child.items += 1
        try:
            child.write(wire.encode_request(parser_id, name, data), deadline)
            reply = child.read_frame(self._max_reply_bytes, deadline)
        except TimeoutError:
            self._end_child()
            raise ParseError(Status.TIMED_OUT, f"Parsing took longer than {self._seconds:g} s.") from None
        except _TooLong as error:
            self._end_child()
            raise ParseError(Status.CRASHED, f"The parser's reply is too long: {error} bytes.") from None
        try:
            return wire.decode_reply(reply)
        except wire.InvalidReply as error:
            self._end_child()
            raise ParseError(Status.CRASHED, f"The parser process answered nonsense ({error}).") from None

    def _ready_child(self) -> _Child:
        if self._child is not None and (self._child.items >= self._max_items or self._child.process.poll() is not None):
            self._end_child()
        if self._child is None:
            self._child = self._starter.submit(_Child, self._worker, self._address_space_mib).result()
            try:
                ready = self._child.read_frame(len(wire.READY), time.monotonic() + _START_SECONDS)
                if ready != wire.READY:
                    raise _Died("answered nonsense")
            except (_Died, _TooLong, TimeoutError) as error:
                self._end_child()
                raise WorkerUnavailable(
                    f"The parser process did not start ({error}). To see why, run: "
                    f"{sys.executable} -m {self._worker} {self._address_space_mib} $$"
                ) from None
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Died(Exception):
    """The process ended; the message says how."""


class _TooLong(Exception):
    """A frame is longer than allowed; the message is its length."""


class _Child:
    """A running parser process and the pipes to it, every wait with a deadline (of ``time.monotonic``)."""

    def __init__(self, worker: str, address_space_mib: int) -> None:
        # The package is found wherever this process found it; -P keeps the current folder out of the search.
        root = str(Path(kb_pipeline.__file__).parents[1])
        search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self.items = 0
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", worker, str(address_space_mib), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search},
            bufsize=0,
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise WorkerUnavailable("The parser process has no pipes.")
        self._stdin, self._stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)

    def write(self, pieces: list[bytes], deadline: float) -> None:
        """Write all ``pieces``. Raises TimeoutError or _Died."""
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                self._wait(self._stdin, select.POLLOUT, deadline)
                try:
                    rest = rest[os.write(self._stdin, rest[:_READ_BYTES]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise _Died(self._how()) from None

    def read_frame(self, longest: int, deadline: float) -> bytes:
        """Read one frame of at most ``longest`` bytes. Raises TimeoutError, _Died or _TooLong."""
        length = wire.LENGTH.unpack(self._read(wire.LENGTH.size, deadline))[0]
        if length > longest:
            raise _TooLong(str(length))
        return self._read(length, deadline)

    def _read(self, length: int, deadline: float) -> bytes:
        read = bytearray()
        while len(read) < length:
            self._wait(self._stdout, select.POLLIN, deadline)
            try:
                piece = os.read(self._stdout, min(_READ_BYTES, length - len(read)))
            except BlockingIOError:
                continue
            if not piece:
                raise _Died(self._how())
            read += piece
        return bytes(read)

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        # poll, not select: a process with many open files has pipes that select can't name.
        poll = select.poll()
        poll.register(pipe, event)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1_000):
            raise TimeoutError("timed out")

    def _how(self) -> str:
        """Say how the process ended. It closed its pipes, so it has ended or is about to."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its pipes"
        if code == wire.OUT_OF_MEMORY:
            return "ran out of memory"
        return f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"

    def end(self) -> None:
        """Kill the process and close the pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
