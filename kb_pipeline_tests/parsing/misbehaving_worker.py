"""A parser process that misbehaves on demand, for the tests of the pool: an item's file name says how."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.parsing.worker import serve
from kb_pipeline.statuses import Status

served = 0
hoard: list[bytearray] = []


def echo(data: bytes) -> Document:
    """The text of the item; the title is the process id, and the metadata counts the items of this process."""
    text = data.decode()
    blocks = (Block(BlockKind.PARAGRAPH, 0, len(text), ("Ä",), 3),) if text else ()
    return Document(text, "text/plain", blocks, str(os.getpid()), {"served": str(served)})


def hang(data: bytes) -> Document:
    """Sleep without end; the item names a file that then tells who sleeps."""
    while True:
        signal.pause()


def burn(data: bytes) -> Document:
    """Compute without end."""
    while True:
        pass


def segfault(data: bytes) -> Document:
    ctypes.string_at(0)
    raise AssertionError


def abort(data: bytes) -> Document:
    """Abort, the item being what is said before."""
    sys.stderr.write(data.decode())
    sys.stderr.flush()
    os.abort()


def trap(data: bytes) -> Document:
    os.kill(os.getpid(), signal.SIGTRAP)
    raise AssertionError


def leave(data: bytes) -> Document:
    os._exit(3)


def leave_politely(data: bytes) -> Document:
    sys.exit(4)


def kill(data: bytes) -> Document:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def kill_unless_fresh(data: bytes) -> Document:
    return echo(data) if served == 1 else kill(data)


def die_unless_fresh(data: bytes) -> Document:
    return echo(data) if served == 1 else segfault(data)


def exhaust_memory(data: bytes) -> Document:
    # Not without end: some systems know no limit.
    for _ in range(2_048):
        hoard.append(bytearray(1 << 20))
    raise MemoryError


def take(data: bytes) -> Document:
    """Take and give back as many MiB of memory as the item says."""
    bytearray(int(data) << 20)
    return echo(data)


def noise(data: bytes) -> Document:
    print("noise on standard output")
    os.write(1, b"noise on descriptor 1")
    os.write(2, b"noise on descriptor 2")
    sys.stdout.flush()
    return echo(sys.stdin.read().encode() + data)


def defect(data: bytes) -> Document:
    raise ZeroDivisionError("a defect")


def encrypted(data: bytes) -> Document:
    raise ParseError(Status.ENCRYPTED, "It needs a password.")


def overlapping_blocks(data: bytes) -> Document:
    return Document("short", "text/plain", (Block(BlockKind.PARAGRAPH, 0, 99),))


def vanished(data: bytes) -> Document:
    raise ParseError(Status.VANISHED, "Only a source can know that.")


def huge(data: bytes) -> Document:
    return Document("x" * 10_000_000, "text/plain")


def nonsense(data: bytes) -> Document:
    os.write(_pipe_of_replies(), b"\0" * 64)
    return echo(data)


def aftermath(data: bytes) -> Document:
    """Have nonsense follow this item's answer."""
    pipe = _pipe_of_replies()
    threading.Timer(0.05, lambda: os.write(pipe, b"\0" * 64)).start()
    return echo(data)


def surrogates(data: bytes) -> Document:
    block = Block(BlockKind.PARAGRAPH, 0, 3, ("a\ud800b",))
    return Document("\ud800 x", "text/plain", (block,), "\udfff", {"\ud800": "\ud800"})


def connect(data: bytes) -> Document:
    """Open a connection to the port that the item names, from Python."""
    with socket.create_connection(("127.0.0.1", int(data)), timeout=10):
        return echo(b"connected")


def connect_natively(data: bytes) -> Document:
    """The same from native code, which no hook sees: the text is 0, or the number of the error."""
    libc = ctypes.CDLL(None, use_errno=True)
    address = bytes([2, 0]) + int(data).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
    descriptor = libc.socket(int(socket.AF_INET), int(socket.SOCK_STREAM), 0)
    failed = libc.connect(descriptor, address, len(address))
    return echo(str(ctypes.get_errno() if failed else 0).encode())


def launch(data: bytes) -> Document:
    subprocess.run(["true"], check=True)
    return echo(b"launched")


def write(data: bytes) -> Document:
    """Write to the file that the item names."""
    with open(data, "wb") as file:
        file.write(b"written")
    return echo(b"written")


def surroundings(data: bytes) -> Document:
    """What the process sees of the world it was started from."""
    try:
        with open(f"/proc/{os.getppid()}/environ", "rb") as file:
            parent = file.read().decode(errors="replace")
    except OSError as error:
        parent = type(error).__name__
    facts = {
        "environment": dict(os.environ), "folder": os.listdir(), "parent": parent,
        "open": len(os.listdir("/dev/fd")), "modules": sorted(sys.modules),
    }  # fmt: skip
    return echo(json.dumps(facts).encode())


def _pipe_of_replies() -> int:
    return max(each for each in range(3, 32) if _is_pipe(each))


def _is_pipe(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    except OSError:
        return False


def parse(name: str, data: bytes, *, inside: bool = False, media_type: str | None = None) -> Outcome:
    """Do what the name says."""
    global served
    served += 1
    behaviour: Callable[[bytes], Document] = globals()[name]
    try:
        return Outcome(Status.PARSED, behaviour(data))
    except ParseError as error:
        return Outcome(error.status, detail=str(error))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        return Outcome(Status.CRASHED, detail=f"{type(error).__name__}: {error}")


def main() -> None:
    serve(parse)
