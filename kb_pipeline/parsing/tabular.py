"""Tables of plain text: comma- and tab-separated values.

What belongs here: formats whose lines are rows. The text is kept as it is, as one table.
"""

from __future__ import annotations

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.spans import stripped_span
from kb_pipeline.parsing.text import decode


def parse_csv(data: bytes, name: str) -> Document:
    """Parse comma-separated values."""
    return _parse(data, "text/csv")


def parse_tsv(data: bytes, name: str) -> Document:
    """Parse tab-separated values."""
    return _parse(data, "text/tab-separated-values")


def _parse(data: bytes, media_type: str) -> Document:
    text, encoding = decode(data)
    blocks = tuple(Block(BlockKind.TABLE, start, end) for start, end in stripped_span(text, 0, len(text)))
    return Document(text, media_type, blocks, metadata={"encoding": encoding})
