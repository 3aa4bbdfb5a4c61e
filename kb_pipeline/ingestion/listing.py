"""Listings: what a source says it holds, recorded completely or not at all."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa

from kb_pipeline import stages, tables
from kb_pipeline.sources.base import Item, ListingFailed, Source
from kb_pipeline.statuses import Status
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage

if TYPE_CHECKING:
    pass

_BATCH = 256
"""Items between two signs of progress."""
_COLUMNS = [(field.name, field.type) for field in tables.LISTING]


@dataclass(frozen=True, slots=True)
class ListingInfo:
    """What is known of a listing. Times are seconds since the epoch.

    ``orchestration``: the run or group of runs it was made for. ``complete`` is always true of a stored listing: one
    that failed is never published. ``digest``: order-independent hash of every item's key, version and exclusion.
    """

    listing_id: str
    connection: str
    orchestration: str
    started_at: float
    finished_at: float
    items: int
    digest: str
    complete: bool = True


class ListingDigest:
    """Order-independent digest of items, so that a change can be told from two numbers. 128-bit sums of SHA-256."""

    def __init__(self, start: str = "0") -> None:
        self._sum = int(start, 16)

    def add(self, item: Item) -> None:
        """Take one item in."""
        text = json.dumps([item.key, item.version, item.uri, item.excluded, item.problem])
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")) % (1 << 128)

    def value(self) -> str:
        """The digest so far (hex)."""
        return f"{self._sum:x}"


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
) -> ListingInfo:
    """A listing that belongs to ``orchestration`` or was begun at or after ``not_before``; makes one when there is none.

    Shards of one connection, and the inventory asset, share it this way. Raises ListingFailed (nothing is recorded
    then) and LeaseHeld.
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
        digest = ListingDigest()
        content = hashlib.sha256()
        count = 0
        with storage.write(connection, tables.LISTING) as writer:
            listed = _checked(connection, source.list())
            while some := list(islice(listed, _BATCH)):
                rows = _rows(connection, some)
                content.update(rows.serialize())
                writer.batch(rows)
                for item in some:
                    digest.add(item)
                count += len(some)
                on_progress(count)
            writer.describe(content.hexdigest()[:32])
        info = ListingInfo(uuid.uuid4().hex, connection, orchestration, started, time.time(), count, digest.value())
        on_progress(count)
        # What is known of it goes with the pointer: a listing of the same items, made again, is the same table.
        made = json.dumps(asdict(info))
        storage.staged(stages.INVENTORY, Partition(type_, connection), writer, {}, recipe=made).publish(lease)
        return info


def _rows(connection: str, some: Sequence[Item]) -> pa.RecordBatch:
    """Items as rows of ``tables.LISTING``, made column by column: several times faster than row by row.

    Raises ListingFailed naming the item that holds something else than its fields promise.
    """
    try:
        columns = [pa.array([getattr(item, name) for item in some], kind) for name, kind in _COLUMNS]
    except (pa.ArrowException, TypeError, ValueError) as error:
        if len(some) > 1:
            for item in some:
                _rows(connection, [item])
        what = f"{some[0].key!r} with a value that can't be recorded"
        raise ListingFailed(f"connection {connection!r}: its source listed {what}: {error}") from error
    return pa.RecordBatch.from_arrays(columns, schema=tables.LISTING)


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
    return None if pointer is None else ListingInfo(**json.loads(pointer.recipe))


def read(storage: Storage, partition: Partition) -> tuple[ListingInfo, pa.Table]:
    """The newest complete listing of a partition's connection, and those of its rows that belong to the partition.

    Raises FileNotFoundError when there is none.
    """
    with storage.require(stages.INVENTORY, Partition(partition.type, partition.connection)) as table:
        info = ListingInfo(**json.loads(table.pointer.recipe))
        rows = table.read(tables.LISTING.names)
    if partition.shards > 1:
        rows = rows.filter(pa.array([partition.holds(key) for key in tables.values(rows["key"])], pa.bool_()))
    return info, rows


def items(rows: pa.Table) -> list[Item]:
    """Rows of ``tables.LISTING`` as items."""
    return [_item(row) for batch in rows.to_batches(max_chunksize=4_096) for row in batch.to_pylist()]


def _item(row: dict[str, object]) -> Item:
    problem = row.pop("problem")
    return Item(problem=None if problem is None else Status(problem), **row)  # type: ignore[arg-type]
