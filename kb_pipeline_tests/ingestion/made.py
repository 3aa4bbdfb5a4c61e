"""A made-up connection in memory, and the documents stage run over it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any, BinaryIO, cast

import pyarrow as pa

from kb_pipeline import tables
from kb_pipeline.findings import Finding
from kb_pipeline.ingestion import checks, documents, listing
from kb_pipeline.ingestion.accounts import Limits
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.parsing.parse import parse_item
from kb_pipeline.sources.base import Item, Source
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Staged, Storage
from kb_pipeline_tests import current

PARTITION = Partition("made_up", "c")
LIMITS = Limits(max_item_bytes=1_000, inflight_bytes=10_000, workers=2, parse_seconds=60.0, parse_memory_mib=1_024)


Bytes = bytes


@dataclass
class Made:
    """A connection in memory: ``bytes`` by key, an error instead of bytes where reading fails."""

    storage: Storage
    bytes: dict[str, bytes | Exception] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    read_keys: list[str] = field(default_factory=list)
    limits: Limits = LIMITS

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        self.read_keys.append(item.key)
        data = self.bytes[item.key]
        if isinstance(data, Exception):
            raise data
        yield BytesIO(data)

    def list(self) -> Iterator[Item]:
        yield from (self.items[key] for key in sorted(self.items))

    def probe(self) -> str:
        return ""

    def put(self, key: str, data: Bytes | Exception, version: str, **facts: Any) -> None:
        """Put an item at the source."""
        size = facts.pop("size", len(data) if isinstance(data, bytes) else None)
        self.bytes[key] = data
        facts = {"name": key, "uri": f"made://{key}", **facts}
        self.items[key] = Item(key=key, version=version, size=size, **facts)

    def run(self, partition: Partition = PARTITION, retries: frozenset[str] = frozenset()) -> Staged:
        """One run of the documents stage, published."""
        self.read_keys.clear()
        with self.storage.ledger.leases.acquire(f"documents/{partition.key}", "a test") as lease:

            def parse(name: str, data: bytes, *, inside: bool = False, media_type: str | None = None) -> Future[Outcome]:
                done: Future[Outcome] = Future()
                done.set_result(parse_item(name, data, inside=inside, media_type=media_type))
                return done

            items = [item for item in self.list() if partition.holds(item.key)]
            rows = pa.Table.from_pylist([asdict(item) for item in items], schema=tables.LISTING)
            stands = None if retries else documents.standing(self.storage, partition, rows, self.limits)
            staged = documents.update(
                self.storage,
                partition,
                items,
                cast("Source", self),
                parse,
                self.limits,
                retries=retries,
                on_progress=lambda done, total, size=None: None,
            )
            assert stands == (staged if not retries and not staged.changed else None), "the shortcut says the same"
            staged.publish(lease)
            return staged

    def row(self, key: str, partition: Partition = PARTITION) -> dict[str, Any]:
        """The row of an item in the published table."""
        (row,) = [row for row in current.rows(self.storage, "documents", partition) if row["key"] == key]
        return row

    def keys(self, partition: Partition = PARTITION) -> set[str]:
        """Keys in the published table."""
        return {row["key"] for row in current.rows(self.storage, "documents", partition)}

    def accounted_for(self) -> Finding:
        """What the blocking check says of the published table, against today's listing."""
        listing.take(
            self.storage,
            PARTITION.type,
            PARTITION.connection,
            cast("Source", self),
            orchestration=uuid.uuid4().hex,
            not_before=math.inf,
            wait=1.0,
            on_progress=lambda count: None,
        )
        return checks.conservation(self.storage, PARTITION)
