"""No network for the parser process.

What belongs here: the two ways to cut a process off, and finding out which of them this system allows. An empty network
namespace (Linux, where the kernel grants one) holds for native code too. An audit hook refuses what Python code asks for:
it is the only means elsewhere, and stays as a second one in a namespace, because UNIX sockets are files to the kernel.

Imports the standard library only: ``allowed`` runs this file as a script, without the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Literal

Isolation = Literal["namespace", "audit_hook"]

_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000
# A namespace of users of its own goes first: it needs no privilege and takes those away that the process had. With it,
# not even the memory and the environment of the parent, a process of the same user, can be read.
_ATTEMPTS = (_CLONE_NEWUSER | _CLONE_NEWNET, _CLONE_NEWNET)
_REFUSED = frozenset(
    {
        "socket.__new__", "socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg",
        "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.getnameinfo",
        "subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system",
    }
)  # fmt: skip


def cut(*, namespaces: bool = True) -> Isolation:
    """Cut this process off from the network, for good, and return by what. It must have one thread only.

    ``namespaces``: False leaves the namespace out, as on a system that grants none.
    """
    isolation: Isolation = "namespace" if namespaces and _enter_empty_namespace() else "audit_hook"
    sys.addaudithook(_refuse)
    return isolation


def allowed() -> Isolation:
    """Return what ``cut`` would use on this system. Tries it in a process of its own; takes some 30 ms."""
    command = [sys.executable, "-I", "-S", __file__]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "audit_hook"
    return "namespace" if done.stdout.strip() == b"namespace" else "audit_hook"


def _enter_empty_namespace() -> bool:
    if sys.platform != "linux":
        return False
    return any(_unshare(flags) for flags in _ATTEMPTS)


def _unshare(flags: int) -> bool:
    unshare = getattr(os, "unshare", None)  # from Python 3.12
    if unshare is None:
        import ctypes

        return bool(ctypes.CDLL(None).unshare(flags) == 0)
    try:
        unshare(flags)
    except OSError:
        return False
    return True


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in _REFUSED:
        raise PermissionError(f"A parser may not do this: {event}")


if __name__ == "__main__":
    sys.stdout.write(cut())
