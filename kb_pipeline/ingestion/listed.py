"""Listed items as rows of ``tables.LISTING`` and back, and the digest of many.

What belongs here: what becomes of an item's fields. What doesn't: where listings lie and who makes them (``listing``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from kb_pipeline import tables
from kb_pipeline.sources.base import Item, ListingFailed
from kb_pipeline.statuses import Status

_COLUMNS = [(field.name, field.type) for field in tables.LISTING]


class ListingDigest:
    """Order-independent digest of items, so that a change can be told from two numbers. 128-bit sums of SHA-256."""

    def __init__(self, start: str = "0") -> None:
        self._sum = int(start, 16)

    def add(self, item: Item) -> None:
        """Take one item in."""
        self._sum = (self._sum + _number(item)) % (1 << 128)

    def remove(self, item: Item) -> None:
        """Take one item out that was taken in."""
        self._sum = (self._sum - _number(item)) % (1 << 128)

    def value(self) -> str:
        """The digest so far (hex)."""
        return f"{self._sum:x}"


def _number(item: Item) -> int:
    facts = [item.key, item.version, item.uri, item.excluded, item.problem]
    if item.media_type is not None:  # beside the others: a listing without any keeps the digest it had
        facts.append(item.media_type)
    return int.from_bytes(hashlib.sha256(json.dumps(facts).encode()).digest()[:16], "big")


def rows_of(connection: str, some: Sequence[Item]) -> pa.RecordBatch:
    """Items as rows of ``tables.LISTING``, made column by column: several times faster than row by row.

    Raises ListingFailed naming the item that holds something else than its fields promise.
    """
    try:
        columns: list[pa.Array[Any]] = [pa.array([getattr(item, name) for item in some], kind) for name, kind in _COLUMNS]
    except (pa.ArrowException, TypeError, ValueError) as error:
        if len(some) > 1:
            for item in some:
                rows_of(connection, [item])
        what = f"{some[0].key!r} with a value that can't be recorded"
        raise ListingFailed(f"connection {connection!r}: its source listed {what}: {error}") from error
    return pa.RecordBatch.from_arrays(columns, schema=tables.LISTING)


def items_of(rows: pa.RecordBatch) -> Iterator[Item]:
    """Rows of ``tables.LISTING`` as items."""
    for row in rows.to_pylist():
        problem = row.pop("problem")
        yield Item(problem=None if problem is None else Status(problem), **row)
