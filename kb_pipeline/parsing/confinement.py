"""The limits that the parser process puts on itself before it reads anything hostile.

What belongs here: memory, processor time, files, and not outliving the parent. The time limit that counts is kept by the
parent; the one on processor time holds where the parent itself is stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
# Files and libraries that a parser opens while it works.
_OPEN_FILES = 128


def confine(memory_mib: int) -> None:
    """Limit this process for good.

    ``memory_mib``: address space beyond what is mapped now, so that the limit means the items' needs, whatever the
    interpreter and the libraries map (threads' stacks make that differ between machines). No core dumps; no byte is
    written to any file, which leaves pipes alone. Systems that don't know a limit go without it.
    """
    _lower(resource.RLIMIT_AS, _mapped_bytes() + memory_mib * 1024 * 1024)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    # No module that is imported late can be cached any more.
    sys.dont_write_bytecode = True


def end_with(parent: int) -> None:
    """Have the kernel end this process with the thread of ``parent`` that started it; end now if it is gone already.

    To be called after ``network.cut``: a change of namespace makes the kernel forget it.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def allow_cpu(seconds: float) -> None:
    """Let the kernel end this process (SIGXCPU) after ``seconds`` more of processor time, over all its threads."""
    limit = math.ceil(time.process_time() + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))


def _mapped_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
