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
from kb_pipeline.storage.table import Staged, Storage, Table


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
    target = storage.table_path("chunks", partition)
    with Table(storage.table_path("documents", partition)) as documents:
        media_types = tables.values(pc.unique(documents.read(["media_type"]).column(0).drop_null()))
        recipes = {each: recipe(tokenizer, chunkers, each) for each in sorted(media_types)}
        made_with = json.dumps(recipes)
        previous = Table.open(target)
        before = _recipes(previous)
        same = pa.array([each for each, made in recipes.items() if before.get(each) == made], pa.string())
        if previous is not None and not len(same):
            previous.close()
            previous = None
        if (
            previous is not None
            and before == recipes
            and previous.annotation(tables.SOURCE_FINGERPRINT) == documents.fingerprint
        ):
            with previous:
                on_progress(documents.num_rows, documents.num_rows)
                return Staged(target, None, previous.fingerprint, {"chunks": previous.num_rows})
        hashes: list[str] = []
        with storage.stage(target, tables.CHUNKS) as writer:
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
            writer.annotate(
                {
                    tables.FINGERPRINT: fingerprint,
                    tables.SOURCE_FINGERPRINT: documents.fingerprint,
                    tables.RECIPE: made_with,
                }
            )
    return Staged(target, writer.path, fingerprint, {"chunks": len(hashes)})


def _recipes(table: Table | None) -> dict[str, str]:
    """Media type -> recipe its chunks were made with; empty for what another version wrote."""
    if table is None:
        return {}
    try:
        found = json.loads(table.annotation(tables.RECIPE))
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
