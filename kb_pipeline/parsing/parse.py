"""From an item's bytes to its outcome: the one call that the pipeline makes.

What belongs here: what every parser's result is turned into. What doesn't: any format, and the limit on bytes,
which the caller applies before it reads the item into memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.isolation import IsolatedParser, WorkerUnavailable
from kb_pipeline.parsing.registry import HEAD_BYTES, choose
from kb_pipeline.parsing.signatures import byte_order_mark
from kb_pipeline.statuses import Status

NO_PARSER = "no_parser"
_MESSAGE_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item.

    ``document``  there exactly when ``status.good``.
    ``parser_id`` the parser that was chosen, or None (empty items need none).
    ``detail``    one sentence for a person; for EXCLUDED the name of the rule; "" when there is nothing to say.
    """

    status: Status
    document: Document | None = None
    parser_id: str | None = None
    detail: str = ""


def parse_item(name: str, data: bytes, *, isolated: IsolatedParser) -> Outcome:
    """Parse one item, given its file name and all its bytes. ``isolated`` runs the parsers that need it.

    Raises nothing because of the item. Raises WorkerUnavailable when the parser process can't be started: that says
    nothing about the item.
    """
    mark = byte_order_mark(data[:4])
    if not data[len(mark[0]) if mark else 0 :].strip():
        return Outcome(Status.EMPTY, Document("", "text/plain"))
    parser = choose(name, data[:HEAD_BYTES])
    if parser is None:
        return Outcome(Status.EXCLUDED, detail=NO_PARSER)
    try:
        document = isolated.parse(parser.id, data, name) if parser.isolated else parser.parse(data, name)
    except ParseError as error:
        return Outcome(error.status, None, parser.id, str(error)[:_MESSAGE_CHARACTERS])
    except WorkerUnavailable:
        raise
    # Every defect of a parser that some file brings to light must cost that file only, never the run.
    except Exception as error:  # noqa: BLE001
        detail = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
        return Outcome(Status.CRASHED, None, parser.id, detail)
    document = _encodable(document)
    return Outcome(Status.PARSED if document.text.strip() else Status.NO_TEXT, document, parser.id)


def _encodable(document: Document) -> Document:
    """Return the document with U+FFFD for lone surrogates, which JSON can hold and UTF-8 can't. Positions stay."""
    return replace(
        document,
        text=_clean(document.text),
        title=None if document.title is None else _clean(document.title),
        blocks=tuple(
            block
            if all(map(_is_clean, block.heading_path))
            else replace(block, heading_path=tuple(map(_clean, block.heading_path)))
            for block in document.blocks
        ),
        metadata={_clean(key): _clean(value) for key, value in document.metadata.items()},
    )


def _is_clean(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _clean(text: str) -> str:
    return text if _is_clean(text) else "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
