"""Vectors on disk, found again by their text.

What belongs here: one append-only Lance table per model id, keyed by the sha256 of the exact text. Two processes may
append the same key at once: readers take the first they meet, and the values are equal.

Every operation opens the table anew, and so works on one version of it whatever other processes do meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline.embedding.base import Vectors
from kb_pipeline.embedding.errors import VectorStoreError
from kb_pipeline.storage.lance import LanceLocation
from kb_pipeline.tables import values

_logger = logging.getLogger(__name__)

_SCAN_ROWS = 65_536
_TAKE_ROWS = 4_096
_DELETE_KEYS = 10_000

# Keys are found by an index or by scanning all of them, whichever is quicker (benchmarks/vector_store.py): a scan costs the
# same whatever is asked for, the index about as much per key as a thousand rows of a scan.
_INDEX_ROWS = 65_536
_ROWS_PER_LOOKUP = 1_000
_LOOKUP_KEYS = 4_096

# Compaction writes small files anew together with most of what was compacted before, up to a million rows. So it waits until
# the files, or the rows that the index doesn't know yet, are too many for what they hold.
_FILES = 32
_ROWS_PER_FILE = 4_096
_UNINDEXED_PART = 8

# A reader works on one version for as long as one operation lasts; older versions than this are nobody's.
_KEEP_VERSIONS = timedelta(hours=1)


_PREFIX = "vectors_"
_KEY_INDEX = "key_idx"


class VectorStore:
    """The vectors of one model, in the table `vectors_<model_id>` of a location. Memory is bounded by the request."""

    def __init__(self, location: LanceLocation, model_id: str, dimension: int) -> None:
        """Opens nothing yet; the table comes into being with the first `append`."""
        self._location = location
        self._name = _PREFIX + model_id
        self._dimension = dimension
        self._schema = pa.schema(
            [
                pa.field("key", pa.string(), nullable=False),
                pa.field("vector", pa.list_(pa.field("item", pa.float32()), dimension), nullable=False),
            ]
        )
        self._connection: Any = None
        self._lock = threading.Lock()

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return self._dimension

    def has(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that are stored."""
        return set(self.locate(keys).row_ids)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that are not stored, each once, in the order of their first appearance."""
        distinct = list(dict.fromkeys(keys))
        found = self.has(distinct)
        return [key for key in distinct if key not in found]

    def locate(self, keys: Iterable[str]) -> Located:
        """Where the vectors of `keys` lie, for fetching them part by part; those that aren't stored lie nowhere."""
        wanted = list(dict.fromkeys(keys))
        table = self._open() if wanted else None
        return Located(table, {} if table is None else _row_ids(table, wanted), self._dimension)

    def fetch(self, keys: Sequence[str]) -> Vectors:
        """Vectors of `keys`, (n, dimension) float32, in their order; a key may come twice.

        Raises KeyError naming the first key that is not stored.
        """
        return self.locate(keys).fetch(keys)

    def append(self, keys: Sequence[str], vectors: Vectors) -> None:
        """Stores vectors, (n, dimension), under `keys` in one commit; of a key given twice, the first.

        Raises ValueError when the shapes don't fit and VectorStoreError when the table is of another dimension.
        """
        if vectors.shape != (len(keys), self._dimension):
            raise ValueError(f"{len(keys)} keys of dimension {self._dimension} but vectors of shape {vectors.shape}")
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        if not first:
            return
        rows = sorted(first.values())
        flat = np.ascontiguousarray(vectors[rows], dtype=np.float32).reshape(-1)
        columns = [
            pa.array([keys[row] for row in rows], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(flat), type=self._schema.field("vector").type),
        ]
        table = self._open()
        if table is None:
            self._location.create(self._name, self._schema)
            table = self._open()
        table.add(pa.Table.from_arrays(columns, schema=self._schema))

    def compact(self, *, thorough: bool = False) -> None:
        """Merges small files, brings the index up to date and drops versions that no reader can still be using.

        Safe beside readers and writers. Does nothing as long as that would cost more than it saves, unless `thorough`.
        """
        table = self._open()
        if table is None or not (thorough or _wants_compaction(table)):
            return
        try:
            if _KEY_INDEX not in {each.name for each in table.list_indices()} and table.count_rows() >= _INDEX_ROWS:
                from lancedb.index import BTree

                table.create_index("key", config=BTree(), name=_KEY_INDEX)
            table.optimize(cleanup_older_than=_KEEP_VERSIONS)
        except (RuntimeError, OSError, ValueError) as error:
            # Another process compacted or deleted at the same time. Nothing is lost, and a later run compacts again.
            if "conflict" not in str(error).lower():
                raise
            _logger.info("Compaction of %s left to another process: %s", self._name, error)

    def retain(self, keys: Iterable[str]) -> int:
        """Removes every vector whose key is not among `keys`; returns the number of rows removed.

        The caller sees to it that no run is relying on those keys meanwhile. Space is freed by `compact(thorough=True)`, an
        hour on.
        """
        # One handle stays at its version and is scanned, the other moves on with every deletion.
        scanned, table = self._open(), self._open()
        if scanned is None or table is None:
            return 0
        kept = pa.array(sorted(set(keys)), pa.string())
        removed = 0
        for batch in _keys(scanned):
            outside = pc.invert(pc.is_in(batch.column("key"), value_set=kept))
            doomed = values(batch.filter(outside).column("key").unique())
            for start in range(0, len(doomed), _DELETE_KEYS):
                removed += table.delete(_among(doomed[start : start + _DELETE_KEYS])).num_deleted_rows
        return removed

    def count(self) -> int:
        """Rows stored, a key that two processes appended counted twice."""
        table = self._open()
        return 0 if table is None else int(table.count_rows())

    def _open(self) -> Any:
        """The table at its latest version, or None when nothing was ever stored."""
        with self._lock:
            # One connection, for its caches; connecting would make a local folder.
            if self._connection is None and not self._location.absent:
                self._connection = self._location.connect()
        table = self._location.open(self._name, self._connection)
        if table is None:
            return None
        stored = table.schema.field("vector").type.list_size
        if stored != self._dimension:
            raise VectorStoreError(
                f"{self._name} in {self._location} holds vectors of {stored} numbers, but the model gives "
                f"{self._dimension}: move it away to have the vectors computed again."
            )
        return table


