"""Cutting a text, whose structure a layout describes, into chunks that an embedding model can read whole.

What belongs here: the cutting. What doesn't: the structure (layout), and which places are good ones to cut (breaks).

The method: encode the text once, then walk through it with a window of as many tokens as a chunk may have, and end each
chunk at the strongest break in the last part of the window that no atom crosses.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kb_pipeline.chunking.atoms import Atoms, find_inline
from kb_pipeline.chunking.breaks import Breaks
from kb_pipeline.chunking.layout import Layout, Span
from kb_pipeline.chunking.settings import MAX_CHARACTERS_PER_TOKEN, MIN_TOKENS, ChunkerSettings
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing.document import BlockKind

_NOT_BLANK = re.compile(r"\S")
_WHITE_SPACE = frozenset(" \t\n\r")
_BY_WEIGHT = (BlockKind.FORMULA, BlockKind.CODE, BlockKind.TABLE)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The span ``text[start:end]`` (characters) of a document.

    ``n_tokens``      tokens of exactly ``prefix`` and this span, tokenized by themselves, without special tokens.
    ``heading_path``  the headings in force at its first character that isn't white space.
    ``page``          the page of that character, where the format has pages.
    ``kind``          the block kind that most of its characters belong to.
    ``prefix``        what is read before the span: the header of the table that the span begins in the middle of.
    ``partial``       ``formula``, ``code`` or ``table`` (a row) when the chunk holds a part of one too long for a chunk.
    """

    start: int
    end: int
    n_tokens: int
    heading_path: tuple[str, ...]
    page: int | None
    kind: str
    prefix: str = ""
    partial: str | None = None


