"""The searchable index: one Lance table, brought in step by comparing it with what it must hold.

What belongs here: the diff, the commit, the indices. What doesn't: what has to be compared (``update``), and which version
readers see (``releases``).

The comparison is with the rows that are really in the index, not with a memory of what was written: rows that were lost
behind our back come back, rows that nobody wrote leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline import tables
from kb_pipeline.knowledge_base import snapshot
from kb_pipeline.knowledge_base.snapshot import ConnectionState
from kb_pipeline.storage.storage import Storage

TABLE = "chunks"
COMMIT_ROWS = 20_000
"""Rows of one commit: bounds memory to about 50 MB at 384 dimensions; smaller changes are one commit."""
DELETE_IDS = 20_000
"""Ids named by one delete filter."""
VECTOR_INDEX_ROWS = 200_000
"""Below this many rows a scan of all vectors takes milliseconds and is exact; above, an IVF index is built."""


@dataclass(slots=True)
class Difference:
    """What the index lacks or has too much of, for one connection, compared with its tables."""

    connection: str
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether the index holds exactly what it must."""
        return not (self.missing or self.wrong or self.surplus)

    def sentence(self) -> str:
        """For a reader."""
        return f"{self.connection}: {len(self.missing)} rows missing, {len(self.wrong)} differ, {len(self.surplus)} too many"


