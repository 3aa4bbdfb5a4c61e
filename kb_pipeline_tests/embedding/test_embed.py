"""Each text goes through the model once, and a failure costs one group at most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from kb_pipeline.embedding import (
    Embedder,
    EmbeddingError,
    SentenceTransformerEmbedder,
    Vectors,
    VectorStore,
    embed_missing,
    text_key,
)
from kb_pipeline.storage.lance import LanceLocation


class Counting:
    """Passes on to the packaged model, notes what it was given, and can fail after a number of texts."""

    def __init__(self, inner: Embedder, fail_after: int | None = None, spoil: str | None = None) -> None:
        self._inner = inner
        self._fail_after = fail_after
        self._spoil = spoil
        self.seen: list[str] = []
        self.calls: list[int] = []

    @property
    def model_id(self) -> str:
        return self._inner.model_id

    @property
    def dimension(self) -> int:
        return self._inner.dimension

    @property
    def max_tokens(self) -> int:
        return self._inner.max_tokens

    def embed(
        self,
        texts: Sequence[str],
        n_tokens: Sequence[int] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Vectors:
        if self._fail_after is not None and len(self.seen) + len(texts) > self._fail_after:
            raise OSError("killed")
        self.seen += texts
        self.calls.append(len(texts))
        vectors = self._inner.embed(texts, n_tokens, on_progress)
        if self._spoil is not None and self._spoil in texts:
            vectors[list(texts).index(self._spoil), 5] = np.nan
        return vectors

    def embed_query(self, text: str) -> Vectors:
        return self._inner.embed_query(text)


def _texts(n: int) -> dict[str, str]:
    return {text_key(t): t for t in (f"clause {i} " + "of the pension " * (i % 7) for i in range(n))}


def _tokens(texts: dict[str, str]) -> dict[str, int]:
    return {key: len(text.split()) for key, text in texts.items()}


@pytest.fixture
def store(tmp_path: Path, embedder: SentenceTransformerEmbedder) -> VectorStore:
    return VectorStore(LanceLocation(str(tmp_path / "vectors")), embedder.model_id, embedder.dimension)


def test_only_what_is_missing_is_embedded(embedder: SentenceTransformerEmbedder, store: VectorStore) -> None:
    texts = _texts(40)
    some = dict(list(texts.items())[:15])
    counting = Counting(embedder)
    done: list[int] = []
    first = embed_missing(some, _tokens(some), counting, store)
    second = embed_missing(texts, _tokens(texts), counting, store, on_progress=done.append)
    third = embed_missing(texts, {}, counting, store, on_progress=done.append)
    assert [(r.embedded, r.reused) for r in (first, second, third)] == [(15, 0), (25, 15), (0, 40)]
    assert sum(done) == 80
    assert sorted(counting.seen) == sorted(texts.values())
    assert np.array_equal(store.fetch(list(texts)), embedder.embed(list(texts.values())))
    assert embed_missing({}, {}, counting, store).embedded == 0


def test_the_whole_call_is_sorted_by_length(embedder: SentenceTransformerEmbedder, store: VectorStore) -> None:
    texts = _texts(30)
    counting = Counting(embedder)
    embed_missing(texts, _tokens(texts), counting, store, group_texts=8)
    lengths = [len(text.split()) for text in counting.seen]
    assert lengths == sorted(lengths, reverse=True)
    assert max(counting.calls) <= 8


def test_a_failure_keeps_the_groups_before_it(embedder: SentenceTransformerEmbedder, store: VectorStore) -> None:
    texts = _texts(40)
    counting = Counting(embedder, fail_after=25)
    with pytest.raises(OSError, match="killed"):
        embed_missing(texts, _tokens(texts), counting, store, group_texts=8, group_seconds=1e9)
    assert store.count() == 24
    resumed = Counting(embedder)
    result = embed_missing(texts, _tokens(texts), resumed, store, group_texts=8)
    assert (result.embedded, result.reused) == (16, 24)
    assert not set(resumed.seen) & set(counting.seen)


def test_time_closes_a_group_too(embedder: SentenceTransformerEmbedder, store: VectorStore) -> None:
    """The embedder seems to take three seconds a slice, so each slice is a group of its own."""
    texts = _texts(12)
    tokens = dict.fromkeys(texts, 2_000)
    ticks = iter(range(0, 3000, 3))
    counting = Counting(embedder, fail_after=9)
    with pytest.raises(OSError, match="killed"):
        embed_missing(texts, tokens, counting, store, group_texts=1000, group_seconds=2.0, clock=lambda: float(next(ticks)))
    assert counting.calls == [3, 3, 3]
    assert store.count() == 9


def test_slices_grow_while_the_model_is_fast(embedder: SentenceTransformerEmbedder, store: VectorStore) -> None:
    texts = _texts(60)
    counting = Counting(embedder)
    embed_missing(texts, dict.fromkeys(texts, 1_024), counting, store, clock=lambda: 0.0)
    assert counting.calls[:3] == [4, 8, 16]


def test_a_vector_that_is_not_finite_is_named_and_not_stored(
    embedder: SentenceTransformerEmbedder, store: VectorStore
) -> None:
    texts = _texts(20)
    order = sorted(texts, key=lambda k: (-len(texts[k].split()), k))
    with pytest.raises(EmbeddingError, match=order[12]):
        embed_missing(texts, _tokens(texts), Counting(embedder, spoil=texts[order[12]]), store, group_texts=8)
    assert store.has(texts) == set(order[:8])


def test_keys_are_of_the_exact_text() -> None:
    assert text_key("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert len({text_key(t) for t in ("é", "e\u0301", "e", "E", "e ", "\ud800", "\udc00")}) == 7


def test_lone_surrogates_go_through(embedder: SentenceTransformerEmbedder, store: VectorStore) -> None:
    text = "a\ud800b"
    assert embed_missing({text_key(text): text}, {}, embedder, store).embedded == 1
    assert store.has([text_key(text)])
