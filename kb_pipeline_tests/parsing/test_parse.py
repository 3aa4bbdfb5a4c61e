"""From bytes to outcomes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kb_pipeline.parsing.parse import encodable, parse_item
from kb_pipeline.parsing.registry import choose
from kb_pipeline.statuses import Status
from kb_pipeline_tests.parsing.pdf_builder import build_pdf


@pytest.mark.parametrize("data", [b"", b" \r\n\t\n", b"\xef\xbb\xbf\n", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.docx", "a"])
def test_nothing_but_white_space_is_empty(name: str, data: bytes) -> None:
    outcome = parse_item(name, data)
    assert outcome.status is Status.EMPTY
    assert outcome.document is not None
    assert outcome.document.text == ""


@pytest.mark.parametrize(
    ("name", "data", "status", "detail"),
    [
        ("a.txt", b"text", Status.PARSED, ""),
        ("a.html", b"<script>1</script>", Status.NO_TEXT, ""),
        ("a.pdf", build_pdf([""]), Status.NO_TEXT, ""),
        ("a.zip", b"PK\x03\x04rest", Status.EXCLUDED, "no_parser"),
        ("a.xyz", b"\x00\x01\x02", Status.EXCLUDED, "no_parser"),
        ("a.md", b"text\x00more", Status.CORRUPT, "binary"),
        ("a.txt", b"PK\x03\x04rest", Status.CORRUPT, "binary"),
        ("a.txt", b"\xff\xfe\x00", Status.CORRUPT, "utf-16-le"),
        ("a.json", b"{not json", Status.CORRUPT, "not valid JSON"),
        ("a.json", b"[" * 200_000, Status.CORRUPT, "not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n{"b"\n', Status.CORRUPT, "Line 2"),
        ("a.ipynb", b"{}", Status.CORRUPT, "notebook"),
        ("a.ipynb", b"[1", Status.CORRUPT, "not valid JSON"),
        ("a.pdf", b"%PDF-1.4\nnothing", Status.CORRUPT, "can't be opened"),
        ("a.pdf", b"no pdf at all", Status.CORRUPT, "can't be opened"),
    ],
)
def test_outcomes(name: str, data: bytes, status: Status, detail: str) -> None:
    outcome = parse_item(name, data)
    assert outcome.status is status
    assert detail in outcome.detail
    assert (outcome.document is not None) == status.good


def test_an_encrypted_pdf() -> None:
    data = build_pdf(["secret"]).replace(
        b"trailer\n<<",
        b"trailer\n<< /ID [<00> <00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <" + b"11" * 32 + b"> /U <"
        + b"22" * 32 + b"> >>",
    )  # fmt: skip
    outcome = parse_item("a.pdf", data)
    assert outcome.status is Status.ENCRYPTED
    assert "password" in outcome.detail


def test_a_defect_of_a_parser_costs_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    def defective(name: str, head: bytes, *, inside: bool, media_type: str | None) -> object:
        parser = choose(name, head, inside=inside, media_type=media_type)
        assert parser is not None
        return type(parser)("broken/1", "text/plain", lambda data, name: 1 // 0)  # type: ignore[arg-type,return-value]

    monkeypatch.setattr("kb_pipeline.parsing.parse.choose", defective)
    outcome = parse_item("a.txt", b"text")
    assert outcome.status is Status.CRASHED
    assert outcome.detail.startswith("ZeroDivisionError")
    assert outcome.parser_id == "broken/1"


def test_lone_surrogates_become_replacement_characters() -> None:
    data = rb'{"cells": [{"cell_type": "markdown", "source": "# a\ud800b\n\ntext \udfff"}]}'
    document = encodable(parse_item("a.ipynb", data)).document
    assert document is not None
    assert document.text == "# a\ufffdb\n\ntext \ufffd"
    assert document.blocks[0].heading_path == ("a\ufffdb",)
    assert document.title == "a\ufffdb"


NAMES = ["a", "a.txt", "a.md", "a.html", "a.tex", "a.py", "a.csv", "a.json", "a.jsonl", "a.ipynb", "a.xyz", "Makefile"]
PIECES = [
    "# a", "---", "===", "```", "~~~", "$$", "\\[", "\\]", "| a | b |", "|---|---|", "> q", "- i", "1. i", "    code",
    "title: x", "\\section{", "}", "\\begin{align}", "\\end{align}", "\\begin{verbatim}", "<table><tr><td>", "<li>",
    "</ul>", "<pre>", "<math>", "<h2>", "</h2>", "<!--", '{"cells": [', '"cell_type"', "é", "\x00", "\r", "", "",
]  # fmt: skip


@given(
    name=st.sampled_from(NAMES),
    data=st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=20).map(lambda p: "\n".join(p).encode()),
)
@example(name="a.md", data=b"---\na: &a [*a]\n---\ntext")
@example(name="a.md", data=b"---\ndate: 2020-99-99\n---\ntext")
@example(name="a.html", data=b"<div>" * 5_000 + b"deep")
@example(name="a.html", data=b"<table><tr><td>" * 1_000 + b"deep")
@settings(deadline=None)
def test_any_bytes_have_an_outcome_with_sound_blocks(name: str, data: bytes) -> None:
    outcome = parse_item(name, data)
    assert outcome.status in (Status.PARSED, Status.EMPTY, Status.NO_TEXT, Status.CORRUPT, Status.EXCLUDED)
    if outcome.document is None:
        return
    position = 0
    for block in outcome.document.blocks:
        assert position <= block.start < block.end <= len(outcome.document.text)
        assert outcome.document.text[block.start : block.end].strip()
        position = block.end
