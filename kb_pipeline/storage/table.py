"""Tables as files: writing one row by row or batch by batch, and reading one by batches.

What belongs here: Parquet, with memory bounded whatever the table's size. What doesn't: where tables lie and which of them
is current (``storage.storage``), what they mean.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from kb_pipeline import tables

if TYPE_CHECKING:
    from kb_pipeline.ledger.pointers import Pointer

ROW_GROUP_BYTES = 8 << 20
"""Rows are gathered up to about this many bytes before they are written: bounds memory whatever the table's size."""
_opened: Counter[str] = Counter()
_opened_lock = threading.Lock()


def is_open(address: str) -> bool:
    """Whether this process has the table at this address open: it must not be removed under its reader."""
    return _opened[address] > 0


@dataclass(frozen=True, slots=True)
class Described:
    """What a table is by its content. ``link``: fingerprint of the table it was made from, "" for none."""

    fingerprint: str
    link: str


class TableWriter:
    """Streams rows and batches into a Parquet file, in row groups bounded by bytes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.rows = 0
        self.described: Described | None = None
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
            self.rows += batch.num_rows
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

    def describe(self, fingerprint: str, link: str = "") -> None:
        """Say what the table is, before its end: the file carries it as well."""
        self.described = Described(fingerprint, link)
        self.annotate({tables.FINGERPRINT: fingerprint, tables.SOURCE_FINGERPRINT: link})

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
    """A table, opened once: another one may become current, but this one is read on.

    ``address`` is where it lies, ``pointer`` what the ledger says of it.
    """

    def __init__(self, source: pa.NativeFile | Path, address: str, pointer: Pointer) -> None:
        self.address = address
        self.pointer = pointer
        # Arrow reads ahead all that was asked for of a whole file: few requests to a bucket, but without a bound. So it does
        # this for one row group at a time, and not at all where reading is cheap.
        self._remote = isinstance(source, pa.PythonFile)
        self._file = pq.ParquetFile(source, memory_map=False, pre_buffer=self._remote)
        with _opened_lock:
            _opened[address] += 1

    @property
    def fingerprint(self) -> str:
        """Hash of its logical content."""
        return self.pointer.fingerprint

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self._file.metadata.num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of its columns."""
        return list(self._file.schema_arrow.names)

    def annotation(self, key: bytes) -> str:
        """A value of the file's key-value metadata; empty when absent."""
        return (self._file.metadata.metadata or {}).get(key, b"").decode()

    def batches(self, columns: list[str] | None = None, rows: int = 4_096) -> Iterator[pa.RecordBatch]:
        """The rows in batches of ``rows``, and a last one of what is left."""
        if not self._remote:
            yield from self._file.iter_batches(batch_size=rows, columns=columns, use_threads=False)
            return
        waiting: list[pa.RecordBatch] = []
        for batch in self.bounded_batches(columns, rows):
            waiting.append(batch)
            if sum(each.num_rows for each in waiting) >= rows:
                whole = _joined(waiting)
                yield whole.slice(0, rows)
                rest = whole.slice(rows)
                waiting = [rest] if rest.num_rows else []
        if waiting:
            yield _joined(waiting)

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
        if not self._file.closed:
            self._file.close(force=True)
            with _opened_lock:
                _opened[self.address] -= 1

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    joined: pa.RecordBatch = pa.concat_batches(batches)  # type: ignore[attr-defined]  # newer than the stubs
    return joined
