"""Spans that chunks keep whole: formulas, code, table rows and headings.

What belongs here: what must not be cut. What doesn't: where to cut instead (breaks), and whether a span fits (chunker).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache

from kb_pipeline.parsing.document import BlockKind, Document
from kb_pipeline.parsing.spans import line_spans

_WHOLE = frozenset({BlockKind.CODE, BlockKind.FORMULA, BlockKind.HEADING})
_FORMULA_ENVIRONMENTS = (
    "equation|align|gather|multline|eqnarray|alignat|flalign|displaymath|math|tikzcd|array|matrix|pmatrix|cases|split"
)


class Atoms:
    """Sorted, disjoint spans ``(start, end)`` that no cut may fall inside."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self._starts = [start for start, _ in spans]
        self._ends = [end for _, end in spans]

    def free(self, position: int) -> bool:
        """Tell whether a cut at ``position`` leaves every span whole."""
        before = bisect_left(self._starts, position) - 1
        return before < 0 or self._ends[before] <= position

    def edges(self, low: int, high: int) -> Iterator[int]:
        """Yield the ends and starts of spans in ``(low, high]``, the last first."""
        for i in range(bisect_left(self._starts, high + 1) - 1, -1, -1):
            if self._ends[i] <= low:
                return
            if self._ends[i] <= high:
                yield self._ends[i]
            if self._starts[i] > low:
                yield self._starts[i]


def find_atoms(document: Document, max_characters: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of ``document`` to keep whole, in order. Inline ones are sought up to ``max_characters`` long.

    Whole blocks of code, formulas and headings; the lines of tables; and inside all other text TeX formulas
    (``$…$``, ``\\(…\\)``, ``$$…$$``, ``\\[…\\]``, environments) and code between backticks.
    """
    text = document.text
    inline = _inline(max_characters)
    if not document.blocks:
        for match in inline.finditer(text):
            yield match.span()
    for block in document.blocks:
        if block.kind in _WHOLE:
            yield block.start, block.end
        elif block.kind is BlockKind.TABLE:
            yield from line_spans(text, block.start, block.end)
        else:
            for match in inline.finditer(text, block.start, block.end):
                yield match.span()


@lru_cache(maxsize=8)
def _inline(longest: int) -> re.Pattern[str]:
    # Every repeat has a bound: openings that nothing closes must not each search the whole text.
    near = min(longest, 400)
    return re.compile(
        rf"\$\$[^$]{{1,{longest}}}?\$\$"
        rf"|\\\[(?:[^\\]|\\(?!\[)){{1,{longest}}}?\\\]"
        rf"|\\\((?:[^\\]|\\(?!\()){{1,{near}}}?\\\)"
        rf"|\\begin\{{(?P<e>(?:{_FORMULA_ENVIRONMENTS})\*?)\}}.{{0,{longest}}}?\\end\{{(?P=e)\}}"
        rf"|(?<![\\$])\$(?![\s$])(?:\\.|[^$\\\n]|\n(?![ \t]*\n)){{1,{near}}}?(?<![\s\\])\$(?!\d)"
        rf"|(?<!`)`[^`\n]{{1,{near}}}`(?!`)|``[^\n]{{1,{near}}}?``",
        re.S,
    )
