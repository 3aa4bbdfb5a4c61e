"""Real files, where they are at hand: what a person found in them must be found by the parsers."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import pytest

from kb_pipeline.parsing.document import BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.statuses import Status
from kb_pipeline_tests.parsing.goldens import parse

# Beside the checkout, or where $KB_CORPORA says.
CORPORA = Path(os.environ.get("KB_CORPORA", Path(__file__).parents[3] / "shared" / "corpora")) / "documents"
pytestmark = pytest.mark.skipif(not CORPORA.is_dir(), reason=f"no real documents in {CORPORA}")
MIXED = CORPORA / "mixed"


def read(path: Path) -> Document:
    return parse(path.name, path.read_bytes())


def headings(document: Document) -> list[str]:
    return [block.heading_path[-1] for block in document.blocks if block.kind is BlockKind.HEADING]


PAPER = "AutoGen: Enabling Next-Gen LLM Applications via Multi-Agent Conversation"
GUIDS = "d666f1f7-46cb-42bd-9a39-9a39cf2a509f"


@pytest.mark.parametrize(
    ("name", "title", "found", "last"),
    [
        ("test.docx", PAPER, [PAPER, "Abstract", "Introduction", GUIDS], "可能不正确。"),
        ("test_with_comment.docx", PAPER, [PAPER, "Abstract", "Introduction", GUIDS], "55yiyi-asd09"),
        ("rlink.docx", None, [], "may be incorrect."),
        ("equations.docx", None, [], "=1.41.$$"),
        (
            "test.pptx",
            PAPER,
            [
                PAPER,
                "2cdda5c8-e50e-4db4-b5f0-9722a649f455",
                "A table to test parsing:",
                "A chart to test parsing:",
                "A Nested Shape parsing",
                "These Test Strings are in the Image!",
            ],
            "Human-written.",
        ),
        ("test.xlsx", None, ["Sheet1", "09060124-b5e7-4717-9d07-3c046eb"], "affc7dad-52dc-4b98-9b5d-51e65d8a8ad0 |"),
        ("test.xls", None, ["Sheet1", "09060124-b5e7-4717-9d07-3c046eb"], "affc7dad-52dc-4b98-9b5d-51e65d8a8ad0 |"),
        ("test_outlook_msg.msg", "Test Email Message", ["Test Email Message"], "This is the body of the test email message"),
        (
            "test.epub",
            "Test EPUB Document",
            ["Chapter 1: Test Content", "Chapter 2: More Content"],
            "> This is a blockquote for testing.",
        ),
    ],
)
def test_office_documents_and_books(name: str, title: str | None, found: list[str], last: str) -> None:
    document = read(MIXED / name)
    assert document.title == title
    assert headings(document) == found
    assert document.text.endswith(last)


def test_no_equation_of_a_word_document_is_lost() -> None:
    with zipfile.ZipFile(MIXED / "equations.docx") as archive:
        xml = archive.read("word/document.xml").decode()
    inline_and_display = len(re.findall(r"<m:oMath[ >]", xml))
    display = len(re.findall(r"<m:oMathPara[ >]", xml))
    assert (inline_and_display, display) == (4, 2)
    document = read(MIXED / "equations.docx")
    formulas = [block for block in document.blocks if block.kind is BlockKind.FORMULA]
    assert len(formulas) == display
    assert len(re.findall(r"(?<!\$)\$[^$]+\$(?!\$)", document.text)) == inline_and_display - display
    assert document.text.startswith("For $m=1$,")
    assert r"The angle is $\theta=\sin^{-1}\left(2.2\times{10}^{-4}\right)=2.2\times{10}^{-4}rad$." in document.text


def test_slides_have_their_numbers() -> None:
    pages = {block.page for block in read(MIXED / "test.pptx").blocks}
    assert pages == {1, 2, 3, 4, 5, 6}


def test_a_feed() -> None:
    document = read(MIXED / "test_rss.xml")
    assert document.title == "The Official Microsoft Blog"
    assert document.metadata["modified"] == "2024-12-09T20:26:59+00:00"
    entries = [path for path in (b.heading_path for b in document.blocks if b.kind is BlockKind.HEADING) if len(path) == 2]
    assert len(entries) == (MIXED / "test_rss.xml").read_text("utf-8").count("<item>")


@pytest.mark.parametrize(
    ("name", "status"),
    [("test_files.zip", None), ("random.bin", None), ("LICENSE", Status.PARSED)],
)
def test_what_has_no_parser(name: str, status: Status | None) -> None:
    from kb_pipeline.parsing.registry import HEAD_BYTES, choose

    data = (MIXED / name).read_bytes()
    assert (choose(name, data[:HEAD_BYTES]) is None) == (status is None)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("crazyones-encrypted-256.pdf", Status.ENCRYPTED),
        ("encrypted-file.pdf", Status.ENCRYPTED),
        ("libreoffice-writer-password.pdf", Status.ENCRYPTED),
        ("r6-user-password.pdf", Status.ENCRYPTED),
    ],
)
def test_pdf_that_need_a_password(name: str, status: Status) -> None:
    with pytest.raises(ParseError) as caught:
        read(CORPORA / "pdf" / name)
    assert caught.value.status is status


@pytest.mark.parametrize(
    ("name", "title", "metadata", "words"),
    [
        ("metadata.pdf", "The Title", {"author": "Martin Thoma", "created": "2022-04-15T09:32:43+02:00"}, "Whatever"),
        ("missing_info.pdf", None, {"language": "de"}, ""),
        ("pdflatex-outline.pdf", None, {"created": "2022-04-06T20:15:41+02:00"}, "Foo"),
        ("crazyones.pdf", None, {"created": "2015-06-04T13:34:06-06:00"}, "crazy ones"),
    ],
)
def test_pdf(name: str, title: str | None, metadata: dict[str, str], words: str) -> None:
    document = read(CORPORA / "pdf" / name)
    assert document.title == title
    assert metadata.items() <= document.metadata.items()
    assert words in document.text


@pytest.mark.parametrize("folder", ["mixed", "pdf"])
def test_every_file_has_an_outcome_with_sound_blocks(folder: str) -> None:
    from kb_pipeline.parsing.registry import HEAD_BYTES, choose

    outcomes = {"parsed": 0, "refused": 0, "no_parser": 0}
    for path in sorted((CORPORA / folder).iterdir()):
        data = path.read_bytes()
        if choose(path.name, data[:HEAD_BYTES]) is None:
            outcomes["no_parser"] += 1
            continue
        try:
            document = parse(path.name, data)
        except ParseError:
            outcomes["refused"] += 1
            continue
        outcomes["parsed"] += 1
        position = 0
        for block in document.blocks:
            assert position <= block.start < block.end <= len(document.text), path.name
            position = block.end
    assert outcomes["parsed"] > 2 * outcomes["refused"]