class Located:
    """Vectors that were found in one version of a store. To be used soon: compaction drops old versions, an hour on."""

    def __init__(self, table: Any, row_ids: Mapping[str, int], dimension: int) -> None:
        self._table = table
        self.row_ids = row_ids
        self._dimension = dimension

    def fetch(self, keys: Sequence[str]) -> Vectors:
        """Vectors of `keys`, (n, dimension) float32, in their order; a key may come twice.

        Raises KeyError naming the first key that was not found.
        """
        vectors = np.empty((len(keys), self._dimension), dtype=np.float32)
        places: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(self.row_ids[key], []).append(place)
        # In the order of storage, so that each page is read once.
        ordered = sorted(places)
        for start in range(0, len(ordered), _TAKE_ROWS):
            part = ordered[start : start + _TAKE_ROWS]
            taken = self._table.take_row_ids(part).select(["vector"]).with_row_id().to_arrow()
            numbers = _matrix(taken.column("vector"), self._dimension)
            for row, row_id in enumerate(values(taken.column("_rowid"))):
                vectors[places[row_id]] = numbers[row]
        return vectors


def stores(location: LanceLocation) -> list[VectorStore]:
    """The stores of all models at a location."""
    found = []
    for name in location.tables():
        if name.startswith(_PREFIX) and (table := location.open(name)) is not None:
            dimension = table.schema.field("vector").type.list_size
            found.append(VectorStore(location, name.removeprefix(_PREFIX), dimension))
    return found


def _keys(table: Any) -> Iterator[pa.RecordBatch]:
    """All keys with their row ids, in batches of about _SCAN_ROWS however small the stored files are."""
    parts: list[pa.RecordBatch] = []
    rows = 0
    for batch in table.search().select(["key"]).with_row_id(True).to_batches(_SCAN_ROWS):
        parts.append(batch)
        rows += batch.num_rows
        if rows >= _SCAN_ROWS:
            yield _joined(parts)
            parts, rows = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    joined: pa.RecordBatch = pa.concat_batches(parts)  # type: ignore[attr-defined]  # newer than the stubs
    return joined


def _row_ids(table: Any, wanted: Sequence[str]) -> dict[str, int]:
    """Key -> row id of those of `wanted` (each named once) that are stored; of a key stored twice, the first row."""
    indexed = any(each.name == _KEY_INDEX for each in table.list_indices())
    by_index = indexed and len(wanted) * _ROWS_PER_LOOKUP <= table.count_rows()
    found: dict[str, int] = {}
    for batch in _looked_up(table, wanted) if by_index else _scanned(table, wanted):
        for key, row_id in zip(values(batch.column("key")), values(batch.column("_rowid")), strict=True):
            if row_id < found.get(key, row_id + 1):
                found[key] = row_id
    return found


def _looked_up(table: Any, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of keys by the index; rows that it doesn't know yet are scanned by the database itself."""
    for start in range(0, len(wanted), _LOOKUP_KEYS):
        query = table.search().where(_among(wanted[start : start + _LOOKUP_KEYS]))
        yield from query.select(["key"]).with_row_id(True).to_batches(_SCAN_ROWS)


def _scanned(table: Any, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    value_set = pa.array(wanted, pa.string())
    for batch in _keys(table):
        yield batch.filter(pc.is_in(batch.column("key"), value_set=value_set))


def _wants_compaction(table: Any) -> bool:
    stats = table.stats()
    rows, files = stats["num_rows"], stats["fragment_stats"]["num_fragments"]
    if files > _FILES + rows // _ROWS_PER_FILE:
        return True
    if rows < _INDEX_ROWS:
        return False
    index = table.index_stats(_KEY_INDEX)
    return index is None or index.num_unindexed_rows * _UNINDEXED_PART > rows


def _matrix(column: pa.ChunkedArray[Any], dimension: int) -> Vectors:
    flat = pc.list_flatten(column.combine_chunks())
    numbers: Vectors = flat.to_numpy(zero_copy_only=False).reshape(-1, dimension)
    return numbers


def _among(keys: Sequence[str]) -> str:
    quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in keys)
    return f"key IN ({quoted})"
