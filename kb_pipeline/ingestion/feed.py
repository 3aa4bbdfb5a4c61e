"""A listing brought up to date from its source's change feed, instead of listing everything again.

What belongs here: what changes make of the rows of a listing. What doesn't: when a feed is believed (``listing``).

A deletion is believed from a tombstone as from a complete listing: the result is as complete as the listing it began with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline.ingestion.listed import ListingDigest, items_of, rows_of
from kb_pipeline.sources.base import Item, ListingFailed
from kb_pipeline.sources.capabilities import Changes

MAX_CHANGES = 100_000
"""More changes than this aren't gathered in memory: the connection is listed anew."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of keys in the end, None standing for gone, and the cursor after it."""

    items: Mapping[str, Item | None]
    cursor: str


def gather(connection: str, source: Changes, cursor: str) -> Changed | None:
    """Everything since ``cursor``; None when that is too much. Raises CursorExpired, ListingFailed."""
    found: dict[str, Item | None] = {}
    while True:
        page = source.changes(cursor)
        for change in page.changes:
            if change.item is not None and change.item.key != change.key:
                raise _refused(connection, f"told of {change.key!r} with the item {change.item.key!r}")
            if not _is_text(change.key):
                raise _refused(connection, f"told of {change.key!r}, which is no text")
            found[change.key] = change.item
        if not page.more:
            return Changed(found, page.cursor)
        if page.cursor == cursor:
            raise _refused(connection, f"doesn't move on from {cursor!r}")
        cursor = page.cursor
        if len(found) > MAX_CHANGES:
            return None


def _refused(connection: str, what: str) -> ListingFailed:
    return ListingFailed(f"connection {connection!r}: the change feed of its source {what}")


def _is_text(key: object) -> bool:
    # Half a surrogate pair is no character, and no table can hold it.
    return isinstance(key, str) and not any("\ud800" <= character <= "\udfff" for character in key)


class Renewal:
    """The rows of a listing after changes. ``digest`` and ``items`` are those of the renewed listing, once it was read."""

    def __init__(self, connection: str, changed: Changed, digest: str, items: int) -> None:
        self._connection = connection
        self._changed = changed.items
        self.digest = ListingDigest(digest)
        self.items = items

    def rows(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """``batches``: the listing, in ascending order of key; so are the rows that come out. Raises ListingFailed."""
        touched = pa.array(list(self._changed), pa.string())
        left = sorted((item for item in self._changed.values() if item is not None), key=lambda item: item.key, reverse=True)
        for batch in batches:
            if not batch.num_rows:
                continue
            replaced = pc.is_in(batch["key"], touched)
            for item in items_of(batch.filter(replaced)):
                self.digest.remove(item)
                self.items -= 1
            last = batch["key"][batch.num_rows - 1].as_py()
            come = []
            while left and left[-1].key <= last:
                come.append(left.pop())
            stays = batch.filter(pc.invert(replaced))
            if come:
                both = pa.Table.from_batches([stays, self._taken_in(come)], schema=stays.schema)
                yield from both.sort_by("key").to_batches()
            elif stays.num_rows:
                yield stays
        if left:
            yield self._taken_in(left[::-1])

    def _taken_in(self, items: list[Item]) -> pa.RecordBatch:
        for item in items:
            self.digest.add(item)
        self.items += len(items)
        return rows_of(self._connection, items)
