"""Listings: what a source says it holds, recorded completely or not at all.

What belongs here: making, keeping and reading them, and when a change feed will do instead. What doesn't: what changes make
of the rows (``feed``).
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa

from kb_pipeline import stages, tables
from kb_pipeline.ingestion import feed
from kb_pipeline.ingestion.listed import ListingDigest, items_of, rows_of
from kb_pipeline.sources.base import Item, ListingFailed, Source
from kb_pipeline.sources.capabilities import Changes, CursorExpired
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage

if TYPE_CHECKING:
    from kb_pipeline.ledger.pointers import Pointer

_BATCH = 256
"""Items between two signs of progress."""
FEED_SECONDS = 12 * 3600.0
"""A change feed is believed for so long after a connection was listed whole. What it failed to tell is found then."""


@dataclass(frozen=True, slots=True)
class ListingInfo:
    """What is known of a listing. Times are seconds since the epoch.

    ``orchestration``: the run or group of runs it was made for. ``complete`` is always true of a stored listing: one
    that failed is never published. ``digest``: order-independent hash of every item's key, version and exclusion.
    ``cursor``: where the source's change feed goes on from here; empty where it has none. ``listed_at``: when the connection
    was last listed whole, and ``settings``: with which; from then on the feed told the rest.
    """

    listing_id: str
    connection: str
    orchestration: str
    started_at: float
    finished_at: float
    items: int
    digest: str
    complete: bool = True
    cursor: str = ""
    listed_at: float = 0.0
    settings: str = ""


def take(
    storage: Storage,
    type_: str,
    connection: str,
    source: Source,
    *,
    orchestration: str,
    not_before: float,
    wait: float,
    on_progress: Callable[[int], None],
    settings: str = "",
) -> ListingInfo:
    """A listing that belongs to ``orchestration`` or was begun at or after ``not_before``; makes one when there is none.

    Shards of one connection, and the inventory asset, share it this way. A source with a change feed is listed whole when
    its last such listing is older than FEED_SECONDS, was made with other ``settings`` (a digest of them: rules may leave
    out other items) or is beyond the feed's reach. Raises ListingFailed (nothing is recorded then) and LeaseHeld.
    """

    def usable() -> ListingInfo | None:
        info = latest(storage, type_, connection)
        if info is not None and (info.orchestration == orchestration or info.started_at >= not_before):
            return info
        return None

    found = usable()
    if found is not None:
        return found
    name, purpose = f"{type_}/{stages.INVENTORY}/{connection}", f"a listing of {connection}"
    with storage.ledger.leases.acquire(name, purpose, wait=wait) as lease:
        found = usable()  # whoever held the lease may have made the very listing we need
        if found is not None:
            return found
        started = time.time()
        content = hashlib.sha256()
        with storage.write(connection, tables.LISTING) as writer:
            made = _renew(storage, type_, connection, source, settings) or _list(connection, source)
            for rows in made.rows:
                content.update(rows.serialize())
                writer.batch(rows)
                on_progress(made.count())
            writer.describe(content.hexdigest()[:32])
        info = ListingInfo(
            uuid.uuid4().hex,
            connection,
            orchestration,
            started,
            time.time(),
            made.count(),
            made.digest.value(),
            cursor=made.cursor,
            listed_at=made.listed_at or started,
            settings=settings,
        )
        on_progress(info.items)
        # What is known of it goes with the pointer: the same items, listed once more, are the same table.
        known = json.dumps(asdict(info))
        storage.staged(stages.INVENTORY, Partition(type_, connection), writer, {}, recipe=known).publish(lease)
        return info


@dataclass(slots=True)
class _Making:
    """Rows on their way into a listing; the rest is right when they were all taken. ``listed_at``: 0 for now.

    ``changed``: they differ from those of the last one.
    """

    rows: Iterator[pa.RecordBatch]
    digest: ListingDigest
    count: Callable[[], int]
    cursor: str
    listed_at: float = 0.0
    changed: bool = True


def _list(connection: str, source: Source) -> _Making:
    """Everything, from the source itself."""
    # First: what happens while it is listed is told from there.
    cursor = source.changes(None).cursor if isinstance(source, Changes) else ""
    digest = ListingDigest()
    count = 0

    def rows() -> Iterator[pa.RecordBatch]:
        nonlocal count
        listed = _checked(connection, source.list())
        while some := list(islice(listed, _BATCH)):
            batch = rows_of(connection, some)
            for item in some:
                digest.add(item)
            count += len(some)
            yield batch

    return _Making(rows(), digest, lambda: count, cursor)


def _renew(storage: Storage, type_: str, connection: str, source: Source, settings: str) -> _Making | None:
    """The last listing, brought up to date by the source's change feed; None when that can't be had or believed."""
    if not isinstance(source, Changes):
        return None
    table = storage.open(stages.INVENTORY, Partition(type_, connection))
    if table is None:
        return None
    with ExitStack() as closing:
        closing.enter_context(table)
        info = _info(table.pointer)
        fresh = time.time() - info.listed_at < FEED_SECONDS
        complete = set(tables.LISTING.names) <= set(table.columns)  # not one of a version that recorded less
        if not (info.cursor and info.settings == settings and fresh and complete):
            return None
        try:
            changed = feed.gather(connection, source, info.cursor)
        except CursorExpired:
            return None
        if changed is None:
            return None
        renewal = feed.Renewal(connection, changed, info.digest, info.items)
        opened = closing.pop_all()

    def rows() -> Iterator[pa.RecordBatch]:
        with opened:
            yield from renewal.rows(table.batches(tables.LISTING.names, rows=16_384))

    return _Making(rows(), renewal.digest, lambda: renewal.items, changed.cursor, info.listed_at, bool(changed.items))


def digest_by_feed(storage: Storage, type_: str, connection: str, source: Source, settings: str) -> str | None:
    """What the digest of a listing made now would be, by the source's change feed; None when it would be listed whole.

    Records nothing. Raises ListingFailed.
    """
    made = _renew(storage, type_, connection, source, settings)
    if made is None:
        return None
    if made.changed:
        for _ in made.rows:
            pass
    return made.digest.value()


def _checked(connection: str, items: Iterable[Item]) -> Iterator[Item]:
    """Hold a source to its promise: ascending, unique keys. Anything else would corrupt the manifest silently."""
    previous: str | None = None
    for item in items:
        if previous is not None and item.key <= previous:
            problem = "twice" if item.key == previous else f"after {previous!r}, out of order"
            raise ListingFailed(f"connection {connection!r}: its source listed {item.key!r} {problem}")
        previous = item.key
        yield item


def latest(storage: Storage, type_: str, connection: str) -> ListingInfo | None:
    """The newest complete listing of a connection, if there is one."""
    pointer = storage.current(stages.INVENTORY, Partition(type_, connection))
    return _info(pointer) if pointer is not None else None


def _info(pointer: Pointer) -> ListingInfo:
    return ListingInfo(**json.loads(pointer.recipe))


def read(storage: Storage, partition: Partition) -> tuple[ListingInfo, pa.Table]:
    """The newest complete listing of a partition's connection, and those of its rows that belong to the partition.

    Raises FileNotFoundError when there is none.
    """
    with storage.require(stages.INVENTORY, Partition(partition.type, partition.connection)) as table:
        info = _info(table.pointer)
        rows = table.read(tables.LISTING.names)
    if partition.shards > 1:
        rows = rows.filter(pa.array([partition.holds(key) for key in tables.values(rows["key"])], pa.bool_()))
    return info, rows


def items(rows: pa.Table) -> list[Item]:
    """Rows of ``tables.LISTING`` as items."""
    return [item for batch in rows.to_batches(max_chunksize=4_096) for item in items_of(batch)]
