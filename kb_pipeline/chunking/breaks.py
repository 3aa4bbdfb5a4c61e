"""Where a text may be cut, the strongest place first.

What belongs here: the order of places. It is: block or blank line, list item, line end that ends a sentence (any line
end in code, tables and lists), sentence, line, space; then the edges of formulas and code, and punctuation.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from kb_pipeline.chunking.atoms import Atoms
from kb_pipeline.parsing.document import Block, BlockKind

_BLANK_LINES = re.compile(r"\n[ \t\r\f\v]*\n(?:[ \t\r\f\v]*\n)*")
_ITEM = re.compile(r"^(?=[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t])", re.M)
_LINE = re.compile(r"\n")
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]")
_SPACE = re.compile(r"[ \t\n\r]+")
_PUNCTUATION = re.compile(r"[^\w\s]")
_SENTENCE_ENDS = (".", "!", "?", ":", ";", "。", "！", "？", '."', ".)")
_LINED = frozenset({BlockKind.CODE, BlockKind.TABLE, BlockKind.LIST, BlockKind.FORMULA})
_NO_PROSE = frozenset({BlockKind.CODE, BlockKind.TABLE})
# A cut is sought in this last part of the window before anything weaker is taken from it.
_SEARCHED = 0.6


class Breaks:
    """The places to cut one text."""

    def __init__(self, text: str, blocks: Sequence[Block], atoms: Atoms) -> None:
        self._text = text
        self._atoms = atoms
        self._blocks = blocks
        self._starts = [block.start for block in blocks]

    def best(self, start: int, low: int, high: int) -> int | None:
        """Return where to end a chunk that begins at ``start``: a position in ``(low, high]``, or None.

        The strongest place in the last 60 % of the window from ``start`` to ``high``, the last one of its kind; without
        any, the strongest before that. None means that only a place inside a word or an atom is left.
        """
        middle = max(low, high - int((high - start) * _SEARCHED))
        for after, until in ((middle, high), (low, middle)):
            for level in (self._at_blocks, self._at_items, self._at_strong_lines, self._at_sentences, self._at_lines):
                if found := self._last(level(after, until)):
                    return found
            if found := self._last(_matches(_SPACE, self._text, after, until)):
                return found
        return self._last(self._atoms.edges(low, high)) or self._last(_matches(_PUNCTUATION, self._text, low, high))

    def overlap(self, low: int, high: int) -> int:
        """Return the first place in ``(low, high)`` where a sentence, a line or a block begins, or ``high``."""
        places = [*self._at_blocks(low, high), *self._at_sentences(low, high), *self._at_lines(low, high)]
        return min((place for place in places if self._atoms.free(place)), default=high)

    def _last(self, places: Iterator[int]) -> int | None:
        return next((place for place in places if self._atoms.free(place)), None)

    def _at_blocks(self, low: int, high: int) -> Iterator[int]:
        found = _matches(_BLANK_LINES, self._text, low, high)
        first, last = bisect_right(self._starts, low), bisect_right(self._starts, high)
        starts = (self._line_start(start, low) for start in reversed(self._starts[first:last]))
        # Block starts and blank lines mostly coincide: sorted, the last of either comes first.
        yield from sorted({*found, *starts}, reverse=True)

    def _line_start(self, position: int, low: int) -> int:
        """Return ``position``, or before the indent that stands in front of it."""
        indent = position
        while indent - 1 > low and self._text[indent - 1] in " \t":
            indent -= 1
        return indent if self._text[indent - 1 : indent] == "\n" else position

    def _at_items(self, low: int, high: int) -> Iterator[int]:
        # What looks like a list item in code is a line of a comment, or a sum.
        return (place for place in _matches(_ITEM, self._text, low, high) if not self._is_in(_NO_PROSE, place))

    def _at_lines(self, low: int, high: int) -> Iterator[int]:
        return _matches(_LINE, self._text, low, high)

    def _at_strong_lines(self, low: int, high: int) -> Iterator[int]:
        for place in self._at_lines(low, high):
            if self._text[max(low, place - 4) : place].rstrip().endswith(_SENTENCE_ENDS) or self._is_in(_LINED, place):
                yield place

    def _at_sentences(self, low: int, high: int) -> Iterator[int]:
        return _matches(_SENTENCE, self._text, low, high)

    def _is_in(self, kinds: frozenset[BlockKind], position: int) -> bool:
        i = bisect_left(self._starts, position) - 1
        return i >= 0 and self._blocks[i].kind in kinds


def _matches(pattern: re.Pattern[str], text: str, low: int, high: int) -> Iterator[int]:
    """Yield the ends of matches in ``(low, high]``, the last first."""
    return reversed([match.end() for match in pattern.finditer(text, low, high) if match.end() > low])
