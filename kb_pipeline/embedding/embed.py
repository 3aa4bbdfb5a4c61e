"""Embeds what the store lacks, and nothing else.

What belongs here: the order of work between an embedder and a store, so that a vector is computed once and a kill loses
little.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kb_pipeline.embedding.base import Embedder, Vectors
from kb_pipeline.embedding.errors import EmbeddingError
from kb_pipeline.embedding.vector_store import VectorStore

# Tokens handed to the embedder at once, adapted to its speed between these.
_FIRST_SLICE_TOKENS = 4_096
_MAX_SLICE_TOKENS = 1_048_576


@dataclass(frozen=True)
class EmbedResult:
    """Distinct texts of one `embed_missing` call, by where their vector came from."""

    embedded: int
    """Sent through the model."""
    reused: int
    """Already in the store."""


def text_key(text: str) -> str:
    """Key of a text in the store: 64 hex digits, the sha256 of its UTF-8 (lone surrogates as three bytes)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def embed_missing(
    texts: Mapping[str, str],
    n_tokens: Mapping[str, int],
    embedder: Embedder,
    store: VectorStore,
    *,
    group_texts: int = 1024,
    group_seconds: float = 2.0,
    on_progress: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> EmbedResult:
    """Computes and stores the vectors of those `texts` (key -> text) whose key the store lacks.

    Commits when `group_texts` texts or `group_seconds` seconds have gathered, so that a killed process loses one group
    at most. `n_tokens` (key -> tokens, may be partial) only orders the work. `on_progress` is called with the number of
    texts settled since its last call, the reused ones first; the numbers add up to len(texts).

    Raises EmbeddingError when a vector is not finite (it names the text's key; nothing of its group is stored), and
    what the embedder and the store raise.
    """
    missing = store.missing(texts)
    reused = len(texts) - len(missing)
    if on_progress is not None and reused:
        on_progress(reused)
    # Over the whole call, so that batches hold texts of one length; the key settles ties and makes runs alike.
    missing.sort(key=lambda key: (-n_tokens.get(key, len(texts[key])), key))
    keys: list[str] = []
    parts: list[Vectors] = []
    since = clock()
    slices = _Slices(missing, texts, n_tokens, group_texts, group_seconds)
    for part in slices:
        started = clock()
        vectors = embedder.embed([texts[k] for k in part], [n_tokens.get(k, len(texts[k])) for k in part], on_progress)
        _check_finite(part, vectors)
        keys += part
        parts.append(vectors)
        now = clock()
        slices.took(now - started)
        if len(keys) >= group_texts or now - since >= group_seconds:
            store.append(keys, np.concatenate(parts))
            keys, parts, since = [], [], clock()
    if keys:
        store.append(keys, np.concatenate(parts))
    return EmbedResult(embedded=len(missing), reused=reused)


class _Slices:
    """Cuts the sorted keys into slices that take the embedder well under a group's time, whatever its speed."""

    def __init__(
        self, keys: list[str], texts: Mapping[str, str], n_tokens: Mapping[str, int], max_texts: int, seconds: float
    ) -> None:
        self._keys = keys
        self._texts = texts
        self._n_tokens = n_tokens
        self._max_texts = max_texts
        self._seconds = seconds
        self._tokens = _FIRST_SLICE_TOKENS

    def __iter__(self) -> Iterator[list[str]]:
        part: list[str] = []
        tokens = 0
        for key in self._keys:
            part.append(key)
            tokens += self._n_tokens.get(key, len(self._texts[key]))
            if tokens >= self._tokens or len(part) >= self._max_texts:
                yield part
                part, tokens = [], 0
        if part:
            yield part

    def took(self, seconds: float) -> None:
        """Tells how long the last slice took; the next is larger when that was little."""
        if seconds < self._seconds / 4:
            self._tokens = min(self._tokens * 2, _MAX_SLICE_TOKENS)
        elif seconds > self._seconds:
            self._tokens = max(self._tokens // 2, _FIRST_SLICE_TOKENS)


def _check_finite(keys: list[str], vectors: Vectors) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        key = keys[int(np.argmin(finite))]
        raise EmbeddingError(f"The model gave a vector with NaN or infinity for the text with key {key}.")
