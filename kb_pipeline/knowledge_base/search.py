"""Search in a release: vector, full text, or both fused (``fusion``); and plain reading of a release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from kb_pipeline import tables
from kb_pipeline.knowledge_base.fusion import fuse
from kb_pipeline.knowledge_base.index import TABLE, among, quote
from kb_pipeline.knowledge_base.releases import CURRENT, NoRelease, ReleaseRecord, Releases
from kb_pipeline.storage.storage import Storage

if TYPE_CHECKING:
    import pandas

Mode = Literal["hybrid", "vector", "text"]
CANDIDATES = 100
"""Rows taken from a list before it is cut to fewer: a list cut by the database ends among equals at random."""
FUSED_CANDIDATES = 1_000
"""Rows taken from each list before they are fused, however few are asked for: one that is far down in one list may still
be among the best of both, and the first ten are the same whether ten or a thousand are asked for."""


class SearchError(Exception):
    """The search can't be answered. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which documents may be found; None admits all. ``path_prefix`` is compared with the item's key."""

    source: str | None = None
    connection: str | None = None
    path_prefix: str | None = None
    media_type: str | None = None

    def where(self) -> str | None:
        """The filter as a SQL condition on the index."""
        conditions = [
            f"{column} = {quote(value)}"
            for column, value in (
                ("source", self.source),
                ("connection", self.connection),
                ("media_type", self.media_type),
            )
            if value is not None
        ]
        if self.path_prefix is not None:
            conditions.append(f"starts_with(key, {quote(self.path_prefix)})")
        return " AND ".join(conditions) or None


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk found. ``score``: cosine (vector), BM25 (text) or fused rank score (hybrid); higher is better."""

    score: float
    uri: str
    source: str
    connection: str
    document_id: str
    chunk_id: str
    text: str
    start: int
    end: int
    page: int | None
    heading_path: list[str]
    title: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


_HIT_COLUMNS = [name for name in Hit.__dataclass_fields__ if name != "score"]
_Row = dict[str, Any]


class Release:
    """A published release, read only.

    >>> release = Release.open(Path(".kb"))  # doctest: +SKIP
    >>> release.to_pandas()[["uri", "text"]]  # doctest: +SKIP
    """

    def __init__(self, storage: Storage, record: ReleaseRecord) -> None:
        """Raises NoRelease when the index is gone."""
        self.record = record
        self._table: Any = storage.index_location.open(TABLE)
        if self._table is None:
            raise NoRelease(f"the index of {record.name} is gone from {storage.index_location}: run `kb run`")
        self._table.checkout(record.version)

    @classmethod
    def open(cls, storage: Path | Storage, name: str = CURRENT) -> Release:
        """The release of this name in a storage folder. Raises NoRelease."""
        where = storage if isinstance(storage, Storage) else Storage.of_folder(storage)
        return cls(where, Releases(where).get(name))

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, ordered by chunk id, with these columns or all of ``tables.index``."""
        names = list(columns or tables.index(1).names)
        query = self._table.search().select(list(dict.fromkeys([*names, "chunk_id"])))
        rows: pa.Table = query.to_arrow()
        return rows.sort_by("chunk_id").select(names)

    def to_pandas(self) -> pandas.DataFrame:
        """All rows as a data frame, ordered by chunk id."""
        return self.to_arrow().to_pandas()

    def search(
        self,
        query: str,
        embed_query: Callable[[str], np.ndarray],
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        filters: Filters | None = None,
    ) -> list[Hit]:
        """The ``k`` best chunks for a query. ``embed_query`` (text -> vector) is called unless the mode is text.

        Raises SearchError for an empty query.
        """
        if not query.strip():
            raise SearchError("the query is empty")
        if self.record.chunks == 0:
            return []
        where = (filters or Filters()).where()
        vector = None if mode == "text" else embed_query(query)
        if mode == "vector":
            return [_hit(row, 1.0 - row["_distance"]) for row in self._nearest(vector, where, k)]
        if mode == "text":
            return [_hit(row, row["_score"]) for row in self._matching(query, where, k)]
        depth = max(k, FUSED_CANDIDATES)
        lists = [
            self._nearest(vector, where, depth, ["chunk_id"]),
            self._matching(query, where, depth, ["chunk_id"]),
        ]
        return self._hits(fuse([[row["chunk_id"] for row in found] for found in lists])[:k])

    def _nearest(self, vector: Any, where: str | None, k: int, columns: Sequence[str] = _HIT_COLUMNS) -> list[_Row]:
        query = self._table.search(vector).distance_type("cosine")
        return _rows(query, where, k, "_distance", columns)

    def _matching(self, text: str, where: str | None, k: int, columns: Sequence[str] = _HIT_COLUMNS) -> list[_Row]:
        return _rows(self._table.search(text, query_type="fts"), where, k, "_score", columns)

    def _hits(self, scored: list[tuple[str, float]]) -> list[Hit]:
        """Hits for (chunk id, score), in their order."""
        if not scored:
            return []
        found = self._table.search().where(among([chunk for chunk, _ in scored])).select(_HIT_COLUMNS).to_list()
        rows = {row["chunk_id"]: row for row in found}
        return [_hit(rows[chunk], score) for chunk, score in scored]


def _rows(query: Any, where: str | None, k: int, score: str, columns: Sequence[str]) -> list[_Row]:
    query = query.limit(max(k, CANDIDATES)).select([*columns, score])
    found: list[_Row] = (query if where is None else query.where(where, prefilter=True)).to_list()
    # Equal scores come in no particular order: the id makes a result repeatable.
    sign = 1.0 if score == "_distance" else -1.0
    return sorted(found, key=lambda row: (sign * row[score], row["chunk_id"]))[:k]


def _hit(row: _Row, score: float) -> Hit:
    return Hit(score=float(score), **{name: row[name] for name in _HIT_COLUMNS})
