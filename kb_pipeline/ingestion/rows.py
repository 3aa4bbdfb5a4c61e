"""Rows of the documents table: what is recorded of an item and of the document it became.

What belongs here: the columns and their hashes. What doesn't: which items get a row (``ingestion.documents``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from kb_pipeline import tables
from kb_pipeline.ingestion.plan import Processors, Step
from kb_pipeline.parsing.document import Block
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.sources.base import Item
from kb_pipeline.statuses import Status
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition

_FINGERPRINTED = tables.MANIFEST.names
"""All of it, for releases keep manifests by their fingerprint; the rest of a row is covered by ``document_hash``."""


def item_columns(item: Item) -> dict[str, Any]:
    """What the source says of an item."""
    return {
        "version": item.version,
        "name": item.name,
        "uri": item.uri,
        "size": item.size,
        "modified": item.modified,
        "parent": item.parent,
    }


def new_row(
    partition: Partition, step: Step, outcome: Outcome, processors: Processors, sha256: str | None = None
) -> dict[str, Any]:
    """The row of an item whose outcome is known. ``sha256``: of its bytes, when they were read."""
    item, status, within = step.item, outcome.status, step.within
    excluded = status is Status.EXCLUDED
    row: dict[str, Any] = {
        "key": item.key,
        "document_id": identity.document_id(partition.type, partition.connection, item.key, within),
        **item_columns(item),
        "within": within,
        "holds": len(outcome.document.attachments) if outcome.document is not None else 0,
        "content_version": None,
        "status": status.value,
        "rule": outcome.detail if excluded else None,
        "detail": "" if excluded else outcome.detail,
        "stale": False,
        "processor": processors.of(status),
        "content_sha256": sha256,
        "document_hash": None,
    }
    if outcome.document is not None and status.good:
        document = outcome.document
        row |= {
            "content_version": item.version,
            "media_type": document.media_type,
            "title": document.title,
            "author": document.metadata.get("author"),
            "created": document.metadata.get("created"),
            "revised": document.metadata.get("modified"),
            "language": document.metadata.get("language"),
            "metadata": json.dumps(dict(document.metadata), sort_keys=True, ensure_ascii=False),
            "text": document.text,
            "blocks": [_block(block) for block in document.blocks],
        }
        row["document_hash"] = document_hash(row)
    return row


def _block(block: Block) -> dict[str, Any]:
    # dataclasses.asdict takes seven times as long.
    path = block.heading_path
    return {"kind": block.kind, "start": block.start, "end": block.end, "heading_path": path, "page": block.page}


def document_hash(row: Mapping[str, Any]) -> str:
    """Hash of everything that chunks are made from."""
    blocks = [
        (block["kind"], block["start"], block["end"], list(block["heading_path"]), block["page"]) for block in row["blocks"]
    ]
    text = hashlib.sha256(row["text"].encode("utf-8", "surrogatepass")).hexdigest()
    facts = [row[name] for name in ("document_id", "uri", "title", "media_type", "metadata")]
    modified = row["modified"].isoformat() if row["modified"] is not None else None
    return identity.digest("document", text, blocks, facts, modified)


def fingerprint(row: Mapping[str, Any]) -> str:
    """Hash of a row's part of the manifest."""
    return identity.digest(*(row[name] for name in _FINGERPRINTED))
