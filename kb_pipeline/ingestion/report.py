"""Counts of what is stored, for reports: read from the tables, never from memory of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from kb_pipeline.statuses import Status
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage
from kb_pipeline.tables import values


@dataclass(slots=True)
class StoredCounts:
    """What the manifest of a connection says; ``indexed`` are items in the release, with or without chunks."""

    listed: int = 0
    indexed: int = 0
    quarantined: int = 0
    excluded: int = 0
    chunks: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def stored_counts(storage: Storage, partitions: tuple[Partition, ...]) -> StoredCounts:
    """Counts over the published tables of some partitions; those without tables count nothing."""
    counts = StoredCounts()
    for partition in partitions:
        documents = storage.open("documents", partition)
        if documents is not None:
            with documents:
                for name, number in Counter(values(documents.read(["status"]).column(0))).items():
                    status = Status(name)
                    counts.listed += number
                    if status is Status.EXCLUDED:
                        counts.excluded += number
                    elif status.good:
                        counts.indexed += number
                    else:
                        counts.quarantined += number
        chunks = storage.pointer("chunks", partition)
        counts.chunks += chunks.rows if chunks is not None else 0
    return counts


@dataclass(frozen=True, slots=True)
class QuarantinedItem:
    """One item that was set aside. ``stale``: an older version of it is still searchable."""

    connection: str
    type: str
    key: str
    uri: str
    status: str
    detail: str
    stale: bool
    size: int | None


def quarantine(storage: Storage, partitions: tuple[Partition, ...]) -> Iterator[QuarantinedItem]:
    """Every item in quarantine, partition by partition."""
    columns = ["key", "uri", "status", "detail", "stale", "size"]
    for partition in partitions:
        documents = storage.open("documents", partition)
        if documents is None:
            continue
        with documents:
            for batch in documents.batches(columns, rows=16_384):
                for row in batch.to_pylist():
                    if Status(row["status"]).quarantined:
                        yield QuarantinedItem(partition.connection, partition.type, **row)
