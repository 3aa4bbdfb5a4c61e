"""Where tables lie and how they are replaced: written aside, then renamed under a lease.

What belongs here: paths, staging, publication, reading by batches. What doesn't: what the tables mean.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from kb_pipeline import tables
from kb_pipeline.storage.lance import LanceLocation
from kb_pipeline.storage.partitions import Partition, parse_key

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease

ROW_GROUP_BYTES = 8 << 20
"""Rows are gathered up to about this many bytes before they are written: bounds memory whatever the table's size."""


class Storage:
    """The folder a knowledge base lives in."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def ledger_path(self) -> Path:
        """The ledger, unless kb.yaml says that it lies elsewhere."""
        return self.root / "ledger.sqlite"

    @property
    def vectors_location(self) -> LanceLocation:
        """LanceDB database of the content-addressed vector store."""
        return LanceLocation(str(self.root / "vectors"))

    @property
    def knowledge_base_path(self) -> Path:
        """Index, releases and the manifests kept with them."""
        return self.root / "corpus" / "knowledge_base"

    @property
    def index_location(self) -> LanceLocation:
        """LanceDB database of the index."""
        return LanceLocation(str(self.knowledge_base_path / "index"))

    @property
    def staging_path(self) -> Path:
        """Where tables are written aside; on the same file system, so that a rename is atomic."""
        return self.root / "staging"

    def listing_path(self, type_: str, connection: str) -> Path:
        """Listing of a connection."""
        return self.root / type_ / "inventory" / f"{connection}.parquet"

    def table_path(self, asset: str, partition: Partition) -> Path:
        """Table of one partition of ``documents``, ``chunks`` or ``embeddings``."""
        return self.root / partition.type / asset / f"{partition.key}.parquet"

    def partitions(self, asset: str, type_: str | None = None) -> list[Partition]:
        """Every partition that has a table of this asset, of one type or of all."""
        found = []
        for folder in sorted(self.root.glob(f"{type_ or '*'}/{asset}")):
            for path in folder.glob("*.parquet"):
                with suppress(ValueError):  # a stranger's file in our folder is not a partition
                    found.append(parse_key(folder.parent.name, path.stem))
        return sorted(found)

    def layouts(self, asset: str, type_: str, connection: str) -> dict[int, list[Partition]]:
        """Number of shards -> the partitions that have a table of this asset. More than one after a change of shards."""
        found: dict[int, list[Partition]] = {}
        for each in self.partitions(asset, type_):
            if each.connection == connection:
                found.setdefault(each.shards, []).append(each)
        return found

    def written(self, asset: str, partitions: Iterable[Partition]) -> int:
        """When the latest of some partitions' tables was published, as nanoseconds; 0 when there is none."""
        latest = 0
        for each in partitions:
            with suppress(FileNotFoundError):
                latest = max(latest, self.table_path(asset, each).stat().st_mtime_ns)
        return latest

    @contextmanager
    def stage(self, target: Path, schema: pa.Schema) -> Iterator[TableWriter]:
        """Write a table aside. What isn't published when the process ends stays in the staging folder until gc."""
        self.staging_path.mkdir(parents=True, exist_ok=True)
        aside = self.staging_path / f"{target.stem}-{os.getpid()}-{uuid.uuid4().hex[:12]}.parquet"
        writer = TableWriter(aside, schema)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise


@dataclass(frozen=True, slots=True)
class Staged:
    """A table that is written, but not visible yet. ``aside`` is None when the published table is already right."""

    target: Path
    aside: Path | None
    fingerprint: str
    counts: Mapping[str, int]

    @property
    def changed(self) -> bool:
        """Whether publishing replaces the table."""
        return self.aside is not None

    def publish(self, lease: Lease) -> None:
        """Make the table visible, if the lease still holds. Raises LeaseLost."""
        if self.aside is not None:
            publish(lease, self.aside, self.target)


def publish(lease: Lease, aside: Path, target: Path) -> None:
    """Move a finished file over its target, if the lease still holds. Raises LeaseLost, and drops the file.

    A slow disk takes its time before and after the ledger's transaction, in which there is nothing but the rename.
    """
    try:
        _prepare(aside, target)
        lease.commit(lambda _: aside.replace(target))
        _sync(target.parent)
    finally:
        aside.unlink(missing_ok=True)


def replace(aside: Path, target: Path) -> None:
    """Move a finished file over its target so that a reader sees the old one or the new one, also after a power cut."""
    _prepare(aside, target)
    aside.replace(target)
    _sync(target.parent)


