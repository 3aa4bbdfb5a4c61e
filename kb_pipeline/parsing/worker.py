"""The parser process: parses one item after the other for the process that started it (see ``isolation``).

What belongs here: the loop, and the limits that the process puts on itself before it reads anything. Started as
``python -m kb_pipeline.parsing.worker ADDRESS_SPACE_MIB PARENT_PID``. It imports only what its parsers need, so that it
starts fast.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import BinaryIO

from kb_pipeline.parsing import html, pdf, wire
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.statuses import Status

PARSERS: Mapping[str, Callable[[bytes, str], Document]] = {"html/1": html.parse, "pdf/1": pdf.parse}
_PR_SET_PDEATHSIG = 1


def serve(parsers: Mapping[str, Callable[[bytes, str], Document]]) -> None:
    """Answer requests on standard input until it ends, with ``parsers`` by id."""
    address_space_mib, parent = int(sys.argv[1]), int(sys.argv[2])
    _limit(address_space_mib, parent)
    replies = _take_standard_output()
    requests = sys.stdin.buffer
    _send(replies, wire.READY)
    try:
        while (header := _receive(requests)) is not None and (data := _receive(requests)) is not None:
            request = json.loads(header)
            _send(replies, _answer(parsers, request["parser"], request["name"], data))
    except MemoryError:
        # Nothing is certain after this: end, and let the next item have a fresh process.
        sys.exit(wire.OUT_OF_MEMORY)


def _answer(parsers: Mapping[str, Callable[[bytes, str], Document]], parser_id: str, name: str, data: bytes) -> bytes:
    try:
        return wire.encode_document(parsers[parser_id](data, name))
    except ParseError as error:
        return wire.encode_failure(error.status, str(error))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a parser raises is this item's outcome, not the end.
        return wire.encode_failure(Status.CRASHED, f"{type(error).__name__}: {error}")


def _limit(address_space_mib: int, parent: int) -> None:
    limit = address_space_mib * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # The parent ended before its death could be watched for.
            sys.exit(0)


def _take_standard_output() -> BinaryIO:
    """Return standard output for replies, and leave an empty one to whatever prints: it would break the frames."""
    replies = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return replies


def _receive(stream: BinaryIO) -> bytes | None:
    head = stream.read(wire.LENGTH.size)
    if len(head) < wire.LENGTH.size:
        return None
    length = wire.LENGTH.unpack(head)[0]
    payload = stream.read(length)
    return payload if len(payload) == length else None


def _send(stream: BinaryIO, payload: bytes) -> None:
    stream.write(wire.frame(payload))
    stream.flush()


if __name__ == "__main__":
    serve(PARSERS)
