"""LaTeX: the text is kept as it is, and its sections, formulas, listings and tables are found by their commands.

What belongs here: which commands and environments make blocks. Macros are not expanded, and comments count as text.
"""

from __future__ import annotations

import re

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.environments import DISPLAYED
from kb_pipeline.parsing.headings import HeadingStack
from kb_pipeline.parsing.metadata import common
from kb_pipeline.parsing.spans import paragraph_spans
from kb_pipeline.parsing.text import decode

_LEVELS = {
    "part": 1,
    "chapter": 2,
    "section": 3,
    "subsection": 4,
    "subsubsection": 5,
    "paragraph": 6,
}
_KINDS = {
    **dict.fromkeys(DISPLAYED, BlockKind.FORMULA),
    **dict.fromkeys(["verbatim", "lstlisting", "minted", "Verbatim"], BlockKind.CODE),
    **dict.fromkeys(["tabular", "tabularx", "longtable", "table"], BlockKind.TABLE),
}
_MARK = re.compile(
    r"(?<!\\)(?:"
    rf"\\(?P<section>{'|'.join(_LEVELS)})\*?(?:\[[^\]\n]{{0,500}}\])?\{{"
    rf"|\\begin\{{(?P<environment>(?:{'|'.join(_KINDS)})\*?)\}}"
    r"|(?P<display>\$\$|\\\[)"
    r")"
)
_AUTHOR = re.compile(r"\\author\s*(?:\[[^\]\n]{0,500}\])?\s*\{")
_DATE = re.compile(r"\\date\s*\{")
_TITLE = re.compile(r"\\title\s*(?:\[[^\]\n]{0,500}\])?\s*\{")
_ITEM = re.compile(r"\\(?:item\b|begin\{(?:itemize|enumerate|description)\})")
_TITLE_CHARACTERS = 1_000


def parse(data: bytes, name: str) -> Document:
    """Parse a LaTeX source: sections make the heading path, environments make formulas, code and tables."""
    text, encoding = decode(data)
    headings = HeadingStack()
    blocks: list[Block] = []
    never_closed: set[str] = set()
    done = 0
    for mark in _MARK.finditer(text):
        if mark.start() < done:
            continue
        if mark["section"]:
            end = _brace_end(text, mark.end())
            kind = BlockKind.HEADING
        else:
            closing = "$$" if mark["display"] == "$$" else "\\]" if mark["display"] else f"\\end{{{mark['environment']}}}"
            found = -1 if closing in never_closed else text.find(closing, mark.end())
            end = found + len(closing) if found >= 0 else 0
            if not end:
                # Remembered, so that a text full of openings is not searched to its end for each of them.
                never_closed.add(closing)
            kind = _KINDS[mark["environment"].rstrip("*")] if mark["environment"] else BlockKind.FORMULA
        if not end:
            continue
        blocks += _between(text, done, mark.start(), headings.path)
        if mark["section"]:
            headings.push(_LEVELS[mark["section"]], " ".join(text[mark.end() : end - 1].split()))
        blocks.append(Block(kind, mark.start(), end, headings.path))
        done = end
    blocks += _between(text, done, len(text), headings.path)
    metadata = common(author=_authors(text), created=_argument(_DATE, text))
    return Document(text, "text/x-tex", tuple(blocks), _argument(_TITLE, text), {**metadata, "encoding": encoding})


def _between(text: str, start: int, end: int, path: tuple[str, ...]) -> list[Block]:
    return [
        Block(BlockKind.LIST if _ITEM.match(text, first) else BlockKind.PARAGRAPH, first, last, path)
        for first, last in paragraph_spans(text, start, end)
    ]


def _authors(text: str) -> list[str]:
    authors = re.split(r"\\and\b", _argument(_AUTHOR, text) or "")
    # What a name carries beside it: footnotes, line breaks, affiliations after those.
    return [re.sub(r"\\[A-Za-z]+\*?(?:\{[^{}]*\})?|[{}$~]", " ", author.partition("\\\\")[0]) for author in authors]


def _argument(command: re.Pattern[str], text: str) -> str | None:
    """Return the argument of the first use of a command, on one line."""
    match = command.search(text)
    end = _brace_end(text, match.end()) if match else 0
    return " ".join(text[match.end() : end - 1].split()) or None if match and end else None


def _brace_end(text: str, start: int) -> int:
    """Return the position after the brace that closes the one before ``start``, or 0 where none is near."""
    depth = 1
    i = start
    stop = min(len(text), start + _TITLE_CHARACTERS)
    while i < stop:
        character = text[i]
        if character == "\\":
            i += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                return i + 1
        i += 1
    return 0
