"""One parser process, as the process that started it sees it: start, pipes, how it ended.

What belongs here: what is done to the process. What it does is in ``worker``, what is said in ``wire``; what it is asked
and when, and who is blamed, in ``lane``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import kb_pipeline
from kb_pipeline.parsing import wire

if sys.platform == "linux":
    import fcntl

_START_SECONDS = 60.0
_READ_BYTES = 1 << 20
_END_SECONDS = 5.0
_PIPE_BYTES = 1 << 20
# Buffers in one call; the kernel takes 1,024.
_PIECES = 64
# What is kept of standard error: native code says why it gives up, some of it with a trace behind that.
_LAST_WORDS_BYTES = 16 << 10
# What runtimes say when they are refused memory: that of Rust, those of C++.
_REFUSED_MEMORY = re.compile(r"memory allocation of \d+ bytes failed|\bbad_alloc\b")
# All that is handed on of the environment: nothing that may hold a secret.
_HANDED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
# Native libraries: one thread each, for the pool has as many processes as there are cores; few arenas, for each maps 64 MiB.
_SINGLE_THREADED = {
    "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1",
}  # fmt: skip
# Without `site` and its .pth files the start is a third faster; the parent's own search path takes their place.
_BOOTSTRAP = """
import sys, json
sys.path[:] = json.loads(sys.argv.pop(1))
name = sys.argv.pop(1)
__import__(name)
sys.modules[name].main()
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one item may take: ``seconds`` of wall-clock time, ``memory_mib`` of address space beyond the process's own,
    ``reply_bytes`` of text and blocks that come back.
    """

    seconds: float = 60.0
    memory_mib: int = 1_024
    reply_bytes: int = 128 * 1024 * 1024


class Unavailable(Exception):
    """No parser process can be started: nothing is known about the item."""


class Died(Exception):
    """The process ended; the message says how. ``code``: its exit status, or minus the signal; None: it still runs.

    ``last_words``: the end of what it wrote on standard error.
    """

    def __init__(self, code: int | None, last_words: str) -> None:
        super().__init__(_how(code))
        self.code = code
        self.last_words = last_words

    @property
    def refused_memory(self) -> bool:
        """Whether it ended for want of memory.

        Python's own code ends with an exit status then. Native code aborts and says why, but for PDFium, which says
        nothing. Whatever else makes a library abort (a damaged heap, a broken invariant, a panic) says so.
        """
        if self.code == wire.OUT_OF_MEMORY:
            return True
        return self.code == -signal.SIGABRT and (not self.last_words or bool(_REFUSED_MEMORY.search(self.last_words)))


class Child:
    """A running parser process. The thread that makes it must outlive it: the kernel ends it with that thread.

    ``worker``: the module whose ``main`` is run. ``folder``: where it runs, an empty one. Raises Unavailable.
    """

    def __init__(self, worker: str, limits: Limits, folder: str, *, namespaces: bool) -> None:
        self.answered = 0
        self._limits = limits
        self._received = bytearray()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._unwritten: deque[memoryview] = deque()
        self._said = b""
        # Processor time, over all threads of the process: what a parser can't pass within its seconds.
        cpu_seconds = limits.seconds * (os.cpu_count() or 1)
        options = {
            "parent": os.getpid(), "memory_mib": limits.memory_mib, "cpu_seconds": cpu_seconds, "namespaces": namespaces,
        }  # fmt: skip
        # The package is found wherever this process found it.
        path = [str(Path(kb_pipeline.__file__).parents[1]), *(os.path.abspath(each) for each in sys.path if each)]
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOTSTRAP, json.dumps(path), worker]
        environment = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={**environment, **_SINGLE_THREADED, "HOME": folder},
                bufsize=0,
                # Ctrl-C at a terminal goes to a whole group of processes.
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"The parser process can't be started: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._stderr = self._process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        for pipe in (self._stdin, self._stdout):
            os.set_blocking(pipe, False)
            if sys.platform == "linux":
                # Several small items fit into one pipe. A refusal (the user's limit for pipes) costs speed only.
                with contextlib.suppress(OSError):
                    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._poll.register(self._stderr, select.POLLIN)
        self.network = self._await_ready(worker)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._process.poll() is not None

    def send(self, pieces: list[bytes]) -> None:
        """Queue bytes for the process; ``exchange`` writes them as it takes them."""
        self._unwritten.extend(memoryview(piece) for piece in pieces if piece)

    def exchange(self, seconds: float) -> list[wire.Reply]:
        """Write and read what goes, waiting up to ``seconds`` for either; return the whole replies that came.

        Raises Died after the last reply, TimeoutError when nothing moved, wire.TooLong.
        """
        self._write()
        # poll, not select: a process with many open files has pipes that select can't name.
        ready = dict(self._poll.poll(max(seconds, 0) * 1_000))
        if not ready:
            raise TimeoutError("nothing moved")
        if self._stderr in ready:
            self._listen()
        if self._stdout not in ready:
            return []
        length = os.readv(self._stdout, [self._buffer])
        if not length:
            raise Died(self._code(), self._last_words())
        self._received += self._buffer[:length]
        replies, self._received = wire.take_replies(self._received, self._limits.reply_bytes)
        return replies

    def kill(self) -> None:
        """End the process; may be called from any thread, any number of times."""
        self._process.kill()

    def end(self) -> None:
        """End the process, wait for it, and close the pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _write(self) -> None:
        while self._unwritten:
            try:
                written = os.writev(self._stdin, list(islice(self._unwritten, _PIECES)))
            except BlockingIOError:
                self._poll.register(self._stdin, select.POLLOUT)
                return
            except BrokenPipeError:
                # What it said before it ended may lie in the other pipe: the end is noticed there.
                self._unwritten.clear()
                break
            while written:
                piece = self._unwritten.popleft()
                if written < len(piece):
                    self._unwritten.appendleft(piece[written:])
                written -= min(written, len(piece))
        with contextlib.suppress(KeyError):
            self._poll.unregister(self._stdin)

    def _await_ready(self, worker: str) -> str:
        deadline = time.monotonic() + _START_SECONDS
        try:
            while not (replies := self.exchange(deadline - time.monotonic())):
                pass
            network = wire.decode_ready(replies[0])["network"]
        except (Died, TimeoutError, wire.TooLong, wire.InvalidReply, KeyError) as error:
            self._process.kill()
            self._process.wait()
            said = self._last_words().splitlines()[-1:]
            self.end()
            raise Unavailable(f"The parser process {worker} did not start ({error}). {''.join(said)}".rstrip()) from None
        return network

    def _listen(self) -> None:
        """Take all that lies in the pipe of standard error, and keep the end of it."""
        try:
            piece = os.read(self._stderr, _READ_BYTES)
        except BlockingIOError:
            return
        if not piece:
            # The process closed it. Left in the poll, it would be ready for ever.
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._stderr)
        self._said = (self._said + piece)[-_LAST_WORDS_BYTES:]

    def _last_words(self) -> str:
        """The end of what the process wrote on standard error."""
        self._listen()
        return self._said.decode(errors="replace").strip()

    def _code(self) -> int | None:
        """The exit status. The process closed its pipe, so it has ended or is about to."""
        try:
            return self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            return None


def _how(code: int | None) -> str:
    if code is None:
        return "closed its pipes"
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"was ended by signal {-code}"
