"""What the main process and the parser process say to each other.

What belongs here: frames and the JSON form of a document. Never pickle: the parser process runs native code over
hostile files, and what it says is checked like any other input.

A frame is a length in bytes (8 bytes, big-endian) and that many bytes. The parser process says ``READY`` once. A
request is two frames: a JSON object ``{"parser": id, "name": file name}``, and the bytes of the item. The reply is one
frame, a JSON object: ``{"document": ...}``, or ``{"status": ..., "message": ...}``.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.statuses import Status

LENGTH = struct.Struct(">Q")
READY = b"ready"
# The exit status of a parser process that ran out of memory.
OUT_OF_MEMORY = 12
_FAILURES = frozenset({Status.CORRUPT, Status.ENCRYPTED, Status.CRASHED})


class InvalidReply(Exception):
    """The parser process said something that is no reply."""


def frame(payload: bytes) -> bytes:
    """Return ``payload`` as a frame."""
    return LENGTH.pack(len(payload)) + payload


def encode_request(parser_id: str, name: str, data: bytes) -> list[bytes]:
    """Return a request, in pieces that are to be written one after the other (the bytes are not copied)."""
    header = json.dumps({"parser": parser_id, "name": name}).encode("ascii")
    return [frame(header), LENGTH.pack(len(data)), data]


def encode_document(document: Document) -> bytes:
    """Return the payload of a reply that delivers ``document``."""
    blocks = [[b.kind.value, b.start, b.end, list(b.heading_path), b.page] for b in document.blocks]
    fields = {
        "text": document.text,
        "media_type": document.media_type,
        "blocks": blocks,
        "title": document.title,
        "metadata": dict(document.metadata),
    }
    return json.dumps({"document": fields}).encode("ascii")


def encode_failure(status: Status, message: str) -> bytes:
    """Return the payload of a reply that says why there is no document."""
    return json.dumps({"status": status.value, "message": message}).encode("ascii")


def decode_reply(payload: bytes) -> Document:
    """Return the document of a reply. Raises ParseError for a failure, InvalidReply for anything that is no reply."""
    try:
        reply = json.loads(payload)
        if "document" in reply:
            return _document(reply["document"])
        status, message = Status(reply["status"]), _string(reply["message"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidReply(f"{type(error).__name__}: {error}") from None
    if status not in _FAILURES:
        raise InvalidReply(f"{status} is no failure")
    raise ParseError(status, message)


def _document(fields: dict[str, object]) -> Document:
    text = _string(fields["text"])
    blocks: list[Block] = []
    position = 0
    for kind, start, end, path, page in _list(fields["blocks"]):
        if type(start) is not int or type(end) is not int or not position <= start <= end <= len(text):
            raise ValueError(f"a block from {start} to {end}")
        if page is not None and type(page) is not int:
            raise TypeError("a page that is no number")
        blocks.append(Block(BlockKind(kind), start, end, tuple(_string(title) for title in _list(path)), page))
        position = end
    metadata = fields["metadata"]
    if not isinstance(metadata, dict):
        raise TypeError("metadata that is no object")
    title = fields["title"]
    return Document(
        text,
        _string(fields["media_type"]),
        tuple(blocks),
        None if title is None else _string(title),
        {_string(key): _string(value) for key, value in metadata.items()},
    )


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a value that is no string")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a value that is no list")
    return value
