"""Vectors agree with sentence-transformers, and depend on nothing but the text."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kb_pipeline.embedding import EmbeddingError, ModelFiles, SentenceTransformerEmbedder, Vectors, resolve

# fmt: off
WORDS = [
    "the", "owner", "of", "a", "value", "moves", "borrowed", "pension", "clause", "rate",
    "Größe", "東京", "naïve", "☃", "3.14", "fn", "main()", "{", "}",
]
# fmt: on
PROSE = [" ".join(WORDS[(i * 7 + j * (i + 3)) % len(WORDS)] for j in range(1 + i * i % 90)) for i in range(24)]
ODD = ["", " ", "\n\n", "word " * 400, "\x00", "a\ud800b", "http://example.org/picture.png", "[SEP] [MASK]"]
TEXTS = PROSE + ODD


@pytest.fixture(scope="module")
def alone(embedder: SentenceTransformerEmbedder) -> Vectors:
    """Each text embedded in a call of its own."""
    return np.concatenate([embedder.embed([text]) for text in TEXTS])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=24),
    batch_tokens=st.sampled_from([1, 64, 500, 1024, 4096]),
    hints=st.randoms(use_true_random=False),
)
def test_a_vector_is_bitwise_the_same_in_any_company(
    chosen: list[int],
    batch_tokens: int,
    hints: Any,
    files: ModelFiles,
    embedder: SentenceTransformerEmbedder,
    alone: Vectors,
) -> None:
    other = SentenceTransformerEmbedder(files, device="cpu", batch_tokens=batch_tokens)
    other._model, other._padded = embedder._load(), True
    n_tokens = [hints.randint(0, 500) for _ in chosen]
    assert np.array_equal(other.embed([TEXTS[i] for i in chosen], n_tokens), alone[chosen])


def test_it_agrees_with_sentence_transformers(alone: Vectors, reference: Any) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in TEXTS]
    theirs = reference.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    assert (alone * theirs).sum(axis=1).min() > 0.99999
    assert np.abs(alone - theirs).max() < 1e-5


def test_it_cuts_a_long_text_where_sentence_transformers_does(embedder: SentenceTransformerEmbedder) -> None:
    long, cut = "word " * 400, "word " * 254
    assert np.array_equal(embedder.embed([long]), embedder.embed([cut]))
    assert not np.array_equal(embedder.embed([cut]), embedder.embed(["word " * 253]))


def test_shapes_and_progress(embedder: SentenceTransformerEmbedder) -> None:
    empty = embedder.embed([])
    assert empty.shape == (0, 384)
    assert empty.dtype == np.float32
    done: list[int] = []
    vectors = embedder.embed(TEXTS, on_progress=done.append)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    assert sum(done) == len(TEXTS)
    assert embedder.embed_query("a value").shape == (384,)
    assert np.array_equal(embedder.embed_query("a value"), embedder.embed(["a value"])[0])
    with pytest.raises(ValueError, match="token counts"):
        embedder.embed(["a"], [1, 2])


def test_more_texts_than_one_window_keep_their_order(embedder: SentenceTransformerEmbedder) -> None:
    texts = [WORDS[i % len(WORDS)] + " " + str(i) for i in range(600)]
    vectors = embedder.embed(texts)
    for i in (0, 255, 256, 511, 599):
        assert np.array_equal(vectors[i], embedder.embed([texts[i]])[0])


def test_prompts(files: ModelFiles, reference: Any, tmp_path: Path) -> None:
    folder = tmp_path / "prompted"
    for source in (p for p in files.folder.rglob("*") if p.is_file()):
        place = folder / source.relative_to(files.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)
    (folder / "config_sentence_transformers.json").unlink()
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: ", "document": "passage: "}}')
    prompted = SentenceTransformerEmbedder(resolve(str(folder)), device="cpu")
    theirs = reference.encode(["passage: " + t for t in PROSE[:4]], show_progress_bar=False)
    assert (prompted.embed(PROSE[:4]) * theirs).sum(axis=1).min() > 0.99999
    query = reference.encode("query: " + PROSE[5], show_progress_bar=False)
    assert prompted.embed_query(PROSE[5]) @ query > 0.99999


def test_several_threads_take_turns(embedder: SentenceTransformerEmbedder, alone: Vectors) -> None:
    results: dict[int, Vectors] = {}

    def work(n: int) -> None:
        results[n] = embedder.embed(TEXTS) if n % 2 else np.stack([embedder.embed_query(t) for t in TEXTS])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[n], alone) for n in range(2))


class _Cramped(SentenceTransformerEmbedder):
    """Runs out of memory above a number of texts per pass."""

    room = 2
    failures = 0

    def _forward(self, rows: list[dict[str, Any]]) -> Vectors:
        import torch

        if len(rows) > self.room:
            self.failures += 1
            if self.failures % 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")
        return super()._forward(rows)


def _cramped(files: ModelFiles, embedder: SentenceTransformerEmbedder, room: int) -> _Cramped:
    cramped = _Cramped(files, device="cpu")
    cramped._model, cramped._padded = embedder._load(), True
    cramped.room = room
    return cramped


@pytest.mark.parametrize("room", [1, 2, 5])
def test_out_of_memory_halves_the_batch_and_changes_nothing(
    room: int,
    files: ModelFiles,
    embedder: SentenceTransformerEmbedder,
    alone: Vectors,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cramped = _cramped(files, embedder, room)
    done: list[int] = []
    with caplog.at_level(logging.WARNING):
        vectors = cramped.embed(TEXTS, on_progress=done.append)
    assert np.array_equal(vectors, alone)
    assert cramped.failures
    assert sum(done) == len(TEXTS)
    assert "going on with half" in caplog.text


def test_one_text_too_large_for_the_cpu_is_an_error(files: ModelFiles, embedder: SentenceTransformerEmbedder) -> None:
    with pytest.raises(RuntimeError, match="memory"):
        _cramped(files, embedder, 0).embed(["a"])


class _Elsewhere:
    """The real model, pretending to be on a GPU until it is moved."""

    def __init__(self, model: Any) -> None:
        import torch

        self._inner = model
        self.device = torch.device("cuda")

    def to(self, device: str) -> None:
        import torch

        self.device = torch.device(device)

    def __call__(self, features: dict[str, Any]) -> Any:
        return self._inner(features)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_one_text_too_large_for_the_gpu_goes_to_the_cpu(
    files: ModelFiles, embedder: SentenceTransformerEmbedder, alone: Vectors, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(_Cramped):
        def _forward(self, rows: list[dict[str, Any]]) -> Vectors:
            self.room = 0 if self._model.device.type == "cuda" else 10**6
            return super()._forward(rows)

    full = Full(files)
    full._model, full._padded = _Elsewhere(embedder._load()), True
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(full.embed(TEXTS), alone)
    assert "going on with the CPU" in caplog.text
    assert full.device == "cpu"


def test_other_errors_are_not_taken_for_lack_of_memory(
    files: ModelFiles, embedder: SentenceTransformerEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = _cramped(files, embedder, 10**6)

    def fail(rows: list[dict[str, Any]]) -> Vectors:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(broken, "_forward", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        broken.embed(["a", "b"])


def test_a_model_without_a_transformer(files: ModelFiles, tmp_path: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files.tokenizer_path))
    tokenizer.no_truncation()
    torch.manual_seed(7)
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=24)], device="cpu")
    static.save(str(tmp_path / "static"))
    embedder = SentenceTransformerEmbedder(resolve(str(tmp_path / "static")), device="cpu")
    vectors = embedder.embed(PROSE)
    assert vectors.shape == (len(PROSE), embedder.dimension) == (len(PROSE), 24)
    assert np.allclose(vectors, static.encode(PROSE, show_progress_bar=False), atol=1e-6)
    assert np.array_equal(embedder.embed(PROSE[3:5]), vectors[3:5])


def test_reduced_precision_is_close_and_another_model(files: ModelFiles, alone: Vectors) -> None:
    half = SentenceTransformerEmbedder(files, device="cpu", dtype="bf16")
    vectors = half.embed(PROSE[:4])
    assert vectors.dtype == np.float32
    assert (vectors * alone[:4]).sum(axis=1).min() > 0.99
    assert half.model_id != SentenceTransformerEmbedder(files).model_id


def test_bad_arguments(files: ModelFiles) -> None:
    with pytest.raises(ValueError, match="int8"):
        SentenceTransformerEmbedder(files, dtype="int8")
    with pytest.raises(ValueError, match="batch_tokens"):
        SentenceTransformerEmbedder(files, batch_tokens=0)


def test_a_device_that_is_not_there_is_named(files: ModelFiles) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has cuda")
    with pytest.raises(EmbeddingError, match="cuda:3"):
        SentenceTransformerEmbedder(files, device="cuda:3").embed(["a"])


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_accelerator_agrees_with_the_cpu(device: str, files: ModelFiles, alone: Vectors) -> None:
    import torch

    if not (torch.cuda if device == "cuda" else torch.backends.mps).is_available():
        pytest.skip(f"no {device} here")
    vectors = SentenceTransformerEmbedder(files, device=device).embed(TEXTS)
    assert (vectors * alone).sum(axis=1).min() > 0.9999
