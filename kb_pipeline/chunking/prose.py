"""The layout of prose, and of any document whose structure its parser has told: headings, paragraphs, lists, tables.

What belongs here: blocks to layout. What doesn't: finding blocks, which is the parsers' work.
"""

from __future__ import annotations

from collections.abc import Sequence

from kb_pipeline.chunking.atoms import find_atoms
from kb_pipeline.chunking.layout import Layout, Span
from kb_pipeline.chunking.tables import header
from kb_pipeline.parsing.document import Block, BlockKind


def layout(
    text: str, blocks: Sequence[Block], max_characters: int, *, quoted_rows: bool = False, wholes: Sequence[Span] = ()
) -> Layout:
    """Return the layout of ``text`` with these blocks. Formulas and code are sought up to ``max_characters`` long."""
    headings = [block.start for block in blocks if block.kind is BlockKind.HEADING]
    headers = {
        block.start: found
        for block in blocks
        if block.kind is BlockKind.TABLE and (found := header(text, block.start, block.end, quoted=quoted_rows))
    }
    # Not as a list: a long table has millions of rows.
    atoms = find_atoms(text, blocks, max_characters, quoted_rows=quoted_rows)
    return Layout(blocks, atoms, wholes, headings, frozenset(headings), headers)
