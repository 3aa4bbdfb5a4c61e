"""The embeddings stage: every chunk gets its vector, computed once per (model id, exact text)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from kb_pipeline import tables
from kb_pipeline.embedding.base import Embedder
from kb_pipeline.embedding.embed import embed_missing
from kb_pipeline.embedding.vector_store import VectorStore
from kb_pipeline.ingestion.work import Prepared, Work
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.table import Staged, Storage, Table


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
    on_progress: Callable[[int, int], None],
) -> Staged:
    """Bring a partition's embeddings in step with its chunks; written aside, not published.

    New texts are embedded in windows of about ``window_bytes`` of text, sorted by length within a window, and reach the
    vector store in commit groups: a crash loses one group at most. Raises FileNotFoundError when there are no chunks.
    """
    target = storage.table_path("embeddings", partition)
    with Table(storage.table_path("chunks", partition)) as chunks:
        previous = Table.open(target)
        if previous is not None and previous.annotation(tables.RECIPE) != embedder.model_id:
            previous.close()
            previous = None
        known: set[str] = set()
        if previous is not None:
            with previous:
                if previous.annotation(tables.SOURCE_FINGERPRINT) == chunks.fingerprint:
                    on_progress(chunks.num_rows, chunks.num_rows)
                    counts = {"embedded": 0, "reused": 0, "chunks": chunks.num_rows}
                    return Staged(target, None, previous.fingerprint, counts)
                known.update(tables.values(previous.read(["text_sha256"]).column(0)))
        store = VectorStore(storage.vectors_location, embedder.model_id, embedder.dimension)
        # What the last table held is in the store, unless somebody lost it there: then it is computed once more.
        known.difference_update(store.missing(known))
        embedded = reused = settled = 0

        def report(texts: int) -> None:
            nonlocal settled
            settled += texts
            on_progress(settled, chunks.num_rows)

        for texts, n_tokens in _windows(chunks, known, window_bytes):
            result = embed_missing(texts, n_tokens, embedder, store, on_progress=report)
            embedded += result.embedded
            reused += result.reused
        fingerprint = identity.digest("embeddings", chunks.fingerprint, embedder.model_id)
        with storage.stage(target, tables.embeddings(embedder.dimension)) as writer:
            for batch in chunks.batches(["chunk_id", "text_sha256"], rows=16_384):
                vectors = store.fetch(tables.values(batch["text_sha256"]))
                flat = pa.array(vectors.reshape(-1), pa.float32())
                column = pa.FixedSizeListArray.from_arrays(flat, embedder.dimension)
                names = ["chunk_id", "text_sha256", "vector"]
                writer.batch(pa.RecordBatch.from_arrays([batch["chunk_id"], batch["text_sha256"], column], names))
            writer.annotate(
                {
                    tables.FINGERPRINT: fingerprint,
                    tables.SOURCE_FINGERPRINT: chunks.fingerprint,
                    tables.RECIPE: embedder.model_id,
                }
            )
        if embedded:
            store.compact()
        on_progress(chunks.num_rows, chunks.num_rows)
        counts = {"embedded": embedded, "reused": reused, "chunks": chunks.num_rows}
    return Staged(target, writer.path, fingerprint, counts)


def _windows(chunks: Table, known: set[str], window_bytes: int) -> Iterator[tuple[dict[str, str], dict[str, int]]]:
    """Distinct texts that the last table didn't hold, by key, with their token counts; about ``window_bytes`` a time."""
    seen = set(known)
    texts: dict[str, str] = {}
    n_tokens: dict[str, int] = {}
    size = 0
    for batch in chunks.batches(["text_sha256", "prefix", "text", "n_tokens"]):
        for row in batch.to_pylist():
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
