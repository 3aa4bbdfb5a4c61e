"""Which parser reads what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from kb_pipeline.parsing import code
from kb_pipeline.parsing.registry import HEAD_BYTES, choose
from kb_pipeline_tests.parsing import packages


@pytest.mark.parametrize(
    ("name", "head", "parser_id"),
    [
        ("a.txt", b"x", "text/1"),
        ("README", b"# x", "text/1"),
        ("a.unknown", "héllo".encode(), "text/1"),
        ("a.unknown", "héllo".encode()[:2], "text/1"),
        ("a.unknown", "héllo".encode("latin-1"), "text/1"),
        ("a.unknown", "hi".encode("utf-16"), "text/1"),
        ("a.unknown", b"<!DOCTYPE html><p>x", "html/2"),
        ("folder.d/a.MD", b"x", "markdown/2"),
        ("a.htm", b"x", "html/2"),
        ("a.tex", b"x", "latex/2"),
        ("a.py", b"x", "code/3"),
        ("dir/Makefile", b"x", "code/3"),
        ("CMakeLists.txt", b"x", "code/3"),
        ("a.csv", b"x", "csv/1"),
        ("a.tsv", b"x", "tsv/1"),
        ("a.json", b"{}", "json/1"),
        ("a.jsonl", b"{}", "jsonl/1"),
        ("a.ipynb", b"{}", "notebook/2"),
        ("a.json", b'{"cells": [{"cell_type": "code"', "notebook/2"),
        ("a", b'{"cells": [{"cell_type": "code"', "notebook/2"),
        ("a.json", b'{"cells": [1, 2]}', "json/1"),
        ("a.pdf", b"broken", "pdf/2"),
        ("report", b"%PDF-1.7", "pdf/2"),
        ("a.docx", b"plain text", "docx/1"),
        ("a.docm", b"", "docx/1"),
        ("a.pptx", b"", "pptx/1"),
        ("a.odt", b"", "odt/1"),
        ("a.odp", b"", "odp/1"),
        ("a.xlsx", b"", "spreadsheet/1"),
        ("a.xls", b"", "spreadsheet/1"),
        ("a.ods", b"", "spreadsheet/1"),
        ("a.epub", b"", "epub/1"),
        ("a.eml", b"From: x", "mail/1"),
        ("a.msg", b"", "outlook/1"),
        ("a.rtf", b"", "rtf/1"),
        ("a.doc", b"{\\rtf1 text}", "rtf/1"),
        ("a.rst", b"x", "rst/1"),
        ("a.xml", b"<a/>", "xml/1"),
        ("a.rss", b"<a/>", "xml/1"),
        ("a.unknown", b"<?xml version='1.0'?><a/>", "xml/1"),
        ("a.unknown", "<?xml version='1.0'?><a/>".encode("utf-16"), "xml/1"),
        ("message", b"From: a\r\nTo: b\r\n c\r\nSubject: x\r\n\r\n", "mail/1"),
        ("message", b"From: a\nTo: b\n\nSubject: x", "text/1"),
        ("letter", b"Dear Ada,\nFrom: x\nTo: y\nSubject: z", "text/1"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", None),
        ("a.zip", b"PK\x03\x04", None),
        ("a.unknown", b"PK\x03\x04", None),
        ("a.unknown", b"a\x00b", None),
        ("a.unknown", bytes(range(1, 256)), None),
        (".gitignore", b"*.pyc", "text/1"),
    ],
)
def test_choice(name: str, head: bytes, parser_id: str | None) -> None:
    parser = choose(name, head)
    assert (parser and parser.id) == parser_id


@pytest.mark.parametrize(
    ("sample", "parser_id"),
    [
        (packages.sample_docx, "docx/1"),
        (packages.sample_pptx, "pptx/1"),
        (packages.sample_xlsx, "spreadsheet/1"),
        (packages.sample_odt, "odt/1"),
        (packages.sample_odp, "odp/1"),
        (packages.sample_epub, "epub/1"),
        (lambda: packages.pack({"a.txt": "text"}), None),
    ],
)
@pytest.mark.parametrize("name", ["download", "a.unknown", "a.doc", "a.zip"])
def test_zipped_documents_are_told_by_their_members(name: str, sample: Callable[[], bytes], parser_id: str | None) -> None:
    parser = choose(name, sample()[:HEAD_BYTES])
    assert (parser and parser.id) == parser_id


def test_twenty_languages_and_more() -> None:
    assert len(set(code.LANGUAGES.values())) >= 20


def test_the_registry_loads_no_native_parser() -> None:
    program = "import sys; import kb_pipeline.parsing.registry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pypdfium2", "python_calamine"} & set(loaded)
