"""Markdown: the text is kept as it is, and its blocks are found line by line.

What belongs here: where blocks of Markdown begin and end. What doesn't: inline markup, which stays in the text.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator

import yaml

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.environments import DISPLAYED
from kb_pipeline.parsing.headings import HeadingStack
from kb_pipeline.parsing.metadata import common
from kb_pipeline.parsing.spans import line_spans
from kb_pipeline.parsing.text import decode

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+|$)(.*)")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r"[ \t]*(?:>[ \t]*)*(?:[-*+][ \t]+|\d{1,9}[.)][ \t]+)?(`{3,}(?=[^`]*$)|~{3,})")
_FENCE_END = re.compile(r"[ \t]*(?:>[ \t]*)*(`{3,}|~{3,})[ \t]*$")
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_QUOTE = re.compile(r" {0,3}>")
_ANCHOR = re.compile(r"[ \t]*\{#[^{}]*\}[ \t]*$")
_FORMULA_ENDS = {"$$": "$$", "\\[": "\\]"}
_ENVIRONMENT = re.compile(rf"\\begin\{{((?:{'|'.join(DISPLAYED)})\*?)\}}")
# A formula that begins after other text on its line is looked for the end of this far.
_FORMULA_LINES = 200
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.{0,65536}?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.M | re.S)


def parse(data: bytes, name: str) -> Document:
    """Parse Markdown (CommonMark's blocks, tables, ``$$`` and ``\\[`` formulas, YAML front matter)."""
    text, encoding = decode(data)
    metadata, start = _front_matter(text)
    headings = HeadingStack()
    blocks = scan(text, headings, start=start)
    title = metadata.pop("title", None) or headings.first
    return Document(text, "text/markdown", tuple(blocks), title, {**metadata, **_common(metadata), "encoding": encoding})


def _common(front_matter: dict[str, str]) -> dict[str, str]:
    """Return what site generators call by several names, by its common one."""

    def first(keys: str) -> str | None:
        return next((front_matter[key] for key in keys.split() if key in front_matter), None)

    return common(
        author=first("author authors"),
        created=first("date created published pubDate"),
        modified=first("modified lastmod updated last_modified last-modified"),
        language=first("language lang locale"),
    )


def scan(text: str, headings: HeadingStack, *, start: int = 0, offset: int = 0) -> list[Block]:
    """Find the blocks of ``text[start:]``. Headings go onto ``headings``; ``offset`` is added to every position."""
    return [
        Block(kind, first + offset, last + offset, path)
        for kind, first, last, path in _Scanner(text, start, headings).blocks()
    ]


_Found = tuple[BlockKind, int, int, tuple[str, ...]]


class _Scanner:
    def __init__(self, text: str, start: int, headings: HeadingStack) -> None:
        self._text = text
        self._headings = headings
        self._lines = list(line_spans(text, start))
        self._bare = [text[first:last].rstrip() for first, last in self._lines]
        self._no_more: set[str] = set()

    def blocks(self) -> Iterator[_Found]:
        i, after_list = 0, False
        while i < len(self._lines):
            if not self._bare[i] or _RULE.match(self._bare[i]):
                i += 1
                continue
            kind, stop = self._block(i, after_list)
            path = self._enter_heading(i, stop) if kind is BlockKind.HEADING else self._headings.path
            first = self._lines[i][0]
            yield kind, first, self._lines[stop - 1][0] + len(self._bare[stop - 1]), path
            # A fence or formula inside a list item leaves the list open.
            if kind is BlockKind.LIST:
                after_list = True
            elif kind not in (BlockKind.CODE, BlockKind.FORMULA) or not self._bare[i][0].isspace():
                after_list = False
            i = stop

    def _block(self, i: int, after_list: bool) -> tuple[BlockKind, int]:
        """Return the kind of the block that begins in line ``i``, and the line after its last."""
        line = self._bare[i]
        if fence := _FENCE.match(line):
            return BlockKind.CODE, self._fence_stop(i, fence[1])
        if stop := self._formula_stop(i):
            return BlockKind.FORMULA, stop
        if _ATX.match(line):
            return BlockKind.HEADING, i + 1
        if self._is_table(i):
            return BlockKind.TABLE, self._run(i + 2, lambda j: "|" in self._bare[j])
        if _QUOTE.match(line):
            return BlockKind.QUOTE, self._run(i + 1, lambda j: self._goes_on(j, _QUOTE))
        indented = line.startswith(("    ", "\t"))
        if after_list if indented else _ITEM.match(line):
            return BlockKind.LIST, self._run(i + 1, lambda j: self._goes_on(j, _ITEM))
        if indented:
            return BlockKind.CODE, self._run(i + 1, lambda j: self._bare[j].startswith(("    ", "\t")))
        return self._paragraph(i)

    def _paragraph(self, i: int) -> tuple[BlockKind, int]:
        stop = self._after_formula(i)
        while stop < len(self._lines) and self._bare[stop]:
            if _SETEXT.match(self._bare[stop]):
                return BlockKind.HEADING, stop + 1
            if self._interrupts(stop):
                break
            stop = self._after_formula(stop)
        return BlockKind.PARAGRAPH, stop

    def _after_formula(self, i: int) -> int:
        """Return the line after ``i``, or after the displayed formula that begins in it behind other text.

        In between, what looks like a list item is a sum.
        """
        line = self._bare[i]
        environment = _ENVIRONMENT.search(line)
        if line.count("$$") % 2:
            closing = "$$"
        elif line.rfind("\\[") > line.rfind("\\]"):
            closing = "\\]"
        elif environment and (end := f"\\end{{{environment[1]}}}") not in line:
            closing = end
        else:
            return i + 1
        for j in range(i + 1, min(i + _FORMULA_LINES, len(self._lines))):
            if not self._bare[j]:
                break
            if closing in self._bare[j]:
                return j + 1
        return i + 1

    def _run(self, i: int, more: Callable[[int], object]) -> int:
        while i < len(self._lines) and self._bare[i] and more(i):
            i += 1
        return i

    def _goes_on(self, i: int, mark: re.Pattern[str]) -> bool:
        line = self._bare[i]
        same = mark.match(line) and not _FENCE.match(line) and not _RULE.match(line)
        return bool(same) or not self._interrupts(i)

    def _interrupts(self, i: int) -> bool:
        """Tell whether line ``i`` begins another block even without a blank line before it."""
        line = self._bare[i]
        return bool(
            _ATX.match(line)
            or _FENCE.match(line)
            or _QUOTE.match(line)
            or _ITEM.match(line)
            or _RULE.match(line)
            or self._is_table(i)
            or self._formula_stop(i)
        )

    def _is_table(self, i: int) -> bool:
        if "|" not in self._bare[i] or i + 1 == len(self._lines):
            return False
        rule = self._bare[i + 1]
        return "|" in rule and "-" in rule and not rule.strip("|:- \t")

    def _fence_stop(self, i: int, opening: str) -> int:
        for j in range(i + 1, len(self._lines)):
            end = _FENCE_END.match(self._bare[j])
            if end and end[1].startswith(opening):
                return j + 1
        return len(self._lines)

    def _formula_stop(self, i: int) -> int:
        """Return the line after a formula that fills whole lines from line ``i`` on, or 0."""
        line = self._bare[i].lstrip()
        environment = _ENVIRONMENT.match(line)
        closing = f"\\end{{{environment[1]}}}" if environment else _FORMULA_ENDS.get(line[:2])
        if closing is None or closing in self._no_more:
            return 0
        found = self._text.find(closing, self._lines[i][0] + self._bare[i].index(line) + 2)
        if found < 0:
            # Remembered, so that a text full of openings is not searched to its end for each of them.
            self._no_more.add(closing)
            return 0
        j = i
        while self._lines[j][1] <= found:
            j += 1
        rest = self._text[found + len(closing) : self._lines[j][1]].strip()
        return j + 1 if not rest.strip(".,;") or rest.startswith("{#") else 0

    def _enter_heading(self, i: int, stop: int) -> tuple[str, ...]:
        atx = _ATX.match(self._bare[i])
        if atx and stop == i + 1:
            level, title = len(atx[1]), re.sub(r"(?:^|[ \t]+)#+$", "", atx[2])
        else:
            level = 1 if self._bare[stop - 1].lstrip().startswith("=") else 2
            title = " ".join(line.strip() for line in self._bare[i : stop - 1])
        return self._headings.push(level, _ANCHOR.sub("", title).strip())


def _front_matter(text: str) -> tuple[dict[str, str], int]:
    """Return the scalar entries of the YAML block that the text begins with, and the position after the block."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, 0
    try:
        loaded = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}, match.end()
    if not isinstance(loaded, dict):
        # Two rules with text between them: no front matter after all.
        return {}, 0 if loaded is not None else match.end()
    found: dict[str, str] = {}
    for key, value in loaded.items():
        # Lists of scalars, one level deep: aliases make any deeper walk a way to exhaust memory.
        values = [v for v in value if isinstance(v, _SCALARS)] if isinstance(value, list) else [value]
        if isinstance(key, str) and values and all(isinstance(v, _SCALARS) for v in values):
            found[key] = ", ".join(str(v) for v in values)
    return found, match.end()


_SCALARS = (str, int, float, datetime.date)
