"""reStructuredText: the text is kept as it is, and its blocks are found line by line.

What belongs here: where blocks of reStructuredText begin and end (docutils' specification). Roles, substitutions and
comments stay in the text; nothing is included.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.headings import HeadingStack
from kb_pipeline.parsing.metadata import common
from kb_pipeline.parsing.spans import line_spans
from kb_pipeline.parsing.text import decode

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*$")
_DIRECTIVE = re.compile(r"\.\. ([\w:+.-]+)::(?:\s|$)")
_FIELD = re.compile(r":([^:\s][^:]*):(?:\s+(.*)|$)")
_ITEM = re.compile(r"(?:[-*+•]|\(?(?:\d{1,9}|[A-Za-z]|#)[.)])\s")
_GRID = re.compile(r"\+(?:[-=]+\+)+$")
_SIMPLE = re.compile(r"=+(?: +=+)+$")
_DIRECTIVES = {
    **dict.fromkeys(["code", "code-block", "sourcecode", "parsed-literal", "doctest", "testcode", "prompt"], BlockKind.CODE),
    **dict.fromkeys(["math"], BlockKind.FORMULA),
    **dict.fromkeys(["table", "csv-table", "list-table"], BlockKind.TABLE),
    **dict.fromkeys(["epigraph", "highlights", "pull-quote"], BlockKind.QUOTE),
}
# Directives whose content is text like any other.
_TRANSPARENT_NAMES = """
    note warning tip hint important caution danger attention error admonition seealso todo versionadded versionchanged
    deprecated topic sidebar container rubric only tab
