"""The parser process: parses one item after the other for the process that started it (see ``child``).

What belongs here: the order of start, and the loop. It imports only what its parsers need, so that it starts fast.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from typing import BinaryIO, Protocol

from kb_pipeline.parsing import wire
from kb_pipeline.parsing.confinement import allow_cpu, confine, end_with
from kb_pipeline.parsing.network import cut
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.parsing.parse import encodable, parse_item

_READ_BYTES = 1 << 16
# Parsing makes many small objects and few cycles: a collection per 700 of them takes a tenth of the time.
_COLLECT_AFTER = 20_000


class Parse(Protocol):
    """What a parser process does with an item: ``parse.parse_item``, and what tests put in its place."""

    def __call__(self, name: str, data: bytes, *, inside: bool, media_type: str | None) -> Outcome: ...


def serve(parse: Parse) -> None:
    """Answer requests on standard input until it ends.

    The process's one argument is a JSON object: ``parent`` (process id), ``memory_mib``, ``cpu_seconds`` per item,
    ``namespaces`` (whether to try them).
    """
    options = json.loads(sys.argv[1])
    # Ctrl-C is for the parent to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _take(0, os.O_RDONLY), _take(1, os.O_WRONLY)
    isolation = cut(namespaces=options["namespaces"])
    end_with(options["parent"])
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    confine(options["memory_mib"])
    _send(replies, wire.encode_ready({"network": isolation}))
    try:
        while (request := wire.read_request(requests)) is not None:
            allow_cpu(options["cpu_seconds"])
            outcome = parse(request.name, request.data, inside=request.inside, media_type=request.media_type)
            _send(replies, _answer(request.number, outcome))
    except MemoryError:
        # Nothing is certain after this: end, and let the next item have a fresh process.
        os._exit(wire.OUT_OF_MEMORY)


def _answer(number: int, outcome: Outcome) -> list[bytes | bytearray]:
    try:
        return wire.encode_outcome(number, outcome)
    except UnicodeEncodeError:
        return wire.encode_outcome(number, encodable(outcome))


def _take(stream: int, mode: int) -> BinaryIO:
    """Return a standard stream for frames, and leave an empty one to whatever prints or reads: it would break them."""
    taken = os.dup(stream)
    nowhere = os.open(os.devnull, mode)
    os.dup2(nowhere, stream)
    os.close(nowhere)
    return open(taken, "rb", _READ_BYTES) if mode == os.O_RDONLY else open(taken, "wb", 0)


def _send(stream: BinaryIO, pieces: list[bytes | bytearray]) -> None:
    # At once, frame by frame: the parent knows by it which item is being parsed, and whom to blame for what follows.
    # A long text is not copied for it.
    if sum(map(len, pieces)) <= _READ_BYTES:
        pieces = [b"".join(pieces)]
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[stream.write(rest) :]


def main() -> None:
    """Serve with the parsers of this version."""
    serve(parse_item)
