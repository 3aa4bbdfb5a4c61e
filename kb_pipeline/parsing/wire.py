"""What the main process and the parser processes say to each other.

What belongs here: frames, and the form of requests and replies. Never pickle: the parser process runs native code over
hostile files, and what it says is checked like any other input.

A request is ``REQUEST`` (number, bytes of the file name, of the media type and of the item, whether it lies inside another
one) and those bytes; a media type of no bytes is none. A reply is ``REPLY`` (the number of the request, bytes of the header,
bytes of the body), a JSON object, and the body. Number 0 is what the process says once when it is ready. Of a document the
body holds the text in UTF-8 and the blocks by column, because one text and a few columns take a tenth of the time that JSON
takes: a byte for each block's kind, then 32-bit numbers in the machine's order: start and end of each, its heading path as a
position in the header's list, its page (0: none). The bytes of attachments come last.
"""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, BinaryIO

from kb_pipeline.parsing.document import Attachment, Block, BlockKind, Document
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.statuses import Status

REQUEST = struct.Struct(">IIIQ?")
REPLY = struct.Struct(">IIQ")
READY = 0
# The exit status of a parser process that ran out of memory.
OUT_OF_MEMORY = 12

_KINDS = tuple(BlockKind)
# By identity: an enum's own hash is a call of Python code for every block.
_KIND_NUMBERS = {id(kind): number for number, kind in enumerate(_KINDS)}
_STATUSES = frozenset(
    {Status.PARSED, Status.EMPTY, Status.NO_TEXT, Status.CORRUPT, Status.ENCRYPTED, Status.CRASHED, Status.TOO_LARGE}
    | {Status.UNSUPPORTED, Status.EXCLUDED}
)
_MESSAGE_CHARACTERS = 1_000
_NUMBER_BYTES = 4
# Of each block: its kind, and four numbers.
_BLOCK_BYTES = 1 + 4 * _NUMBER_BYTES
_columns = attrgetter("kind", "start", "end", "heading_path", "page")


class InvalidReply(Exception):
    """The parser process said something that is no reply."""


class TooLong(Exception):
    """A reply is longer than allowed; the message is its length in bytes."""


@dataclass(frozen=True, slots=True)
class Request:
    """One item to be parsed. ``inside``: it lies in another one. ``media_type``: what its source says it is."""

    number: int
    name: str
    data: bytes
    inside: bool = False
    media_type: str | None = None


def encode_request(request: Request) -> list[bytes]:
    """Return a request, in pieces that are to be written one after the other (the bytes are not copied)."""
    name, media_type = _encode(request.name), _encode(request.media_type or "")
    head = REQUEST.pack(request.number, len(name), len(media_type), len(request.data), request.inside)
    return [head + name + media_type, request.data]


def read_request(stream: BinaryIO) -> Request | None:
    """Read one request. None when the stream ends."""
    head = stream.read(REQUEST.size)
    if len(head) < REQUEST.size:
        return None
    number, name_length, type_length, length, inside = REQUEST.unpack(head)
    name, media_type, data = stream.read(name_length), stream.read(type_length), stream.read(length)
    if len(data) < length:
        return None
    return Request(number, _decode(name), data, inside, _decode(media_type) or None)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")


def encode_ready(facts: dict[str, str]) -> list[bytes | bytearray]:
    """Return what a parser process says once when it is ready."""
    return _reply(READY, facts, [])


def encode_outcome(number: int, outcome: Outcome) -> list[bytes | bytearray]:
    """Return the reply that delivers ``outcome``, in pieces. Raises UnicodeEncodeError for lone surrogates."""
    header: dict[str, object] = {"status": outcome.status, "parser": outcome.parser_id, "detail": outcome.detail}
    document = outcome.document
    if document is None:
        return _reply(number, header, [])
    text = document.text.encode()
    kinds, spans, paths, pages = bytearray(), array("I"), array("I"), array("I")
    numbers: dict[tuple[str, ...], int] = {}
    for kind, start, end, path, page in map(_columns, document.blocks):
        kinds.append(_KIND_NUMBERS[id(kind)])
        spans.append(start)
        spans.append(end)
        paths.append(numbers.setdefault(path, len(numbers)))
        pages.append(page or 0)
    header |= {
        "media_type": document.media_type,
        "title": document.title,
        "metadata": dict(document.metadata),
        "paths": list(numbers),
        "blocks": len(kinds),
        "attachments": [_listed(each) for each in document.attachments],
    }
    attached = [each.data for each in document.attachments]
    return _reply(number, header, [text, kinds, spans.tobytes(), paths.tobytes(), pages.tobytes(), *attached])


