"""From an item's bytes to its outcome, in this process. The pipeline calls it inside parser processes only (``pool``).

What belongs here: what every parser's result is turned into. What doesn't: any format, and the limit on bytes,
which the caller applies before it reads the item into memory.
"""

from __future__ import annotations

from dataclasses import replace

from kb_pipeline.parsing import archive
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.outcome import ARCHIVE, NO_PARSER, Outcome
from kb_pipeline.parsing.registry import HEAD_BYTES, choose
from kb_pipeline.parsing.signatures import byte_order_mark
from kb_pipeline.statuses import Status

MAX_ATTACHMENTS = 10_000
"""Items directly inside one. A listing may name more; an item that holds so many is a bomb."""

_NO_ROOM_FOR_LIBRARY = "failed to map segment from shared object"


def parse_item(name: str, data: bytes, *, inside: bool = False, media_type: str | None = None) -> Outcome:
    """Parse one item, given its file name and all its bytes. Raises nothing because of the item but MemoryError.

    ``inside``: the item was found in another one. ``media_type``: what its source says it is (``registry.choose``).
    """
    mark = byte_order_mark(data[:4])
    if not data[len(mark[0]) if mark else 0 :].strip():
        return Outcome(Status.EMPTY, Document("", "text/plain"))
    parser = choose(name, data[:HEAD_BYTES], inside=inside, media_type=media_type)
    if parser is None:
        return Outcome(Status.EXCLUDED, detail=NO_PARSER)
    try:
        document = parser.parse(data, name)
    except ParseError as error:
        return Outcome(error.status, None, parser.id, str(error))
    except MemoryError:
        raise
    except (ImportError, OSError) as error:
        # Native code is loaded when it is first needed, within the item's limit.
        if _NO_ROOM_FOR_LIBRARY in str(error):
            raise MemoryError from error
        return _defect(parser.id, error)
    # Every defect of a parser that some file brings to light must cost that file only, never the run.
    except Exception as error:  # noqa: BLE001
        return _defect(parser.id, error)
    if (holds := len(document.attachments)) > MAX_ATTACHMENTS:
        detail = f"{holds:,} items lie inside; the limit is {MAX_ATTACHMENTS:,}."
        return Outcome(Status.TOO_LARGE, None, parser.id, detail)
    if document.media_type == archive.MEDIA_TYPE:
        return Outcome(Status.EXCLUDED, document, parser.id, ARCHIVE)
    return Outcome(Status.PARSED if document.text.strip() else Status.NO_TEXT, document, parser.id)


def _defect(parser_id: str, error: Exception) -> Outcome:
    return Outcome(Status.CRASHED, None, parser_id, f"{type(error).__name__}: {error}")


def encodable(outcome: Outcome) -> Outcome:
    """Return the outcome with U+FFFD for lone surrogates, which JSON can hold and UTF-8 can't. Positions stay."""
    document = outcome.document
    if document is not None:
        document = replace(
            document,
            text=_clean(document.text),
            title=None if document.title is None else _clean(document.title),
            blocks=tuple(replace(block, heading_path=tuple(map(_clean, block.heading_path))) for block in document.blocks),
            metadata={_clean(key): _clean(value) for key, value in document.metadata.items()},
            attachments=tuple(
                replace(each, name=_clean(each.name), media_type=_clean(each.media_type)) for each in document.attachments
            ),
        )
    return replace(outcome, document=document, detail=_clean(outcome.detail))


def _clean(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text
