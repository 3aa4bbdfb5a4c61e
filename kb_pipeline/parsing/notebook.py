"""Jupyter notebooks (nbformat 3 and 4), turned into one Markdown text.

What belongs here: which parts of a notebook are text, and how they are written down. Images and widgets are left out.
"""

from __future__ import annotations

import re

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.fences import fence
from kb_pipeline.parsing.headings import HeadingStack
from kb_pipeline.parsing.markdown import scan
from kb_pipeline.parsing.metadata import common
from kb_pipeline.parsing.structured import load
from kb_pipeline.parsing.text import decode
from kb_pipeline.statuses import Status

MAX_OUTPUT_CHARACTERS = 2_000
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def parse(data: bytes, name: str) -> Document:
    """Parse a notebook: Markdown cells verbatim, code cells and their text outputs (up to 2,000 characters) as fences.

    Raises ParseError(CORRUPT) for what is no notebook.
    """
    notebook = load(decode(data)[0])
    if not isinstance(notebook, dict):
        raise _corrupt("the top level is no object")
    language = _language(notebook)
    headings = HeadingStack()
    parts: list[str] = []
    blocks: list[Block] = []
    length = 0
    for cell in _cells(notebook):
        for kind, text in _cell_texts(cell, language):
            if parts:
                parts.append("\n\n")
                length += 2
            if kind is BlockKind.CODE:
                blocks.append(Block(kind, length, length + len(text), headings.path))
            else:
                # Each cell by itself, so that a fence left open in one doesn't swallow the next.
                blocks += scan(text, headings, offset=length)
            parts.append(text)
            length += len(text)
    metadata = _metadata(notebook, language)
    return Document("".join(parts), "application/x-ipynb+json", tuple(blocks), headings.first, metadata)


def _metadata(notebook: dict[str, object], language: str) -> dict[str, str]:
    held = notebook.get("metadata")
    authors = held.get("authors") if isinstance(held, dict) else None
    names = [author.get("name") for author in authors if isinstance(author, dict)] if isinstance(authors, list) else []
    found = {"programming_language": language} if language else {}
    return found | common(author=[name for name in names if isinstance(name, str)])


def _corrupt(why: str) -> ParseError:
    return ParseError(Status.CORRUPT, f"The file is not a valid notebook: {why}.")


def _cells(notebook: dict[str, object]) -> list[dict[str, object]]:
    cells = notebook.get("cells")
    if cells is None and isinstance(sheets := notebook.get("worksheets"), list):
        cells = [cell for sheet in sheets if isinstance(sheet, dict) for cell in sheet.get("cells") or []]
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise _corrupt("it has no list of cells")
    return cells


def _language(notebook: dict[str, object]) -> str:
    metadata = notebook.get("metadata")
    if isinstance(metadata, dict):
        for holder, key in (("language_info", "name"), ("kernelspec", "language")):
            held = metadata.get(holder)
            if isinstance(held, dict) and isinstance(held.get(key), str):
                return re.sub(r"[^\w+#.-]", "", held[key])
    return ""


def _cell_texts(cell: dict[str, object], language: str) -> list[tuple[BlockKind, str]]:
    """Return the texts of one cell, each a fence (CODE) or Markdown (PARAGRAPH). Blank ones are left out."""
    source = _text(cell.get("source", cell.get("input", "")))
    if cell.get("cell_type") == "heading":
        level = cell.get("level")
        source = f"{'#' * (level if isinstance(level, int) and 1 <= level <= 6 else 1)} {source}"
    if cell.get("cell_type") != "code":
        return [(BlockKind.PARAGRAPH, source.rstrip())] if source.strip() else []
    texts = [(BlockKind.CODE, fence(source, language))] if source.strip() else []
    outputs = cell.get("outputs", [])
    if not isinstance(outputs, list):
        raise _corrupt("the outputs of a cell are no list")
    for output in outputs:
        shown = _TERMINAL_CODES.sub("", _output_text(output))[:MAX_OUTPUT_CHARACTERS]
        if shown.strip():
            texts.append((BlockKind.CODE, fence(shown)))
    return texts


def _output_text(output: object) -> str:
    if not isinstance(output, dict):
        raise _corrupt("an output is no object")
    if output.get("ename") is not None:
        return f"{output['ename']}: {output.get('evalue', '')}"
    data = output.get("data")
    if isinstance(data, dict):
        return _text(data.get("text/plain", ""))
    return _text(output.get("text", ""))


def _text(value: object) -> str:
    """Return a multi-line string of nbformat, which is a string or a list of them."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    raise _corrupt("a text is neither a string nor a list of strings")
