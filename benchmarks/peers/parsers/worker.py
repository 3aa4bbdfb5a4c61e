"""One parser over one file after the other: ``python worker.py pypdf|python-docx|markitdown``.

Reads a path a line, and answers each with one JSON line: ``{"status", "characters", "seconds"}``, the status being parsed,
no_text or failed. Says ``{"version"}`` first, when it is ready.

What belongs here: each tool as its own documentation uses it. What doesn't: time limits and counting.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def pypdf() -> Callable[[str], int]:
    """Characters of a PDF, all its pages."""
    from pypdf import PdfReader

    return lambda path: sum(len(page.extract_text().strip()) for page in PdfReader(path).pages)


def python_docx() -> Callable[[str], int]:
    """Characters of a Word file: its paragraphs and the cells of its tables."""
    import docx

    def characters(path: str) -> int:
        document = docx.Document(path)
        cells = (cell.text for table in document.tables for row in table.rows for cell in row.cells)
        return sum(len(text.strip()) for text in [*(each.text for each in document.paragraphs), *cells])

    return characters


def markitdown() -> Callable[[str], int]:
    """Characters of the Markdown of anything."""
    from markitdown import MarkItDown

    converter = MarkItDown(enable_plugins=False)
    return lambda path: len(converter.convert_local(path).text_content.strip())


TOOLS = {"pypdf": pypdf, "python-docx": python_docx, "markitdown": markitdown}


def main() -> None:
    """The loop."""
    # Whatever a tool prints must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    name = sys.argv[1]
    characters = TOOLS[name]()
    print(json.dumps({"version": importlib.metadata.version(name)}), file=answers, flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        try:
            found = characters(line.rstrip("\n"))
            answer: dict[str, Any] = {"status": "parsed" if found else "no_text", "characters": found}
        except Exception as error:  # noqa: BLE001 - whatever it raises, the next file is read
            answer = {"status": "failed", "characters": 0, "error": f"{type(error).__name__}: {error}"[:300]}
        answer["seconds"] = time.perf_counter() - begin
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