def _prepare(aside: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync(aside)


def _sync(path: Path) -> None:
    """Have the disk hold what a file, or a folder's list of names, says."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_json(target: Path, value: Any) -> None:
    """Replace a JSON file atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    try:
        aside.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")
        replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def create_json(target: Path, value: Any) -> bool:
    """Write a JSON file whole, unless there is one already: then it stays as it is, and the answer is False."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    try:
        with aside.open("x", encoding="utf-8") as handle:
            json.dump(value, handle, indent=1, sort_keys=True)
            handle.flush()
            os.fsync(handle.fileno())
        os.link(aside, target)  # unlike a rename, it replaces nothing
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


class TableWriter:
    """Streams rows and batches into a Parquet file, in row groups bounded by bytes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._schema = schema
        # Nobody asks for statistics, and those of a column of whole texts take a text's size several times.
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1, write_statistics=False)
        self._rows: list[dict[str, Any]] = []
        self._row_bytes = 0
        self._batches: list[pa.RecordBatch] = []
        self._batch_bytes = 0

    def row(self, row: Mapping[str, Any]) -> None:
        """Append one row; missing columns are null."""
        self._rows.append({name: row.get(name) for name in self._schema.names})
        self._row_bytes += 256 + len(row.get("text") or "")
        if self._row_bytes >= ROW_GROUP_BYTES or len(self._rows) >= 16_384:
            self._flush_rows()

    def batch(self, batch: pa.RecordBatch) -> None:
        """Append a batch of rows with the table's columns."""
        if batch.num_rows:
            self._batches.append(batch.select(self._schema.names).cast(self._schema))
            self._batch_bytes += batch.nbytes
            if self._batch_bytes >= ROW_GROUP_BYTES:
                self._flush_batches()

    def _flush_rows(self) -> None:
        if self._rows:
            rows, self._rows, self._row_bytes = self._rows, [], 0
            self.batch(pa.RecordBatch.from_pylist(rows, schema=self._schema))

    def _flush_batches(self) -> None:
        if self._batches:
            batches, self._batches, self._batch_bytes = self._batches, [], 0
            self._writer.write_table(pa.Table.from_batches(batches, schema=self._schema))

    def annotate(self, metadata: Mapping[bytes, str]) -> None:
        """Add key-value metadata to the file."""
        self._writer.add_key_value_metadata({key.decode(): value for key, value in metadata.items()})

    def close(self) -> None:
        """Finish the file."""
        self._flush_rows()
        self._flush_batches()
        self._writer.close()

    def abandon(self) -> None:
        """Drop the file."""
        # Closing a writer whose disk is full fails again; the first failure is the one to report.
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        self.path.unlink(missing_ok=True)


class Table:
    """A published Parquet table, opened once: a replacement underneath doesn't disturb a reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = pq.ParquetFile(path, memory_map=False)
        self.metadata: Mapping[bytes, bytes] = self._file.metadata.metadata or {}

    @classmethod
    def open(cls, path: Path) -> Table | None:
        """The table, or None when it was never published."""
        try:
            return cls(path)
        except FileNotFoundError:
            return None

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self._file.metadata.num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of its columns."""
        return list(self._file.schema_arrow.names)

    def annotation(self, key: bytes) -> str:
        """A value of the key-value metadata; empty when absent."""
        return self.metadata.get(key, b"").decode()

    @property
    def fingerprint(self) -> str:
        """Hash of the table's logical content."""
        return self.annotation(tables.FINGERPRINT)

    def batches(self, columns: list[str] | None = None, rows: int = 4_096) -> Iterator[pa.RecordBatch]:
        """The rows in batches of at most ``rows``."""
        yield from self._file.iter_batches(batch_size=rows, columns=columns, use_threads=False)

    def bounded_batches(self, columns: list[str] | None = None, rows: int = 4_096) -> Iterator[pa.RecordBatch]:
        """The rows in batches of at most ``rows``, and of about ROW_GROUP_BYTES beside the last row: for whole texts."""
        for group in range(self._file.num_row_groups):
            yield from self.group_batches(group, columns, rows)

    @property
    def group_rows(self) -> list[int]:
        """Rows of each of its row groups."""
        return [self._file.metadata.row_group(each).num_rows for each in range(self._file.num_row_groups)]

    def group_batches(self, group: int, columns: list[str] | None = None, rows: int = 4_096) -> Iterator[pa.RecordBatch]:
        """The rows of one row group in batches of at most ``rows``."""
        yield from self._file.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False)

    def group(self, group: int, columns: list[str] | None = None) -> pa.Table:
        """One row group as a whole."""
        return self._file.read_row_group(group, columns=columns, use_threads=False)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The whole table, or some of its columns."""
        return self._file.read(columns=columns)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
