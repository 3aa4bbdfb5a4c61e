"""The embeddings stage: every chunk gets its vector, computed once per (model id, exact text)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline import tables
from kb_pipeline.embedding.base import Embedder, Vectors
from kb_pipeline.embedding.embed import embed_missing
from kb_pipeline.embedding.vector_store import Located, VectorStore
from kb_pipeline.ingestion.work import Prepared, Work
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.monitoring.progress import OnProgress
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Staged, Storage
from kb_pipeline.storage.table import ROW_GROUP_BYTES, Table

_GROUPS = 2
"""Groups of rows of the last table that are kept in memory, of about ROW_GROUP_BYTES each."""
_RESTORED_ROWS = 4_096
"""Vectors of one commit."""


def version(workspace: Workspace) -> str:
    """What decides which vector a text has: the model, by its name. Its id would take the hash of its weights."""
    model = workspace.settings.model
    return f"{model.pinned} {model.dtype}"


def prepare(work: Work) -> Prepared:
    """Embeddings of a partition, written aside."""
    if work.embedder is None:
        raise ValueError("the embeddings stage needs an embedder")
    return Prepared(
        update(
            work.workspace.storage,
            work.partition,
            work.embedder,
            window_bytes=work.workspace.limits.inflight_bytes,
            on_progress=work.on_progress,
        )
    )


def update(
    storage: Storage,
    partition: Partition,
    embedder: Embedder,
    *,
    window_bytes: int,
    on_progress: OnProgress,
) -> Staged:
    """Bring a partition's embeddings in step with its chunks; written aside, not published.

    A chunk whose text the last table held keeps the vector it has there; the vector store is asked for the others only, so
    that one edit costs the same however many vectors are stored. New texts are embedded in windows of about
    ``window_bytes`` of text, sorted by length within a window, and reach the store in commit groups: a crash loses one group
    at most. Raises FileNotFoundError when there are no chunks.
    """
    standing = _standing(storage, partition, embedder)
    if standing is not None:
        on_progress(standing.pointer.rows, standing.pointer.rows)
        return standing
    with ExitStack() as opened:
        chunks = opened.enter_context(storage.require("chunks", partition))
        found = storage.open("embeddings", partition)
        if found is not None:
            opened.enter_context(found)
            if found.pointer.recipe != embedder.model_id:
                found = None
        previous = _Previous(found, embedder.dimension)
        store = VectorStore(storage.vectors_location, embedder.model_id, embedder.dimension)
        restored = previous.restore(store)
        names = chunks.read(["chunk_id", "text_sha256"])
        places = previous.places(names)
        fresh = np.flatnonzero(places < 0)
        kept = chunks.num_rows - len(fresh)
        embedded = reused = settled = 0

        def report(texts: int) -> None:
            nonlocal settled
            settled += texts
            on_progress(kept + settled, chunks.num_rows)

        for texts, n_tokens in _windows(chunks, fresh, window_bytes):
            result = embed_missing(texts, n_tokens, embedder, store, on_progress=report)
            embedded += result.embedded
            reused += result.reused
        located = store.locate(tables.values(pc.unique(names["text_sha256"].take(fresh))))
        fingerprint = identity.digest("embeddings", chunks.fingerprint, embedder.model_id)
        with storage.write(partition.key, tables.embeddings(embedder.dimension)) as writer:
            rows = _rows_at_once(embedder.dimension)
            for start in range(0, chunks.num_rows, rows):
                (batch,) = names.slice(start, rows).combine_chunks().to_batches()
                vectors = _vectors(tables.values(batch["text_sha256"]), places[start : start + rows], previous, located)
                column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), embedder.dimension)
                columns = [batch["chunk_id"], batch["text_sha256"], column]
                writer.batch(pa.RecordBatch.from_arrays(columns, ["chunk_id", "text_sha256", "vector"]))
            writer.describe(fingerprint, chunks.fingerprint)
            writer.annotate({tables.STORED_VECTORS: str(store.count())})
        if embedded or restored:
            store.compact()
        on_progress(chunks.num_rows, chunks.num_rows)
        counts = {"embedded": embedded, "reused": reused, "chunks": chunks.num_rows}
    return storage.staged("embeddings", partition, writer, counts, recipe=embedder.model_id)


def _standing(storage: Storage, partition: Partition, embedder: Embedder) -> Staged | None:
    """The current table, when it was made from the current chunks with this model."""
    chunks, current = storage.pointer("chunks", partition), storage.current("embeddings", partition)
    if chunks is None or current is None or (current.link, current.recipe) != (chunks.fingerprint, embedder.model_id):
        return None
    return Staged(storage, current, None, {"embedded": 0, "reused": 0, "chunks": chunks.rows})


def _rows_at_once(dimension: int) -> int:
    """Rows of a group whose vectors take about ROW_GROUP_BYTES."""
    return max(256, ROW_GROUP_BYTES // (4 * dimension))


class _Previous:
    """The last embeddings table of the same model, as a place to take vectors from; empty when there is none."""

    def __init__(self, table: Table | None, dimension: int) -> None:
        self._table = table
        self._dimension = dimension
        self._starts = np.cumsum([0, *(table.group_rows if table is not None else [])])
        self._groups: dict[int, Vectors] = {}

    def places(self, names: pa.Table) -> npt.NDArray[np.int64]:
        """For each chunk its row here, or -1: its own row, or else that of another chunk with the same text."""
        places = np.full(names.num_rows, -1, np.int64)
        if self._table is None:
            return places
        for column in ("chunk_id", "text_sha256"):
            # By chunk first, for those lie in the same order in both tables, and each group of rows is read once.
            held = self._table.read([column]).column(0)
            left = np.flatnonzero(places < 0)
            wanted = names[column].take(left)
            found: pa.Int32Array = pc.index_in(wanted.combine_chunks(), value_set=held.combine_chunks())
            places[left] = found.fill_null(-1).to_numpy(zero_copy_only=False)
        return places

    def take(self, places: npt.NDArray[np.int64]) -> Vectors:
        """Vectors of some rows, in their order."""
        vectors = np.empty((len(places), self._dimension), np.float32)
        groups = np.searchsorted(self._starts, places, side="right") - 1
        for group in np.unique(groups).tolist():
            chosen = groups == group
            vectors[chosen] = self._group(group)[places[chosen] - self._starts[group]]
        return vectors

    def restore(self, store: VectorStore) -> int:
        """Put vectors back that somebody removed from the store behind our back; returns how many.

        The store is only searched for them when it holds fewer than when this table was written, which is also so after
        garbage was collected.
        """
        if self._table is None or store.count() >= int(self._table.annotation(tables.STORED_VECTORS) or "0"):
            return 0
        keys = tables.values(self._table.read(["text_sha256"]).column(0))
        rows = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        lost = sorted(store.missing(rows), key=rows.__getitem__)
        for start in range(0, len(lost), _RESTORED_ROWS):
            part = lost[start : start + _RESTORED_ROWS]
            store.append(part, self.take(np.array([rows[key] for key in part], np.int64)))
        return len(lost)

    def _group(self, number: int) -> Vectors:
        if number not in self._groups:
            assert self._table is not None
            while len(self._groups) >= _GROUPS:
                del self._groups[next(iter(self._groups))]
            vectors = self._table.group(number, ["vector"]).column(0).combine_chunks()
            self._groups[number] = pc.list_flatten(vectors).to_numpy(zero_copy_only=False).reshape(-1, self._dimension)
        return self._groups[number]


def _vectors(keys: Sequence[str], places: npt.NDArray[np.int64], previous: _Previous, located: Located) -> Vectors:
    """Vectors of some chunks: from the last table where they have a place in it, from the store otherwise."""
    kept = places >= 0
    if kept.all():
        return previous.take(places)
    fetched = located.fetch([keys[row] for row in np.flatnonzero(~kept).tolist()])
    if not kept.any():
        return fetched
    vectors = np.empty((len(keys), fetched.shape[1]), np.float32)
    vectors[kept] = previous.take(places[kept])
    vectors[~kept] = fetched
    return vectors


def _windows(
    chunks: Table, fresh: npt.NDArray[np.int64], window_bytes: int
) -> Iterator[tuple[dict[str, str], dict[str, int]]]:
    """Distinct texts of some rows, by key, with their token counts; about ``window_bytes`` a time."""
    seen: set[str] = set()
    texts: dict[str, str] = {}
    n_tokens: dict[str, int] = {}
    size = 0
    for row in _rows(chunks, fresh, ["text_sha256", "prefix", "text", "n_tokens"]):
        key = row["text_sha256"]
        if key in seen:
            continue
        seen.add(key)
        texts[key] = row["prefix"] + row["text"]
        n_tokens[key] = row["n_tokens"]
        size += len(texts[key])
        if size >= window_bytes:
            yield texts, n_tokens
            texts, n_tokens, size = {}, {}, 0
    if texts:
        yield texts, n_tokens


def _rows(table: Table, wanted: npt.NDArray[np.int64], columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows by their ascending numbers; groups without any aren't read."""
    start = 0
    for group, count in enumerate(table.group_rows):
        first, last = np.searchsorted(wanted, [start, start + count])
        if first < last:
            offset = start
            for batch in table.group_batches(group, columns):
                low, high = np.searchsorted(wanted, [offset, offset + batch.num_rows])
                yield from batch.take(pa.array(wanted[low:high] - offset, pa.int64())).to_pylist()
                offset += batch.num_rows
        start += count
