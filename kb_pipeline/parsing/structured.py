"""Structured data as text: JSON and JSON Lines.

What belongs here: formats whose text is kept as it is after a check that it is valid.
"""

from __future__ import annotations

import json

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.spans import line_spans, stripped_span
from kb_pipeline.parsing.text import decode
from kb_pipeline.statuses import Status


def parse_json(data: bytes, name: str) -> Document:
    """Parse one JSON value. Raises ParseError(CORRUPT) when it is none."""
    text, encoding = decode(data)
    load(text)
    blocks = tuple(Block(BlockKind.CODE, start, end) for start, end in stripped_span(text, 0, len(text)))
    return Document(text, "application/json", blocks, metadata={"encoding": encoding})


def parse_json_lines(data: bytes, name: str) -> Document:
    """Parse one JSON value per line, as the rows of a table. Raises ParseError(CORRUPT) naming the first bad line."""
    text, encoding = decode(data)
    for number, (start, end) in enumerate(line_spans(text), 1):
        line = text[start:end]
        if line.strip():
            load(line, f"Line {number}")
    blocks = tuple(Block(BlockKind.TABLE, start, end) for start, end in stripped_span(text, 0, len(text)))
    return Document(text, "application/jsonl", blocks, metadata={"encoding": encoding})


def load(text: str, what: str = "The text") -> object:
    """Return the JSON value of ``text``. Raises ParseError(CORRUPT), with ``what`` as the subject of its sentence."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParseError(Status.CORRUPT, f"{what} is not valid JSON: {error}.") from None
    return value
