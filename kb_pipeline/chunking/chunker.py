"""Cutting a document into chunks that an embedding model can read whole.

What belongs here: the laws of chunks and the cutting. What doesn't: what must stay whole (atoms), and which places are
good ones to cut (breaks).

The method: encode the text once, then walk through it with a window of as many tokens as a chunk may have, and end each
chunk at the strongest break in the last part of the window that no atom crosses.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass

from kb_pipeline.chunking.atoms import Atoms, find_atoms
from kb_pipeline.chunking.breaks import Breaks
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing.document import BlockKind, Document

# To be raised whenever the chunks of any document change.
CHUNKER_VERSION = "1"

# A word too long for the model is one unknown token of any length, and white space costs none: a second limit keeps
# chunks readable. Prose has 4.5 characters a token, so nothing but such text comes near it.
MAX_CHARACTERS_PER_TOKEN = 16
# One character can be several tokens; with fewer than this, one could be too long for a chunk.
MIN_TOKENS = 32

_NOT_BLANK = re.compile(r"\S")
_WHITE_SPACE = frozenset(" \t\n\r")


@dataclass(frozen=True, slots=True)
class Chunk:
    """The span ``text[start:end]`` (characters) of a document.

    ``n_tokens``      tokens of exactly this span, tokenized by itself, without special tokens.
    ``heading_path``  the headings in force at its first character that isn't white space.
    ``page``          the page of that character, where the format has pages.
    ``kind``          the block kind that most of its characters belong to.
    """

    start: int
    end: int
    n_tokens: int
    heading_path: tuple[str, ...]
    page: int | None
    kind: str


@dataclass(frozen=True, slots=True)
class ChunkerSettings:
    """How to cut. Raises ValueError for senseless values.

    ``tokens``            the most tokens a chunk may have, without special tokens.
    ``overlap``           the most tokens, in whole sentences or lines, that a chunk repeats of the one before it.
    ``respect_headings``  whether sections begin a new chunk.
    """

    tokens: int
    overlap: int = 0
    respect_headings: bool = True

    def __post_init__(self) -> None:
        if self.tokens < MIN_TOKENS:
            raise ValueError(f"tokens must be at least {MIN_TOKENS}, not {self.tokens}")
        if not 0 <= self.overlap <= self.tokens // 2:
            raise ValueError(f"overlap must be between 0 and half of tokens ({self.tokens // 2}), not {self.overlap}")


def chunk(document: Document, tokenizer: Tokenizer, settings: ChunkerSettings) -> list[Chunk]:
    """Cut ``document`` into chunks. The same input gives the same chunks; a blank text gives none.

    The laws: the chunks are in order and cover every character; without overlap they join up to the text. None is
    blank. None has more than ``settings.tokens`` tokens when it is tokenized by itself. A formula, a code block or a
    table row that fits into a chunk (in tokens, and MAX_CHARACTERS_PER_TOKEN) lies whole in one; a longer one is cut at
    its lines, then spaces, then characters. A heading begins a new chunk, unless the one before it would have less than
    a quarter of ``tokens``.
    """
    if not document.text.strip():
        return []
    return list(_Cutter(document, tokenizer, settings).chunks())


class _Cutter:
    def __init__(self, document: Document, tokenizer: Tokenizer, settings: ChunkerSettings) -> None:
        self._document = document
        self._text = document.text
        self._tokenizer = tokenizer
        self._settings = settings
        self._most_characters = settings.tokens * MAX_CHARACTERS_PER_TOKEN
        self._tiny = settings.tokens // 4
        self._token_starts, _ = tokenizer.offsets(document.text)
        self._block_starts = [block.start for block in document.blocks]
        self._headings = [b.start for b in document.blocks if b.kind is BlockKind.HEADING]
        self._text_end = len(document.text.rstrip())
        atoms = [
            (start, end)
            for start, end in find_atoms(document, self._most_characters)
            if end - start <= self._most_characters and self._tokens(start, end) <= settings.tokens
        ]
        self._breaks = Breaks(document, Atoms(atoms))

    def chunks(self) -> list[Chunk]:
        """Cut the whole text."""
        found: list[Chunk] = []
        done = 0
        while done < len(self._text):
            previous = found[-1].start if found else 0
            start = self._overlap_start(previous, done) if found else 0
            end, n_tokens = self._fit(start, done)
            if n_tokens > self._settings.tokens or end <= done:
                # What has to stay whole leaves no room for the overlap.
                start = done
                end, n_tokens = self._fit(start, done)
            found.append(self._chunk(start, end, n_tokens))
            done = end
        return found

    def _fit(self, start: int, done: int) -> tuple[int, int]:
        """Return the end of the chunk from ``start``, after ``done`` where possible, and its number of tokens.

        With overlap (``start < done``) there may be no such end: then it is not after ``done``, or has too many tokens.
        """
        most = self._settings.tokens
        match = _NOT_BLANK.search(self._text, done)
        # A chunk ends after a character that isn't blank, so no chunk is blank.
        low = match.start() if match else done
        end = self._propose(start, low, repeats=start < done)
        while end > low:
            n_tokens = self._tokens(start, end)
            if not (self._is_exact(start) and self._is_exact(end)):
                n_tokens = self._tokenizer.count(self._text[start:end])
            if n_tokens <= most or end - start == 1:
                return end, n_tokens
            # A cut inside a word has changed its tokens: take proportionally less, which is less at every turn.
            high = start + max(1, (end - start) * most // n_tokens)
            if high <= low and start < done:
                break
            high = max(high, low + 1)
            if high >= end:
                return end, n_tokens
            end = self._breaks.best(start, low, high) or self._inside_word(low, high)
        return done, 0

    def _propose(self, start: int, low: int, *, repeats: bool) -> int:
        """Return an end after ``low`` for the chunk from ``start``, in terms of the tokens of the whole text.

        A chunk that ``repeats`` text may get ``low`` instead: without the repetition there is a better end.
        """
        most = self._settings.tokens
        first = bisect_left(self._token_starts, start)
        high = self._token_starts[first + most] if first + most < len(self._token_starts) else len(self._text)
        high = min(high, low + self._most_characters)
        if high <= low:
            return low if repeats else low + 1
        if self._settings.respect_headings:
            for heading in self._headings[bisect_right(self._headings, low) : bisect_right(self._headings, high)]:
                if self._tokens(start, heading) >= self._tiny:
                    return heading
        if high >= self._text_end:
            return len(self._text)
        end = self._balanced(start, low, high) or self._breaks.best(start, low, high)
        if end is None:
            return low if repeats else self._inside_word(low, high)
        return self._before_headings(end, low)

    def _balanced(self, start: int, low: int, high: int) -> int | None:
        """Return an end that leaves the section more than a tiny rest, where a full chunk would leave a tiny one."""
        i = bisect_right(self._headings, high)
        section = self._headings[i] if self._settings.respect_headings and i < len(self._headings) else len(self._text)
        most = self._settings.tokens
        if not most < self._tokens(start, section) <= most + self._tiny:
            return None
        reduced = self._token_starts[bisect_left(self._token_starts, start) + most - self._tiny]
        return self._breaks.best(start, low, min(reduced, high)) if reduced > low else None

    def _before_headings(self, end: int, low: int) -> int:
        """Return ``end``, or a place before the headings that the chunk would otherwise end with."""
        i = bisect_left(self._block_starts, end) - 1
        while i >= 0:
            block = self._document.blocks[i]
            is_last = block.kind is BlockKind.HEADING and not self._text[block.end : end].strip()
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
        if not self._settings.overlap or (self._settings.respect_headings and self._is_heading(done)):
            return done
        first = bisect_left(self._token_starts, done) - self._settings.overlap
        low = max(previous + 1, self._token_starts[first] if first >= 0 else 0)
        return self._breaks.overlap(low - 1, done)

    def _is_heading(self, position: int) -> bool:
        i = bisect_left(self._headings, position)
        return i < len(self._headings) and self._headings[i] == position

    def _tokens(self, start: int, end: int) -> int:
        return bisect_left(self._token_starts, end) - bisect_left(self._token_starts, start)

    def _is_exact(self, cut: int) -> bool:
        """Tell whether a cut here certainly leaves the tokens on both sides as they are in the whole text."""
        if cut in (0, len(self._text)):
            return True
        beside = self._text[cut - 1] in _WHITE_SPACE or self._text[cut] in _WHITE_SPACE
        return beside and self._tokenizer.parts_at_white_space

    def _chunk(self, start: int, end: int, n_tokens: int) -> Chunk:
        match = _NOT_BLANK.search(self._text, start, end)
        i = bisect_right(self._block_starts, match.start() if match else start) - 1
        first = self._document.blocks[i] if i >= 0 else None
        covered: Counter[BlockKind] = Counter()
        for block in self._document.blocks[max(i, 0) : bisect_left(self._block_starts, end)]:
            covered[block.kind] += max(min(block.end, end) - max(block.start, start), 0)
        kind = covered.most_common(1)[0][0] if covered else BlockKind.PARAGRAPH
        path = first.heading_path if first else ()
        return Chunk(start, end, n_tokens, path, first.page if first else None, kind.value)
