"""A parser process that misbehaves on demand, for the tests of isolation."""

from __future__ import annotations

import os
import signal
import sys

from kb_pipeline.parsing import wire
from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.worker import serve
from kb_pipeline.statuses import Status

served = 0


def _echo(data: bytes, name: str) -> Document:
    """The text of the item; the title is the process id, and the metadata counts the items of this process."""
    global served
    served += 1
    text = data.decode()
    block = Block(BlockKind.PARAGRAPH, 0, len(text), ("Ä",), 3)
    return Document(text, "text/plain", (block,), str(os.getpid()), {"served": str(served)})


def _hang(data: bytes, name: str) -> Document:
    while True:
        signal.pause()


def _die(data: bytes, name: str) -> Document:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def _die_unless_fresh(data: bytes, name: str) -> Document:
    return _echo(data, name) if served == 0 else _die(data, name)


def _exhaust_memory(data: bytes, name: str) -> Document:
    return Document(str(bytearray(1 << 34)), "text/plain")


def _print(data: bytes, name: str) -> Document:
    print("noise on standard output")
    os.write(1, b"noise on descriptor 1")
    os.write(2, b"noise on descriptor 2")
    sys.stdout.flush()
    return _echo(data, name)


def _raise(data: bytes, name: str) -> Document:
    raise ZeroDivisionError("a defect")


def _encrypted(data: bytes, name: str) -> Document:
    raise ParseError(Status.ENCRYPTED, "It needs a password.")


def _overlapping_blocks(data: bytes, name: str) -> Document:
    block = Block(BlockKind.PARAGRAPH, 0, 99)
    return Document("short", "text/plain", (block,))


def _say_it_is_fine(data: bytes, name: str) -> Document:
    raise ParseError(Status.PARSED, "No document, but all is well.")


def _huge(data: bytes, name: str) -> Document:
    return Document("x" * 1_000_000, "text/plain")


def _nonsense(data: bytes, name: str) -> Document:
    return Document("", "application/x-nonsense")


def _encode(document: Document) -> bytes:
    return b"\x80\x04pickle" if document.media_type == "application/x-nonsense" else encode_document(document)


encode_document = wire.encode_document
wire.encode_document = _encode


if __name__ == "__main__":
    serve(
        {
            "echo": _echo,
            "hang": _hang,
            "die": _die,
            "die_unless_fresh": _die_unless_fresh,
            "exhaust_memory": _exhaust_memory,
            "print": _print,
            "raise": _raise,
            "encrypted": _encrypted,
            "overlapping_blocks": _overlapping_blocks,
            "say_it_is_fine": _say_it_is_fine,
            "huge": _huge,
            "nonsense": _nonsense,
        }
    )
