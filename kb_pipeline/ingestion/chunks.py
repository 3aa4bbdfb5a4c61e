"""The chunks stage: documents become chunk rows; documents that stayed as they were keep theirs."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline import tables
from kb_pipeline.chunking import chunker
from kb_pipeline.chunking.settings import Chunkers
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.ingestion.work import Prepared, Work
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.monitoring.progress import OnProgress
from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Staged, Storage


def recipe(tokenizer: Tokenizer, chunkers: Chunkers, media_type: str) -> str:
    """Fingerprint of all that decides where documents of a media type are cut."""
    settings = chunkers.settings(media_type)
    knobs = (settings.chunker.value, settings.tokens, settings.overlap, settings.respect_headings)
    return identity.digest("recipe", chunker.CHUNKER_VERSION, tokenizer.fingerprint, *knobs)


def version(workspace: Workspace) -> str:
    """What decides where a document is cut: the chunkers, their settings, and the model's tokenizer by the model's name."""
    settings = workspace.settings
    return (
        f"{chunker.CHUNKER_VERSION} {identity.digest(settings.chunking.model_dump(mode='json'), settings.model.pinned)[:8]}"
    )


def prepare(work: Work) -> Prepared:
    """Chunks of a partition, written aside."""
    workspace = work.workspace
    return Prepared(
        update(
            workspace.storage,
            work.partition,
            workspace.tokenizer,
            workspace.chunkers,
            on_progress=work.on_progress,
        )
    )


def update(
    storage: Storage,
    partition: Partition,
    tokenizer: Tokenizer,
    chunkers: Chunkers,
    *,
    on_progress: OnProgress,
) -> Staged:
    """Bring a partition's chunks in step with its documents; written aside, not published.

    Cut anew are documents that changed, and those of media types whose recipe did.
    Raises FileNotFoundError when the partition has no documents yet.
    """
    standing = _standing(storage, partition, tokenizer, chunkers)
    if standing is not None:
        on_progress(standing.counts["chunks"], standing.counts["chunks"])
        return standing
    with storage.require("documents", partition) as documents:
        media_types = tables.values(pc.unique(documents.read(["media_type"]).column(0).drop_null()))
        recipes = {each: recipe(tokenizer, chunkers, each) for each in sorted(media_types)}
        made_with = json.dumps(recipes)
        previous = storage.open("chunks", partition)
        before = _recipes(previous.pointer.recipe) if previous is not None else {}
        same = pa.array([each for each, made in recipes.items() if before.get(each) == made], pa.string())
        if previous is not None and not len(same):
            previous.close()
            previous = None
        hashes: list[str] = []
        with storage.write(partition.key, tables.CHUNKS) as writer:
            wanted = documents.read(["document_hash"]).column(0).drop_null().combine_chunks()
            reused: set[str] = set()
            if previous is not None:
                with previous:
                    for batch in previous.batches():
                        stays = batch.filter(pc.is_in(batch["document_hash"], wanted))
                        stays = stays.filter(pc.equal(stays["partition"], pa.scalar(partition.key)))
                        stays = stays.filter(pc.is_in(stays["media_type"], same))
                        reused.update(tables.values(stays["document_hash"]))
                        hashes.extend(tables.values(stays["row_hash"]))
                        writer.batch(stays)
            done = 0
            for batch in documents.bounded_batches(rows=64):
                new = [each is not None and each not in reused for each in batch["document_hash"].to_pylist()]
                fresh = batch.filter(pa.array(new, pa.bool_()))
                for row in fresh.to_pylist():
                    for chunk_row in cut(partition, row, tokenizer, chunkers):
                        hashes.append(chunk_row["row_hash"])
                        writer.row(chunk_row)
                done += batch.num_rows
                on_progress(done, documents.num_rows)
            fingerprint = identity.table_fingerprint(hashes, documents.fingerprint, made_with)
            writer.describe(fingerprint, documents.fingerprint)
    return storage.staged("chunks", partition, writer, {"chunks": len(hashes)}, recipe=made_with)


def _standing(storage: Storage, partition: Partition, tokenizer: Tokenizer, chunkers: Chunkers) -> Staged | None:
    """The current table, when it was made from the current documents and every media type among them is cut as it was."""
    documents, chunks = storage.pointer("documents", partition), storage.current("chunks", partition)
    if documents is None or chunks is None or chunks.link != documents.fingerprint:
        return None
    # The same documents, and so the same media types.
    if json.dumps({each: recipe(tokenizer, chunkers, each) for each in sorted(_recipes(chunks.recipe))}) != chunks.recipe:
        return None
    return Staged(storage, chunks, None, {"chunks": chunks.rows})


def _recipes(made_with: str) -> dict[str, str]:
    """Media type -> recipe its chunks were made with; empty for what another version wrote."""
    try:
        found = json.loads(made_with)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def cut(partition: Partition, row: Mapping[str, Any], tokenizer: Tokenizer, chunkers: Chunkers) -> Iterator[dict[str, Any]]:
    """Yield the chunk rows of one row of a documents table. A blank document has none."""
    document = Document(
        text=row["text"],
        media_type=row["media_type"],
        blocks=tuple(
            Block(BlockKind(each["kind"]), each["start"], each["end"], tuple(each["heading_path"]), each["page"])
            for each in row["blocks"]
        ),
        title=row["title"],
        metadata=json.loads(row["metadata"]),
    )
    if not document.text.strip():
        return
    seen: Counter[str] = Counter()
    settings = chunkers.settings(document.media_type)
    for ordinal, piece in enumerate(chunker.chunk(document, tokenizer, settings)):
        text = document.text[piece.start : piece.end]
        sha256 = hashlib.sha256((piece.prefix + text).encode("utf-8", "surrogatepass")).hexdigest()
        chunk_row: dict[str, Any] = {
            "chunk_id": identity.chunk_id(row["document_id"], sha256, seen[sha256]),
            "document_id": row["document_id"],
            "document_hash": row["document_hash"],
            "source": partition.type,
            "connection": partition.connection,
            "partition": partition.key,
            "key": row["key"],
            "uri": row["uri"],
            "title": row["title"],
            "media_type": row["media_type"],
            "modified": row["modified"],
            "ordinal": ordinal,
            "text": text,
            "prefix": piece.prefix,
            "text_sha256": sha256,
            "start": piece.start,
            "end": piece.end,
            "n_tokens": piece.n_tokens,
            "page": piece.page,
            "heading_path": list(piece.heading_path),
            "kind": piece.kind,
            "partial": piece.partial,
        }
        chunk_row["row_hash"] = identity.digest("row", *chunk_row.values())
        seen[sha256] += 1
        yield chunk_row
