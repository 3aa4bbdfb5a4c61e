"""Which parser reads what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.parsing import code
from kb_pipeline.parsing.registry import HEAD_BYTES, choose, stated
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


@pytest.mark.parametrize(
    ("name", "media_type", "head", "parser_id"),
    [
        ("Minutes of May", "text/html; charset=utf-8", b"<p>x", "html/2"),
        ("Minutes of May", "TEXT/MARKDOWN", b"# x", "markdown/2"),
        ("Report v1.2", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", b"PK", "docx/1"),
        ("Figures", "application/vnd.oasis.opendocument.spreadsheet", b"PK", "spreadsheet/1"),
        ("data", "application/ld+json", b"{}", "json/1"),
        ("feed", "application/atom+xml", b"<a/>", "xml/1"),
        ("feed", "application/xhtml+xml", b"<a/>", "html/2"),
        ("a.unknown", "text/csv", b"a,b", "csv/1"),
        # A name that says something wins.
        ("a.md", "text/plain", b"<html>", "markdown/2"),
        ("a.rst", "application/octet-stream", b"x", "rst/1"),
        ("a.csv", "text/html", b"a,b", "csv/1"),
        ("Makefile", "text/html", b"x", "code/3"),
        ("a.png", "text/html", b"<html>", None),
        # So do bytes that can't be mistaken.
        ("report", "text/html", b"%PDF-1.7", "pdf/2"),
        ("book", "text/html", packages.sample_epub(), "epub/1"),
        # What is told of text is not believed of other bytes.
        ("data", "text/csv", b"\x1f\x8b\x08 packed", None),
        ("picture", "image/svg+xml", b"\x89PNG\r\n\x1a\n", None),
        # A media type that says nothing leaves it to the bytes.
        ("page", "text/plain", b"<!doctype html><p>x", "html/2"),
        ("page", "application/octet-stream", b"words", "text/1"),
        ("page", "", b"words", "text/1"),
        ("page", "no media type", b"words", "text/1"),
        ("film", "video/mp4", b"\0\0\0 ftyp", None),
        ("program", "text/x-python", b"x = 1", "text/1"),
    ],
)
def test_a_media_type_decides_where_the_name_says_nothing(
    name: str, media_type: str, head: bytes, parser_id: str | None
) -> None:
    parser = choose(name, head[:HEAD_BYTES], media_type=media_type)
    assert (parser and parser.id) == parser_id


@given(
    st.sampled_from(["a", "a.md", "a.png", "a.b", "Makefile"]),
    st.sampled_from([None, "text/html", "text/html;x", "application/a+json", "text/plain", "text/csv", "application/zip"]),
    st.sampled_from([None, "text/html", "application/b+json", "application/json", "image/png"]),
    st.sampled_from([b"x", b"<html>", b"\0", b"%PDF-", b'{"cells": [{"cell_type":', b"PK\x03\x04"]),
)
def test_media_types_that_state_the_same_choose_the_same(name: str, one: str | None, other: str | None, head: bytes) -> None:
    if stated(name, one) is stated(name, other):
        assert choose(name, head, media_type=one) is choose(name, head, media_type=other)


def test_twenty_languages_and_more() -> None:
    assert len(set(code.LANGUAGES.values())) >= 20


def test_the_registry_loads_no_native_parser() -> None:
    program = "import sys; import kb_pipeline.parsing.registry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pypdfium2", "python_calamine"} & set(loaded)
