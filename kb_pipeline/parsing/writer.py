"""Collects a document that is turned into Markdown, block by block.

What belongs here: how blocks are put one after the other, with their positions. What doesn't: which blocks a format has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from kb_pipeline.parsing.document import Attachment, Block, BlockKind, Document
from kb_pipeline.parsing.headings import HeadingStack

_LIST_LEVELS = 20
_DISPLAY = re.compile(r"\$\$[^$]+\$\$|\\\[(?:(?!\\\]).)+\\\]", re.S)


class Writer:
    """Blocks of Markdown, blank lines between them. ``page``, where set, is the page of what is added from then on."""

    def __init__(self) -> None:
        self.headings = HeadingStack()
        self.page: int | None = None
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0

    @property
    def empty(self) -> bool:
        """True when nothing was added yet."""
        return not self._blocks

    def add(self, kind: BlockKind, text: str) -> None:
        """Add one block, unless it is blank. A paragraph that is nothing but a display formula becomes a formula."""
        if not text.strip():
            return
        if kind is BlockKind.PARAGRAPH and _DISPLAY.fullmatch(text.strip()):
            kind = BlockKind.FORMULA
        start = self._append("\n\n", text)
        self._blocks.append(Block(kind, start, self._length, self.headings.path, self.page))

    def heading(self, level: int, title: str) -> None:
        """Add a heading, unless it is blank. Levels below 6 are written as 6."""
        if title.strip():
            path = self.headings.push(level, title)
            start = self._append("\n\n", f"{'#' * min(level, 6)} {title}")
            self._blocks.append(Block(BlockKind.HEADING, start, self._length, path, self.page))

    def item(self, text: str, *, marker: str, level: int, joined: bool) -> None:
        """Add one item of a list, unless it is blank. ``level``: from 0. ``joined``: to the list that ends the text.

        ``marker`` is like "- ", or spaces for what continues an item. Past 20 levels the indent stays: it would take
        more room than the text.
        """
        text = f"{'  ' * min(level, _LIST_LEVELS)}{marker}{text}"
        if not joined or not self._blocks or self._blocks[-1].kind is not BlockKind.LIST:
            self.add(BlockKind.LIST, text)
        elif text.strip():
            self._append("\n", text)
            last = self._blocks.pop()
            self._blocks.append(Block(last.kind, last.start, self._length, last.heading_path, last.page))

    def table(self, rows: Sequence[Sequence[str]], *, header: bool) -> None:
        """Add a table, each cell on one line; blank rows are left out. ``header``: the first row is one.

        Bars inside cells stay bare: a backslash before them would change formulas.
        """
        lines: list[str] = []
        for row in rows:
            cells = [" ".join(cell.split()) for cell in row]
            if any(cells):
                lines.append(f"| {' | '.join(cells)} |")
                if len(lines) == 1 and header:
                    lines.append("|" + " --- |" * len(cells))
        self.add(BlockKind.TABLE, "\n".join(lines))

    def document(
        self,
        media_type: str,
        title: str | None,
        metadata: Mapping[str, str],
        attachments: tuple[Attachment, ...] = (),
    ) -> Document:
        """Return what was collected. A blank ``title`` gives way to the first heading of the first level."""
        title = title or self.headings.first
        return Document("".join(self._parts), media_type, tuple(self._blocks), title, metadata, attachments)

    def _append(self, gap: str, text: str) -> int:
        """Append ``text`` after ``gap``; return where it begins."""
        if self._parts:
            self._parts.append(gap)
            self._length += len(gap)
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        return start
