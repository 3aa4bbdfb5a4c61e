"""Tables: where their rows begin and end, and which of them are the header.

What belongs here: rows and headers of tables written as text. What doesn't: how they are cut (cutter).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kb_pipeline.chunking.layout import Span
from kb_pipeline.parsing.spans import line_spans

MAX_ROW_LINES = 1_000
"""A quoted cell that isn't closed within so many lines is no quoted cell: the quote is a mark of inches or a mistake."""

_DELIMITERS = ",;\t|"
# Of a row without white space: between optional parts, it would be tried in every one of them.
_RULE = re.compile(r"\|?:?-+:?(?:\|:?-+:?)*\|?")
_RULE_CHARACTERS = 10_000
_QUOTE = re.compile(r'"')
_LETTER = re.compile(r"[^\W\d_]")
_DIGIT = re.compile(r"\d")


def rows(text: str, start: int, end: int, *, quoted: bool) -> Iterator[Span]:
    """Yield the span of each row of the table ``text[start:end]``, line end included.

    A row is a line. If ``quoted``, a cell in double quotes (RFC 4180) may hold line ends. After a quote that nothing
    closes, every line is a row.
    """
    opened: int | None = None
    count = 0
    for first, last in line_spans(text, start, end):
        if not quoted:
            yield first, last
        elif _open_after(text, first, last, open_=opened is not None):
            opened, count = (first, 1) if opened is None else (opened, count + 1)
            if count == MAX_ROW_LINES:
                break
        else:
            yield first if opened is None else opened, last
            opened = None
    if opened is not None:
        yield from line_spans(text, opened, end)


def _open_after(text: str, start: int, end: int, *, open_: bool) -> bool:
    """Tell whether a quoted cell is open at ``end``, when ``open_`` tells whether one was at ``start``."""
    skip = -1
    for match in _QUOTE.finditer(text, start, end):
        at = match.start()
        if at == skip:
            continue
        if not open_:
            open_ = at == start or text[at - 1] in _DELIMITERS or text[at - 1] == "\n"
        elif text[at + 1 : at + 2] == '"':
            skip = at + 1  # a doubled quote stands for itself
        elif at + 1 >= end or text[at + 1] in _DELIMITERS or text[at + 1] in "\r\n":
            open_ = False
    return open_


def header(text: str, start: int, end: int, *, quoted: bool) -> Span | None:
    """Return the span of the header of the table ``text[start:end]``, or None where it seems to have none.

    In Markdown: the row above the rule, and the rule. Elsewhere the first row, if it has more than one cell and each of
    them is a name: not blank, and not a number. A table of names without a header can't be told from one with it.
    """
    found = rows(text, start, end, quoted=quoted)
    first = next(found, None)
    if first is None or first[1] == end:
        return None
    second = next(found, None)
    if second is not None and "|" in text[slice(*first)] and _is_rule(text[slice(*second)]):
        return (first[0], second[1]) if second[1] < end else None
    line = text[slice(*first)].strip()
    if line.startswith(("{", "[", "\\", "<")):
        return None  # a line of JSON, TeX or HTML
    delimiter = max(_DELIMITERS, key=line.count)
    cells = [cell.strip(' "') for cell in line.strip("|").split(delimiter)]
    named = all(cell and (_LETTER.search(cell) or not _DIGIT.search(cell)) for cell in cells)
    return first if len(cells) > 1 and named else None


def _is_rule(row: str) -> bool:
    return len(row) <= _RULE_CHARACTERS and bool(_RULE.fullmatch("".join(row.split())))
