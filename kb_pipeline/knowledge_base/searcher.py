"""Asking a release: a searcher brings a release and the model of its vectors together.

What belongs here: which embedder a query's vector comes from, and the check that it is the release's own. What doesn't: the
search itself (``search``), printing hits.

Importing this loads no model library, no database and no Dagster, and a search by words never loads a model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kb_pipeline.embedding.base import Embedder, Vectors
from kb_pipeline.knowledge_base.releases import CURRENT
from kb_pipeline.knowledge_base.search import Filters, Hit, Mode, Release, SearchError
from kb_pipeline.storage.storage import Storage


class OtherModel(SearchError):
    """The release was made with another model than the one at hand. The message says what to do."""


class Searcher:
    """A release to be asked, by meaning, by words, or both. May be used by several threads.

    >>> searcher = Searcher.open(Path(".kb"))  # doctest: +SKIP
    >>> searcher.search("when can I retire?", k=3)[0].uri  # doctest: +SKIP
    """

    def __init__(self, release: Release, embedder: Callable[[], Embedder]) -> None:
        """``embedder`` is called once, at the first query that needs a vector."""
        self.release = release
        self._load = embedder
        self._embedder: Embedder | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, storage: Path | Storage, release: str = CURRENT, *, embedder: Callable[[], Embedder] | None = None
    ) -> Searcher:
        """A searcher over a release of a storage, "current" or one by its name.

        ``embedder`` gives the model of the release's vectors when it is needed. By default the model that the release names
        is looked for on this machine. Raises NoRelease.
        """
        opened = Release.open(storage, release)
        return cls(opened, embedder or partial(_of_release, opened))

    def search(self, query: str, *, k: int = 10, mode: Mode = "hybrid", filters: Filters | None = None) -> list[Hit]:
        """The ``k`` best chunks for a query.

        Raises SearchError for an empty query; unless the mode is text also OtherModel, and ModelNotFound when the release's
        model isn't on this machine.
        """
        return self.release.search(query, self._embed, k=k, mode=mode, filters=filters)

    def _embed(self, query: str) -> Vectors:
        with self._lock:
            if self._embedder is None:
                self._embedder = self._checked(self._load())
        return self._embedder.embed_query(query)

    def _checked(self, embedder: Embedder) -> Embedder:
        record = self.release.record
        if embedder.model_id != record.model_id:
            raise OtherModel(
                f"{record.name} was made with the model {record.model_name} (id {record.model_id}), and not with the one at "
                f"hand (id {embedder.model_id}): run `kb run` to publish a release with that, or search with --mode text"
            )
        return embedder


def _of_release(release: Release) -> Embedder:
    from kb_pipeline.embedding import SentenceTransformerEmbedder, resolve

    return SentenceTransformerEmbedder(resolve(release.record.model_name))