class Index:
    """The Lance table at its head, or at one version for reading. Readers of releases use tags instead."""

    def __init__(self, storage: Storage, dimension: int, table: Any) -> None:
        self._storage = storage
        self._dimension = dimension
        self.table = table

    @classmethod
    def existing(cls, storage: Storage, dimension: int) -> Index | None:
        """The index as it is, for reading; None when there is none for vectors of this dimension."""
        table = storage.index_location.open(TABLE)
        if table is None or not _same_columns(table.schema, _bare(dimension)):
            return None
        return cls(storage, dimension, table)

    @classmethod
    def at(cls, storage: Storage, dimension: int, version: int) -> Index:
        """One version of the index, for reading. Raises ValueError when it is gone."""
        table = storage.index_location.open(TABLE)
        table.checkout(version)
        return cls(storage, dimension, table)

    @classmethod
    def prepare(cls, storage: Storage, dimension: int) -> Index:
        """The index, ready to be written. One of another dimension is started anew; its tagged versions stay readable."""
        found = cls.existing(storage, dimension)
        if found is not None:
            return found
        location = storage.index_location
        mode = "overwrite" if location.exists(TABLE) else "create"
        return cls(storage, dimension, location.connect().create_table(TABLE, schema=_bare(dimension), mode=mode))

    @property
    def version(self) -> int:
        """The version of the Lance table; every commit makes another one, whoever makes it."""
        return int(self.table.version)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.table.count_rows())

    def model_ids(self) -> set[str]:
        """Models whose vectors are in the head."""
        found = set()
        for batch in self.table.search().select(["model_id"]).to_batches(16_384):
            found.update(pc.unique(batch["model_id"]).to_pylist())
        return found

    def clear(self) -> None:
        """Start the head anew (tagged versions stay readable): vectors of two models must never mix."""
        database = self._storage.index_location.connect()
        self.table = database.create_table(TABLE, schema=_bare(self._dimension), mode="overwrite")

    def read_through(self) -> None:
        """Read every row whole, for nothing but to see that it can be read. Raises RuntimeError where it can't."""
        for _ in self.table.search().to_batches(4_096):
            pass

    def marks(self, connection: str, partitions: Collection[str] | None = None) -> dict[str, tuple[str, str]]:
        """Chunk id -> (mark, partition) of a connection's rows, or of some of its partitions' (by their keys).

        A chunk id that is there twice has the mark "twice".
        """
        found: dict[str, tuple[str, str]] = {}
        where = f"connection = {quote(connection)}"
        if partitions is not None:
            where += f" AND partition IN ({','.join(map(quote, sorted(partitions)))})"
        query = self.table.search().where(where)
        for batch in query.select(["chunk_id", "row_hash", "model_id", "partition"]).to_batches(16_384):
            keys = batch["partition"].to_pylist()
            for (chunk, mark), partition in zip(snapshot.row_marks(batch), keys, strict=True):
                found[chunk] = ("twice", partition) if chunk in found else (mark, partition)
        return found

    def counts(self) -> Counter[tuple[str, str, str]]:
        """(source type, connection, partition key) -> number of rows."""
        found: Counter[tuple[str, str, str]] = Counter()
        columns = ["source", "connection", "partition"]
        for batch in self.table.search().select(columns).to_batches(16_384):
            groups = pa.Table.from_batches([batch]).group_by(columns).aggregate([([], "count_all")])
            for group in groups.to_pylist():
                found[group["source"], group["connection"], group["partition"]] += group["count_all"]
        return found

    def compare(self, expected: ConnectionState, *, partitions: Collection[str] | None = None) -> Difference:
        """What is wrong for a connection, or in some of its partitions (by their keys); changes nothing."""
        difference = Difference(expected.connection)
        have = self.marks(expected.connection, partitions)
        for _ in self._changed(expected, have, difference):
            pass
        return difference

    def sync(self, expected: ConnectionState, *, partitions: Collection[str] | None = None) -> Difference:
        """Bring a connection's rows in step, or those of some of its partitions; returns what had to be changed.

        One commit, unless very much changed.
        """
        difference = Difference(expected.connection)
        have = self.marks(expected.connection, partitions)
        kept = {partition.key for partition in expected.kept}  # their rows couldn't be put back
        doubled = [chunk for chunk, (mark, partition) in have.items() if mark == "twice" and partition not in kept]
        if doubled:
            self._delete(doubled)
            for chunk in doubled:
                del have[chunk]
        pending: list[pa.RecordBatch] = []
        count = 0
        for batch in self._changed(expected, have, difference):
            pending.append(batch)
            count += batch.num_rows
            if count >= COMMIT_ROWS:
                self._commit(pending, [])
                pending, count = [], 0
        # A filter that names very many ids is slow to plan: what exceeds it is deleted by filters of its own.
        surplus = difference.surplus
        self._commit(pending, surplus[:DELETE_IDS])
        for start in range(DELETE_IDS, len(surplus), DELETE_IDS):
            self._delete(surplus[start : start + DELETE_IDS])
        return difference

    def remove(self, connection: str) -> int:
        """Delete all rows of a connection; returns how many there were."""
        count = int(self.table.count_rows(f"connection = {quote(connection)}"))
        if count:
            self.table.delete(f"connection = {quote(connection)}")
        return count

    def _changed(
        self, expected: ConnectionState, have: dict[str, tuple[str, str]], difference: Difference
    ) -> Iterator[pa.RecordBatch]:
        """Rows that the head lacks or holds differently; fills ``difference`` on the way."""
        seen: set[str] = set()
        for partition in expected.ready:
            for batch in snapshot.rows(self._storage, partition, self._dimension):
                changed = []
                for position, (chunk, mark) in enumerate(snapshot.row_marks(batch)):
                    seen.add(chunk)
                    found = have.get(chunk)
                    if found is None:
                        difference.missing.append(chunk)
                        changed.append(position)
                    elif found[0] != mark:
                        difference.wrong.append(chunk)
                        changed.append(position)
                if changed:
                    yield batch.take(pa.array(changed))
        kept = {partition.key for partition in expected.kept}
        difference.surplus.extend(
            chunk for chunk, (_, partition) in have.items() if chunk not in seen and partition not in kept
        )

    def _commit(self, batches: list[pa.RecordBatch], surplus: list[str]) -> None:
        if not batches and not surplus:
            return
        rows = pa.Table.from_batches(batches, schema=batches[0].schema if batches else self.table.schema)
        merge = self.table.merge_insert("chunk_id").when_matched_update_all().when_not_matched_insert_all()
        if surplus:
            merge = merge.when_not_matched_by_source_delete(among(surplus))
        merge.execute(rows)

    def _delete(self, chunk_ids: list[str]) -> None:
        self.table.delete(among(chunk_ids))

    def refresh_indices(self) -> None:
        """Create the full-text and scalar indices where they are missing, and take new rows in."""
        from lancedb.index import FTS, Bitmap, BTree, IvfPq

        rows = self.rows
        if rows == 0:
            return
        present = {column for each in self.table.list_indices() for column in each.columns}
        wanted: dict[str, Any] = {
            "text": FTS(),
            "chunk_id": BTree(),
            "key": BTree(),
            "connection": Bitmap(),
            "source": Bitmap(),
            "media_type": Bitmap(),
        }
        if rows >= VECTOR_INDEX_ROWS:
            wanted["vector"] = IvfPq(distance_type="cosine")
        for column, config in wanted.items():
            if column not in present:
                self.table.create_index(column, config=config)
        # The default cleanup would drop versions after 7 days and raise on tagged ones: keep all here, gc decides.
        self.table.optimize(cleanup_older_than=timedelta(days=36_500))


def _bare(dimension: int) -> pa.Schema:
    return pa.schema([pa.field(each.name, each.type, each.nullable) for each in tables.index(dimension)])


def _same_columns(one: pa.Schema, other: pa.Schema) -> bool:
    return bool(one.names == other.names and one.field("vector").type == other.field("vector").type)


def tags(storage: Storage) -> dict[str, int]:
    """Tag -> version of the index; nothing before the first update."""
    table = storage.index_location.open(TABLE)
    return {} if table is None else {name: int(each["version"]) for name, each in table.tags.list().items()}


def quote(value: str) -> str:
    """A SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def among(chunk_ids: list[str]) -> str:
    """A SQL condition that holds for these chunks."""
    return f"chunk_id IN ({','.join(quote(each) for each in chunk_ids)})"
