"""Spans of lines and paragraphs in a text.

What belongs here: positions that every verbatim format needs. A line ends at a line feed and nothing else: other
characters that Unicode calls line breaks occur inside ordinary lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_BLANK_LINES = re.compile(r"\n[ \t\r\f\v]*\n\s*")


def line_spans(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield ``(start, end)`` of each line of ``text[start:end]``; ``end`` is after the line feed."""
    stop = len(text) if end is None else end
    while start < stop:
        found = text.find("\n", start, stop)
        after = stop if found < 0 else found + 1
        yield start, after
        start = after


def paragraph_spans(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the spans between blank lines, without the white space around them; blank spans are left out."""
    stop = len(text) if end is None else end
    for gap in _BLANK_LINES.finditer(text, start, stop):
        yield from stripped_span(text, start, gap.start())
        start = gap.end()
    yield from stripped_span(text, start, stop)


def stripped_span(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield ``text[start:end]`` without the white space around it, or nothing where it is blank."""
    part = text[start:end]
    lead = len(part) - len(part.lstrip())
    if lead < len(part):
        yield start + lead, start + len(part.rstrip())