"""
_TRANSPARENT = frozenset(_TRANSPARENT_NAMES.split())
_SHORT_TITLE = 4


def parse(data: bytes, name: str) -> Document:
    """Parse reStructuredText: sections make the heading path; code, formulas and tables are found by their directives."""
    text, encoding = decode(data)
    scanner = _Scanner(text)
    blocks = scanner.blocks()
    return Document(text, "text/x-rst", tuple(blocks), scanner.headings.first, {**scanner.metadata, "encoding": encoding})


class _Scanner:
    def __init__(self, text: str) -> None:
        self.headings = HeadingStack()
        self.metadata: dict[str, str] = {}
        self._lines = list(line_spans(text))
        self._bare = [text[first:last].rstrip() for first, last in self._lines]
        self._levels: list[tuple[str, bool]] = []
        self._found: list[Block] = []
        self._quotes = False
        self._tables_end = True

    def blocks(self) -> list[Block]:
        i = 0
        while i < len(self._bare):
            i = i + 1 if not self._bare[i] else self._block(i)
        return self._found

    def _block(self, i: int) -> int:
        """Find the block that begins in line ``i``; return the line after it."""
        line = self._bare[i]
        indented = line[0].isspace()
        if not indented and (stop := self._title(i)):
            return stop
        if not indented and _ADORNMENT.match(line) and len(line) >= _SHORT_TITLE and not self._at(i + 1):
            return i + 1  # A transition.
        if _GRID.match(line.strip()) or _SIMPLE.match(line.strip()):
            return self._add(BlockKind.TABLE, i, self._table_stop(i))
        if line.lstrip().startswith(">>>"):
            return self._add(BlockKind.CODE, i, self._run(i, bool))
        if directive := _DIRECTIVE.match(line.lstrip()):
            return self._directive(i, directive[1])
        if not indented and not self.metadata and _FIELD.match(line) and self._at_head():
            return self._fields(i)
        if _ITEM.match(line.lstrip()):
            self._quotes = False
            return self._literal_after(self._add(BlockKind.LIST, i, self._list_stop(i)), i)
        stop = self._paragraph_stop(i)
        self._add(BlockKind.QUOTE if indented and self._quotes else BlockKind.PARAGRAPH, i, stop)
        # What is indented below a paragraph is a quotation; below a directive it is the directive's content.
        self._quotes = self._quotes if indented else not line.startswith("..")
        return self._literal_after(stop, i)

    def _literal_after(self, stop: int, i: int) -> int:
        return self._literal(stop, i) if self._bare[stop - 1].endswith("::") else stop

    def _at_head(self) -> bool:
        return all(block.kind is BlockKind.HEADING for block in self._found)

    def _at(self, i: int) -> str:
        return self._bare[i] if 0 <= i < len(self._bare) else ""

    def _add(self, kind: BlockKind, i: int, stop: int) -> int:
        """Add the lines from ``i`` up to ``stop`` as a block, without blank ones at its end."""
        last = stop
        while last > i + 1 and not self._bare[last - 1]:
            last -= 1
        start = self._lines[i][0] + (len(self._bare[i]) - len(self._bare[i].lstrip()) if last == i + 1 else 0)
        end = self._lines[last - 1][0] + len(self._bare[last - 1])
        self._found.append(Block(kind, start, end, self.headings.path))
        return stop

    def _title(self, i: int) -> int:
        """Enter the title that begins in line ``i``, and return the line after it; 0 where none does."""
        over = _ADORNMENT.match(self._bare[i])
        if over and self._at(i + 1) and self._at(i + 2) == self._bare[i] and len(self._bare[i]) >= 2:
            title, character, stop = self._at(i + 1).strip(), over[1], i + 3
        else:
            under = _ADORNMENT.match(self._at(i + 1)) if not over else None
            if under is None or self._at(i - 1):
                return 0
            title, character, stop = self._bare[i].strip(), under[1], i + 2
            if len(self._at(i + 1)) < min(len(title), _SHORT_TITLE) or title.startswith(".. "):
                return 0
        style = (character, stop == i + 3)
        if style not in self._levels:
            self._levels.append(style)
        path = self.headings.push(self._levels.index(style) + 1, " ".join(title.split()))
        end = self._lines[stop - 1][0] + len(self._bare[stop - 1])
        self._found.append(Block(BlockKind.HEADING, self._lines[i][0], end, path))
        return stop

    def _directive(self, i: int, name: str) -> int:
        """Add a directive, options included. Text inside an admonition is looked at for itself."""
        self._quotes = False
        if name in _TRANSPARENT:
            return self._add(BlockKind.PARAGRAPH, i, self._run(i, bool, i + 1))
        stop = self._indented_stop(i + 1, _indent(self._bare[i]))
        return self._add(_DIRECTIVES.get(name.rpartition(":")[2] or name, BlockKind.PARAGRAPH), i, stop)

    def _fields(self, i: int) -> int:
        """Read the list of fields at the head of the document (docutils' bibliographic fields)."""
        stop = self._run(i, bool)
        found: dict[str, str] = {}
        key = ""
        for line in self._bare[i:stop]:
            if field := _FIELD.match(line):
                key = field[1].strip().lower()
                found[key] = (field[2] or "").strip()
            elif key:
                found[key] = f"{found[key]} {line.strip()}".strip()
        self.metadata = {key: value for key, value in found.items() if value}
        self.metadata |= common(
            author=found.get("author") or found.get("authors"), created=found.get("date"), language=found.get("language")
        )
        return self._add(BlockKind.LIST, i, stop)

    def _literal(self, i: int, before: int) -> int:
        """Add the literal block that ``::`` at the end of the paragraph in line ``before`` announces."""
        while i < len(self._bare) and not self._bare[i]:
            i += 1
        stop = self._indented_stop(i, _indent(self._bare[before]))
        return self._add(BlockKind.CODE, i, stop) if stop > i else i

    def _indented_stop(self, i: int, indent: int) -> int:
        """Return the line after those that are indented by more than ``indent``, blank ones between them included."""
        stop = i
        while i < len(self._bare) and (not self._bare[i] or _indent(self._bare[i]) > indent):
            stop = i + 1 if self._bare[i] else stop
            i += 1
        return stop

    def _run(self, i: int, more: Callable[[str], object], start: int | None = None) -> int:
        stop = i if start is None else start
        while stop < len(self._bare) and more(self._bare[stop]):
            stop += 1
        return stop

    def _paragraph_stop(self, i: int) -> int:
        stop = i + 1
        while stop < len(self._bare) and self._bare[stop] and not _DIRECTIVE.match(self._bare[stop].lstrip()):
            stop += 1
        return stop

    def _list_stop(self, i: int) -> int:
        """Return the line after a list: its items and what is indented below them, up to code or a directive."""
        indent = _indent(self._bare[i])
        stop = i = i + 1
        while i < len(self._bare):
            line = self._bare[i]
            if line:
                after_blank = not self._bare[i - 1]
                goes_on = not after_blank or _indent(line) > indent or _ITEM.match(line.lstrip())
                code = _DIRECTIVE.match(line.lstrip()) or line.lstrip().startswith(">>>")
                if not goes_on or code or (after_blank and self._bare[stop - 1].endswith("::")):
                    break
                stop = i + 1
            i += 1
        return stop

    def _table_stop(self, i: int) -> int:
        if _GRID.match(self._bare[i].strip()):
            return self._run(i, lambda line: line.lstrip().startswith(("+", "|")))
        # A simple table ends with its last border, which a blank line follows.
        stop = i + 1
        while self._tables_end and stop < len(self._bare):
            if _SIMPLE.match(self._bare[stop].strip()) and not self._at(stop + 1):
                return stop + 1
            stop += 1
        # Remembered, so that a text full of borders is not searched to its end for each of them.
        self._tables_end = False
        return self._run(i, bool)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