class Measured:
    """A text with the places of its tokens."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self.tokenizer = tokenizer
        self.starts: array[int] = tokenizer.starts(text)

    def tokens(self, start: int, end: int) -> int:
        """Return the number of tokens that begin in ``text[start:end]``."""
        return bisect_left(self.starts, end) - bisect_left(self.starts, start)

    def fits(self, start: int, end: int, tokens: int) -> bool:
        """Tell whether a span may be whole in a chunk of ``tokens``."""
        return end - start <= tokens * MAX_CHARACTERS_PER_TOKEN and self.tokens(start, end) <= tokens


class Cutter:
    """Cuts one text."""

    def __init__(self, measured: Measured, layout: Layout, settings: ChunkerSettings) -> None:
        self._measured = measured
        self._text = measured.text
        self._tokenizer = measured.tokenizer
        self._token_starts = measured.starts
        self._tokens = measured.tokens
        self._layout = layout
        self._settings = settings
        self._most_characters = settings.tokens * MAX_CHARACTERS_PER_TOKEN
        self._tiny = settings.tokens // 4
        self._blocks = layout.blocks
        self._block_starts = [block.start for block in layout.blocks]
        self._sections = layout.sections if settings.respect_headings else ()
        self._text_end = len(self._text.rstrip())
        self._sort_atoms()
        self._breaks = Breaks(self._text, layout.blocks, self._atoms)

    def _sort_atoms(self) -> None:
        """Part the atoms into those that fit into a chunk and those that don't."""
        wholes = [span for span in self._layout.wholes if self._measured.fits(*span, self._settings.tokens)]
        self._oversize: list[tuple[int, int, BlockKind]] = []
        fitting = self._fitting(wholes)
        self._atoms = Atoms(sorted([*wholes, *fitting]) if wholes else fitting)
        self._oversize_ends = [end for _, end, _ in self._oversize]

    def _fitting(self, wholes: Sequence[Span]) -> Iterator[Span]:
        """Yield the atoms outside ``wholes`` that fit, and note the others."""
        inside = Atoms(wholes)
        for start, end, kind in self._layout.atoms:
            if wholes and inside.around(start) is not None:
                continue
            if self._measured.fits(start, end, self._settings.tokens):
                yield start, end
            elif kind is BlockKind.TABLE:
                yield from self._open_row(start, end)
            elif kind in _BY_WEIGHT:
                self._oversize.append((start, end, kind))

    def _open_row(self, start: int, end: int) -> Iterator[Span]:
        """Take a row that is too long for a chunk apart: formulas in it may still be whole, and are yielded."""
        done = start
        for first, last, kind in find_inline(self._text, start, end, self._most_characters):
            if self._measured.fits(first, last, self._settings.tokens):
                yield first, last
            else:
                self._oversize += [(done, first, BlockKind.TABLE), (first, last, kind)]
                done = last
        self._oversize.append((done, end, BlockKind.TABLE))

    def chunks(self) -> Iterator[Chunk]:
        """Cut the whole text, which must not be blank."""
        done = 0
        start = 0
        while done < len(self._text):
            start = self._overlap_start(start, done) if done else 0
            end, n_tokens = self._fit(start, done)
            if start < done and (end <= done or n_tokens > self._settings.tokens):
                # A word too long for the rest of the window leaves no room for the overlap.
                start = done
                end, n_tokens = self._fit(start, done)
            yield self._chunk(start, end, n_tokens)
            done = end

    def _fit(self, start: int, done: int) -> tuple[int, int]:
        """Return the end of the chunk from ``start``, after ``done`` where possible, and its number of tokens.

        With overlap (``start < done``) there may be no such end: then it is not after ``done``, or has too many tokens.
        """
        prefix, prefix_tokens = self._prefix(start)
        most = self._settings.tokens - prefix_tokens
        match = _NOT_BLANK.search(self._text, done)
        # A chunk ends after a character that isn't blank, so no chunk is blank.
        low = match.start() if match else done
        end = self._propose(start, low, most, repeats=start < done)
        while end > low:
            n_tokens = self._tokens(start, end)
            if not (self._is_exact(start) and self._is_exact(end)):
                n_tokens = self._tokenizer.count(prefix + self._text[start:end]) - prefix_tokens
            if n_tokens <= most or end - start == 1:
                return end, n_tokens + prefix_tokens
            # A cut inside a word has changed its tokens: take proportionally less, which is less at every turn.
            high = start + max(1, (end - start) * most // n_tokens)
            if high <= low and start < done:
                break
            high = max(high, low + 1)
            if high >= end:
                return end, n_tokens + prefix_tokens
            end = self._breaks.best(start, low, high) or self._inside_word(low, high)
        return done, 0

    def _propose(self, start: int, low: int, most: int, *, repeats: bool) -> int:
        """Return an end after ``low`` for the chunk from ``start`` of ``most`` tokens, as they are in the whole text.

        A chunk that ``repeats`` text may get ``low`` instead: without the repetition there is a better end.
        """
        first = bisect_left(self._token_starts, start)
        high = self._token_starts[first + most] if first + most < len(self._token_starts) else len(self._text)
        high = min(high, low + self._most_characters)
        if high <= low:
            return low if repeats else low + 1
        for section in self._sections[bisect_right(self._sections, low) : bisect_right(self._sections, high)]:
            if self._tokens(start, section) >= self._tiny:
                return section
        if high >= self._text_end:
            return len(self._text)
        end = self._balanced(start, low, high, most) or self._breaks.best(start, low, high)
        if end is None:
            return low if repeats else self._inside_word(low, high)
        return self._before_leads(end, low)

    def _balanced(self, start: int, low: int, high: int, most: int) -> int | None:
        """Return an end that leaves the section more than a tiny rest, where a full chunk would leave a tiny one."""
        i = bisect_right(self._sections, high)
        section = self._sections[i] if i < len(self._sections) else len(self._text)
        if not most < self._tokens(start, section) <= most + self._tiny:
            return None
        reduced = self._token_starts[bisect_left(self._token_starts, start) + most - self._tiny]
        return self._breaks.best(start, low, min(reduced, high)) if reduced > low else None

    def _before_leads(self, end: int, low: int) -> int:
        """Return ``end``, or a place before the headings that the chunk would otherwise end with."""
        i = bisect_left(self._block_starts, end) - 1
        while i >= 0:
            block = self._blocks[i]
            is_last = block.start in self._layout.leads and not self._text[block.end : end].strip()
            if not is_last or block.start <= low:
                break
            end = block.start
            i -= 1
        return end

    def _inside_word(self, low: int, high: int) -> int:
        """Return a place near ``high`` that parts no character from its accents, and no CR from its LF."""
        for place in range(high, max(low, high - 8), -1):
            if place == len(self._text):
                return place
            after = self._text[place]
            joins = unicodedata.combining(after) or after in "\u200d\ufe0f" or self._text[place - 1] == "\u200d"
            if not joins and self._text[place - 1 : place + 1] != "\r\n":
                return place
        return high

    def _overlap_start(self, previous: int, done: int) -> int:
        """Return where the chunk after ``done`` begins when it repeats whole sentences of the chunk before it."""
        if not self._settings.overlap or self._is_section(done):
            return done
        first = bisect_left(self._token_starts, done) - self._settings.overlap
        low = max(previous + 1, self._token_starts[first] if first >= 0 else 0)
        return self._breaks.overlap(low - 1, done)

    def _is_section(self, position: int) -> bool:
        i = bisect_left(self._sections, position)
        return i < len(self._sections) and self._sections[i] == position

    def _is_exact(self, cut: int) -> bool:
        """Tell whether a cut here certainly leaves the tokens on both sides as they are in the whole text."""
        if cut in (0, len(self._text)):
            return True
        beside = self._text[cut - 1] in _WHITE_SPACE or self._text[cut] in _WHITE_SPACE
        return beside and self._tokenizer.parts_at_white_space

    def _first_block(self, start: int) -> tuple[int, int]:
        """Return the first character from ``start`` on that isn't blank, and the index of its block, or -1."""
        match = _NOT_BLANK.search(self._text, start)
        first = match.start() if match else start
        return first, bisect_right(self._block_starts, first) - 1

    def _prefix(self, start: int) -> tuple[str, int]:
        """Return the header that a chunk from ``start`` repeats, with its number of tokens: mostly none.

        A header that leaves less than half of a chunk isn't repeated, nor one that leaves no room for a row that fits
        without it: that rows are whole matters more.
        """
        if not self._layout.headers:
            return "", 0
        first, i = self._first_block(start)
        header = self._layout.headers.get(self._blocks[i].start) if i >= 0 else None
        if header is None or not header[1] <= first < self._blocks[i].end:
            return "", 0
        text = self._text[slice(*header)]
        if len(text) > self._most_characters // 2:
            return "", 0
        n_tokens = self._tokenizer.count(text)
        most = self._settings.tokens
        row = self._atoms.around(first)
        if n_tokens > min(most // 2, most - MIN_TOKENS) or (row and n_tokens + self._tokens(start, row[1]) > most):
            return "", 0
        return text, n_tokens

    def _chunk(self, start: int, end: int, n_tokens: int) -> Chunk:
        _, i = self._first_block(start)
        first = self._blocks[i] if i >= 0 else None
        covered: Counter[BlockKind] = Counter()
        for block in self._blocks[max(i, 0) : bisect_left(self._block_starts, end)]:
            covered[block.kind] += max(min(block.end, end) - max(block.start, start), 0)
        kind = covered.most_common(1)[0][0] if covered else BlockKind.PARAGRAPH
        path = first.heading_path if first else ()
        page = first.page if first else None
        return Chunk(start, end, n_tokens, path, page, kind.value, self._prefix(start)[0], self._partial(start, end))

    def _partial(self, start: int, end: int) -> str | None:
        """Return the weightiest kind of a unit that the chunk holds only a part of."""
        kinds = set()
        i = bisect_right(self._oversize_ends, start)
        while i < len(self._oversize) and self._oversize[i][0] < end:
            first, last, kind = self._oversize[i]
            if first < start or end < last:
                kinds.add(kind)
            i += 1
        return next((kind.value for kind in _BY_WEIGHT if kind in kinds), None)
