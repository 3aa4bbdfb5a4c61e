"""The layout of notebooks: a cell stays whole where it fits, a code cell with its outputs.

What belongs here: cells. What doesn't: how cells become text, which is the parser's work (``parsing.notebook``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kb_pipeline.chunking import prose
from kb_pipeline.chunking.layout import Layout, Span
from kb_pipeline.parsing.document import Block, BlockKind

_SOURCE = re.compile(r"[`~]{3,}[^\S\n]*\S")


def layout(text: str, blocks: Sequence[Block], max_characters: int) -> Layout:
    """Return the layout of a notebook's text."""
    return prose.layout(text, blocks, max_characters, wholes=_cells(text, blocks))


def _cells(text: str, blocks: Sequence[Block]) -> list[Span]:
    """Return the spans of cells, as far as blocks tell them.

    The parser writes the source of a code cell as a fence with the language behind it, and the outputs as fences
    without. Text between two code cells counts as one cell for each of its headings.
    """
    spans: list[Span] = []
    before: BlockKind | None = None
    for block in blocks:
        if block.kind is BlockKind.CODE:
            begins = before is not BlockKind.CODE or _SOURCE.match(text, block.start) is not None
        else:
            begins = before is BlockKind.CODE or block.kind is BlockKind.HEADING
        if begins or not spans:
            spans.append((block.start, block.end))
        else:
            spans[-1] = (spans[-1][0], block.end)
        before = block.kind
    return spans
