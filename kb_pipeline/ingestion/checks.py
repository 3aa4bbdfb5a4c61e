"""The checks of law 1: pure functions from the tables to what is wrong with them.

What belongs here: comparing listing, manifest and chunks of one partition. What doesn't: Dagster's check objects.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline.findings import Finding
from kb_pipeline.ingestion import listing
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage
from kb_pipeline.tables import values


def conservation(storage: Storage, partition: Partition) -> Finding:
    """Every listed item has exactly one row in the manifest, and no row lacks its item: compared key by key.

    So has everything found inside an item, as many as its parser found.
    """
    with storage.require("documents", partition) as documents:
        rows = documents.read(["key", "within", "parent", "holds"])
    keys = values(rows.filter(pc.is_null(rows["within"]))["key"])
    info, items = listing.read(storage, partition)
    listed = set(values(items["key"]))
    recorded = set(keys)
    lost = sorted(listed - recorded)
    unknown = sorted(recorded - listed)
    twice = len(keys) - len(recorded)
    if not lost and not unknown and not twice:
        return _inside(partition, rows, len(listed))
    return Finding(
        False,
        f"{partition.key}: {len(lost)} listed items have no row in the manifest, {len(unknown)} rows have no listed "
        f"item, {twice} rows are there twice (listing {info.listing_id}); materialize its documents again",
        tuple([*lost, *unknown][:10]),
    )


def _inside(partition: Partition, rows: pa.Table, listed: int) -> Finding:
    """The same of what was found inside items: each must have exactly one row, below the item that holds it."""
    columns = (values(rows[name]) for name in ("within", "parent", "key", "holds"))
    held: Counter[tuple[str, str]] = Counter()
    promised: Counter[tuple[str, str]] = Counter()
    keys: Counter[tuple[str, str]] = Counter()
    for within, parent, key, holds in zip(*columns, strict=True):
        promised[within or key, key] += holds
        if within is not None:
            held[within, parent] += 1
            keys[within, key] += 1
    wrong = {holder for holder in held.keys() | promised.keys() if held[holder] != promised[holder]}
    wrong |= {key for key, number in keys.items() if number > 1}
    if not wrong:
        inside = f", and {keys.total()} items found inside them" if keys else ""
        return Finding(True, f"{partition.key}: all {listed} listed items{inside} are accounted for")
    return Finding(
        False,
        f"{partition.key}: of {len(wrong)} items the manifest doesn't hold exactly what was found inside them; "
        "materialize its documents again",
        tuple(sorted(key for _, key in wrong)[:10]),
    )


def every_document_chunked(storage: Storage, partition: Partition) -> Finding:
    """Every document with text has chunks, and no chunk is left of a document that isn't there."""
    with (
        storage.require("documents", partition) as documents,
        storage.require("chunks", partition) as chunks,
    ):
        chunked = set(values(chunks.read(["document_hash"]).column(0)))
        with_text: set[str] = set()
        for batch in documents.bounded_batches(["key", "document_hash", "text"], rows=256):
            text: Any = batch["text"].cast(pa.large_string())
            lengths = pc.utf8_length(pc.utf8_trim_whitespace(text))
            has_text = pc.greater(lengths.fill_null(0), pa.scalar(0))
            with_text.update(values(batch["document_hash"].filter(has_text)))
    lost = sorted(with_text - chunked)
    orphans = sorted(chunked - with_text)
    if not lost and not orphans:
        return Finding(True, f"{partition.key}: all {len(with_text)} documents with text have chunks")
    return Finding(
        False,
        f"{partition.key}: {len(lost)} documents with text have no chunks, chunks of {len(orphans)} documents are left "
        "over; materialize its chunks again",
        tuple([*lost, *orphans][:10]),
    )
