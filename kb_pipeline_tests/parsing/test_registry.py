"""Which parser reads what."""

from __future__ import annotations

import pytest

from kb_pipeline.parsing.registry import choose


@pytest.mark.parametrize(
    ("name", "head", "parser_id"),
    [
        ("a.txt", b"x", "text/1"),
        ("README", b"# x", "text/1"),
        ("a.unknown", "héllo".encode(), "text/1"),
        ("a.unknown", "héllo".encode()[:2], "text/1"),
        ("a.unknown", "héllo".encode("latin-1"), "text/1"),
        ("a.unknown", "hi".encode("utf-16"), "text/1"),
        ("a.unknown", b"<!DOCTYPE html><p>x", "html/1"),
        ("folder.d/a.MD", b"x", "markdown/1"),
        ("a.htm", b"x", "html/1"),
        ("a.tex", b"x", "latex/1"),
        ("a.py", b"x", "code/1"),
        ("dir/Makefile", b"x", "code/1"),
        ("CMakeLists.txt", b"x", "code/1"),
        ("a.csv", b"x", "csv/1"),
        ("a.tsv", b"x", "tsv/1"),
        ("a.json", b"{}", "json/1"),
        ("a.jsonl", b"{}", "jsonl/1"),
        ("a.ipynb", b"{}", "notebook/1"),
        ("a.json", b'{"cells": [{"cell_type": "code"', "notebook/1"),
        ("a", b'{"cells": [{"cell_type": "code"', "notebook/1"),
        ("a.json", b'{"cells": [1, 2]}', "json/1"),
        ("a.pdf", b"broken", "pdf/1"),
        ("report", b"%PDF-1.7", "pdf/1"),
        ("a.docx", b"plain text", None),
        ("a.eml", b"From: x", None),
        ("a.unknown", b"PK\x03\x04", None),
        ("a.unknown", b"a\x00b", None),
        ("a.unknown", bytes(range(1, 256)), None),
        (".gitignore", b"*.pyc", "text/1"),
    ],
)
def test_choice(name: str, head: bytes, parser_id: str | None) -> None:
    parser = choose(name, head)
    assert (parser and parser.id) == parser_id