def _reply(number: int, header: object, body: list[bytes | bytearray]) -> list[bytes | bytearray]:
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return [REPLY.pack(number, len(encoded), sum(map(len, body))) + encoded, *body]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as it came: nothing of it is checked."""

    number: int
    header: bytes
    body: memoryview


def take_replies(received: bytearray, longest: int) -> tuple[list[Reply], bytearray]:
    """Return the whole replies at the front of what was received, and the rest. The replies lie in ``received``: no copy.

    Raises TooLong when a reply of more than ``longest`` bytes is the first, as soon as it begins.
    """
    replies: list[Reply] = []
    start = 0
    view = memoryview(received)
    while len(view) - start >= REPLY.size:
        number, header_length, body_length = REPLY.unpack_from(view, start)
        if header_length + body_length > longest:
            if replies:
                break
            raise TooLong(f"{header_length + body_length:,}")
        body_start = start + REPLY.size + header_length
        end = body_start + body_length
        if len(view) < end:
            break
        replies.append(Reply(number, bytes(view[start + REPLY.size : body_start]), view[body_start:end]))
        start = end
    if not replies:
        view.release()
        return replies, received
    return replies, bytearray(view[start:])


def decode_ready(reply: Reply) -> dict[str, str]:
    """Return the facts that a parser process tells when it is ready. Raises InvalidReply."""
    try:
        if reply.number != READY:
            raise ValueError(f"reply {reply.number} before it was ready")
        return _strings(json.loads(reply.header))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidReply(f"{type(error).__name__}: {error}") from None


def decode_outcome(number: int, reply: Reply) -> Outcome:
    """Return the outcome that the reply to request ``number`` delivers. Raises InvalidReply for anything that is none."""
    try:
        if reply.number != number:
            raise ValueError(f"reply {reply.number} to request {number}")
        fields = json.loads(reply.header)
        status = Status(fields["status"])
        if status not in _STATUSES:
            raise ValueError(f"an item can't become {status} in a parser")
        opened = status is Status.EXCLUDED and "blocks" in fields
        document = _document(fields, reply.body) if status.good or opened else None
        parser_id = None if fields["parser"] is None else _string(fields["parser"])
        return Outcome(status, document, parser_id, _string(fields["detail"])[:_MESSAGE_CHARACTERS])
    # struct, array and str say with ValueError what doesn't fit; UnicodeError is one.
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise InvalidReply(f"{type(error).__name__}: {error}") from None


def _document(fields: dict[str, Any], body: memoryview) -> Document:
    attachments, end = _attachments(fields["attachments"], body)
    body = body[:end]
    count = fields["blocks"]
    if type(count) is not int or not 0 <= count * _BLOCK_BYTES <= len(body):
        raise ValueError(f"{count} blocks")
    text_end = len(body) - count * _BLOCK_BYTES
    text = str(body[:text_end], "utf-8")
    kinds = body[text_end : text_end + count]
    numbers = array("I")
    numbers.frombytes(body[text_end + count :])
    spans, paths, pages = numbers[: 2 * count].tolist(), numbers[2 * count : 3 * count], numbers[3 * count :]
    if spans and (spans != sorted(spans) or spans[-1] > len(text)):
        raise ValueError("blocks that overlap or leave the text")
    known = [tuple(map(_string, path)) for path in _list(fields["paths"])]
    blocks = map(
        Block,
        map(_KINDS.__getitem__, kinds),
        spans[::2],
        spans[1::2],
        map(known.__getitem__, paths),
        (page or None for page in pages),
    )
    title = None if fields["title"] is None else _string(fields["title"])
    return Document(text, _string(fields["media_type"]), tuple(blocks), title, _strings(fields["metadata"]), attachments)


def _listed(attachment: Attachment) -> list[str | int]:
    return [attachment.name, attachment.media_type, len(attachment.data), *(attachment.known or ())]


def _known(status: object, detail: object) -> tuple[Status, str]:
    found = Status(_string(status))
    if found not in _STATUSES or found.good:
        raise ValueError(f"an attachment can't be {found} before it is parsed")
    return found, _string(detail)[:_MESSAGE_CHARACTERS]


def _attachments(listed: object, body: memoryview) -> tuple[tuple[Attachment, ...], int]:
    """The attachments, and where the body ends without them."""
    found: list[Attachment] = []
    end = len(body)
    for name, media_type, length, *known in reversed(_list(listed)):
        if type(length) is not int or not 0 <= length <= end:
            raise ValueError(f"an attachment of {length} bytes")
        data = bytes(body[end - length : end])
        found.append(Attachment(_string(name), _string(media_type), data, _known(*known) if known else None))
        end -= length
    return tuple(reversed(found)), end


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a value that is no string")
    # JSON can hold lone surrogates, UTF-8 can't: raises UnicodeEncodeError.
    value.encode()
    return value


def _strings(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError("a value that is no object")
    return {_string(key): _string(each) for key, each in value.items()}


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a value that is no list")
    return value
