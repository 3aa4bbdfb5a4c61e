"""Spans that chunks keep whole: formulas, code, table rows and headings.

What belongs here: what must not be cut. What doesn't: where to cut instead (breaks), and whether a span fits (cutter).
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from kb_pipeline.chunking.layout import Span
from kb_pipeline.chunking.tables import rows
from kb_pipeline.parsing.document import Block, BlockKind
from kb_pipeline.parsing.environments import DISPLAYED, INNER

_WHOLE = frozenset({BlockKind.CODE, BlockKind.FORMULA, BlockKind.HEADING})
_FORMULA_ENVIRONMENTS = "|".join((*DISPLAYED, *INNER))


_PIECE = 1 << 18
"""Characters searched for formulas at a time; a tenth of a second at worst."""
_EDGE = 64
"""What a formula's marks may take beyond its characters."""


class Atoms:
    """Sorted, disjoint spans ``(start, end)`` that no cut may fall inside."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._starts, self._ends = array("I"), array("I")
        for start, end in spans:
            self._starts.append(start)
            self._ends.append(end)

    def free(self, position: int) -> bool:
        """Tell whether a cut at ``position`` leaves every span whole."""
        before = bisect_left(self._starts, position) - 1
        return before < 0 or self._ends[before] <= position

    def around(self, position: int) -> Span | None:
        """Return the span that holds the character at ``position``, or None."""
        i = bisect_right(self._starts, position) - 1
        return (self._starts[i], self._ends[i]) if i >= 0 and position < self._ends[i] else None

    def edges(self, low: int, high: int) -> Iterator[int]:
        """Yield the ends and starts of spans in ``(low, high]``, the last first."""
        for i in range(bisect_left(self._starts, high + 1) - 1, -1, -1):
            if self._ends[i] <= low:
                return
            if self._ends[i] <= high:
                yield self._ends[i]
            if self._starts[i] > low:
                yield self._starts[i]


def find_atoms(
    text: str, blocks: Sequence[Block], max_characters: int, *, quoted_rows: bool = False
) -> Iterator[tuple[int, int, BlockKind]]:
    """Yield the spans of ``text`` to keep whole, in order. Inline ones are sought up to about ``max_characters`` long.

    Whole blocks of code, formulas and headings; the rows of tables (in quotes, they may have line ends, if
    ``quoted_rows``); and inside all other text TeX formulas (``$…$``, ``\\(…\\)``, ``$$…$$``, ``\\[…\\]``,
    environments) and code between backticks.
    """
    if not blocks:
        yield from find_inline(text, 0, len(text), max_characters)
    for block in blocks:
        if block.kind in _WHOLE:
            yield block.start, block.end, block.kind
        elif block.kind is BlockKind.TABLE:
            for start, end in rows(text, block.start, block.end, quoted=quoted_rows):
                yield start, end, BlockKind.TABLE
        else:
            yield from find_inline(text, block.start, block.end, max_characters)


def find_formulas(text: str, blocks: Sequence[Block], max_characters: int) -> Iterator[Span]:
    """Yield the formulas of ``text``, in order: the blocks that are one, and TeX inside all others but code."""
    if not blocks:
        blocks = (Block(BlockKind.PARAGRAPH, 0, len(text)),)
    for block in blocks:
        if block.kind is BlockKind.FORMULA:
            yield block.start, block.end
        elif block.kind is not BlockKind.CODE:
            for start, end, kind in find_inline(text, block.start, block.end, max_characters):
                if kind is BlockKind.FORMULA:
                    yield start, end


def find_inline(text: str, start: int, end: int, max_characters: int) -> Iterator[tuple[int, int, BlockKind]]:
    """Yield the TeX formulas and the code between backticks in ``text[start:end]``, in order."""
    pattern, reach = _inline(max_characters), 4 * max_characters + _EDGE
    while start < end:
        # In pieces: one search through a long text would keep every other thread of this process waiting.
        stop = min(end, start + _PIECE + reach)
        match = pattern.search(text, start, stop)
        if match is not None and (stop == end or match.start() < start + _PIECE):
            kind = BlockKind.CODE if text[match.start()] == "`" else BlockKind.FORMULA
            yield match.start(), match.end(), kind
            start = match.end()
        else:
            start = stop if stop == end else start + _PIECE


@lru_cache(maxsize=8)
def _inline(longest: int) -> re.Pattern[str]:
    # Every repeat has a bound: openings that nothing closes must not each search the whole text. The forms whose search
    # ends at the next opening may look further, so that formulas too long for a chunk are noticed. Between dollars that
    # are so far apart there must be what only TeX has: prices are in dollars too.
    near, far = min(longest, 400), 4 * longest
    return re.compile(
        rf"\$\$[^$]{{1,{far}}}?\$\$"
        rf"|\\\[(?:[^\\]|\\(?!\[)){{1,{far}}}?\\\]"
        rf"|\\\((?:[^\\]|\\(?!\()){{1,{far}}}?\\\)"
        rf"|\\begin\{{(?P<e>(?:{_FORMULA_ENVIRONMENTS})\*?)\}}(?:(?!\\begin\{{(?P=e)\}}).){{0,{longest}}}?\\end\{{(?P=e)\}}"
        rf"|(?<![\\$])\$(?![\s$])(?:\\.|[^$\\\n]|\n(?![ \t]*\n)){{1,{near}}}?(?<![\s\\])\$(?!\d)"
        rf"|(?<![\\$])\$(?![\s$])(?=[^$]{{0,{near}}}[\\^_])(?:\\.|[^$\\\n]|\n(?![ \t]*\n)){{{near},{far}}}?"
        rf"(?<![\s\\])\$(?!\d)"
        rf"|(?<!`)`[^`\n]{{1,{near}}}`(?!`)|``[^\n]{{1,{near}}}?``",
        re.S,
    )
