"""Snapshots: the partition tables that belong together and what they say the index must hold.

What belongs here: deciding which partitions speak for a connection, reading their rows. What doesn't: the index itself.

A partition is *consistent* when each stage's table was made from the table that its upstream has now. One that isn't (a
run in progress, a crash, another model) keeps the rows it had in the index.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline import stages, tables
from kb_pipeline.knowledge_base.ingredients import full_key
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage
from kb_pipeline.storage.table import Table

if TYPE_CHECKING:
    from kb_pipeline.ledger.pointers import Pointer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What is current of one partition: a pointer to the table of each stage, by the stage's name."""

    partition: Partition
    pointers: Mapping[str, Pointer]

    @property
    def documents(self) -> str:
        """Fingerprint of the first stage's table, whose manifest is kept with a release."""
        return self.pointers[stages.first().name].fingerprint

    @property
    def embeddings(self) -> str:
        """Fingerprint of the table with the vectors of the index."""
        return self.pointers[stages.INDEXED].fingerprint

    @property
    def last(self) -> str:
        """Fingerprint of the last stage's table: it covers all before it."""
        return self.pointers[stages.last().name].fingerprint

    @property
    def model_id(self) -> str:
        """Id of the model that made the vectors."""
        return self.pointers[stages.INDEXED].recipe

    @property
    def chunks(self) -> int:
        """Number of its vectors, and so of its rows in the index."""
        return self.pointers[stages.INDEXED].rows

    @property
    def fingerprint(self) -> str:
        """Changes whenever the partition's manifest or rows change."""
        return identity.digest(self.partition.key, self.documents, self.last)


def state(storage: Storage, partition: Partition) -> PartitionState | None:
    """The state of a partition, or None unless the tables of all stages are there and link up. Opens no table."""
    found: dict[str, Pointer] = {}
    for stage in stages.STAGES:
        pointer = storage.pointer(stage.name, partition)
        if pointer is None:
            return None
        found[stage.name] = pointer
        upstream = found.get(stage.upstream)
        if upstream is not None and pointer.link != upstream.fingerprint:
            return None
    return PartitionState(partition, found)


@dataclass(frozen=True, slots=True)
class ConnectionLayout:
    """A connection with its partitions by kb.yaml; ``partitions`` is None when it left kb.yaml but isn't retired."""

    type: str
    name: str
    partitions: tuple[Partition, ...] | None


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """What speaks for one connection: the ``ready`` partitions, and those that keep the rows they have in the index."""

    type: str
    connection: str
    ready: tuple[PartitionState, ...]
    kept: tuple[Partition, ...]

    def only(self, ready: Collection[PartitionState]) -> ConnectionState:
        """The same connection with some of its ready partitions alone."""
        return ConnectionState(self.type, self.connection, tuple(ready), ())


def connection_state(storage: Storage, layout: ConnectionLayout, model_id: str, served: Collection[str]) -> ConnectionState:
    """Which partitions speak for a connection.

    After a change of ``shards`` the old partitions speak until every new one is ready: then all change at once.
    ``served`` are the keys of partitions that have rows in the index: they tell which layout that is when there are
    leftovers of others.
    """
    layouts = storage.layouts(stages.INDEXED, layout.type, layout.name)
    states = {each: state(storage, each) for found in layouts.values() for each in found}
    ready = {each: found for each, found in states.items() if found is not None and found.model_id == model_id}
    speaking = _speaking(layout.partitions, layouts, ready, served)
    return ConnectionState(
        layout.type,
        layout.name,
        tuple(ready[each] for each in speaking if each in ready),
        tuple(each for each in speaking if each not in ready),
    )


def _speaking(
    wanted: tuple[Partition, ...] | None,
    layouts: Mapping[int, Sequence[Partition]],
    ready: Collection[Partition],
    served: Collection[str],
) -> Sequence[Partition]:
    """The partitions of the one layout that speaks: kb.yaml's once it is ready, or of those on disk the best."""
    if wanted is not None and (all(each in ready for each in wanted) or set(layouts) <= {len(wanted)}):
        return wanted
    own = len(wanted) if wanted is not None else 0

    def rank(shards: int) -> tuple[bool, bool, bool, bool, int]:
        found = layouts[shards]
        whole = len(found) == shards
        serves = any(each.key in served for each in found)
        return serves, whole and all(each in ready for each in found), whole, shards == own, -shards

    best = max(layouts, key=rank, default=own)
    return wanted if wanted is not None and best == own else layouts.get(best, ())


def superseded(storage: Storage, layout: ConnectionLayout, partitions: Collection[str]) -> list[Partition]:
    """Partitions of an earlier number of shards that ``partitions`` (``type/key``), the ingredients of an index, replace."""
    wanted = layout.partitions
    if wanted is None or not all(full_key(each) in partitions for each in wanted):
        return []
    on_disk = {
        each
        for asset in stages.names()
        for several in storage.layouts(asset, layout.type, layout.name).values()
        for each in several
    }
    found = sorted(each for each in on_disk if each not in wanted and full_key(each) not in partitions)
    return found if found and all(state(storage, each) is not None for each in wanted) else []


ATTEMPTS = 5


def settled(action: Callable[[], T]) -> T:
    """Run ``action``, again if a partition was published meanwhile. Raises RowsChanged when that happens all the time."""
    for _ in range(ATTEMPTS - 1):
        with suppress(RowsChanged):
            return action()
    return action()


class RowsChanged(Exception):
    """A partition was published anew while it was read: read again."""


def rows(storage: Storage, expected: PartitionState, dimension: int) -> Iterator[pa.RecordBatch]:
    """The rows the index must hold for a partition, with the columns of ``tables.index``.

    Raises RowsChanged when the tables were superseded, and removed, since.
    """
    partition = expected.partition
    with (
        _opened(storage, expected.pointers["chunks"]) as chunks,
        _opened(storage, expected.pointers[stages.INDEXED]) as embeddings,
    ):
        vectors = embeddings.batches(rows=4_096)
        for batch in chunks.batches(rows=4_096):
            other = next(vectors)
            if not batch["chunk_id"].equals(other["chunk_id"]):
                raise RuntimeError(f"{partition.key}: chunks and embeddings are in another order; materialize both anew")
            model = pa.array([expected.model_id] * batch.num_rows, pa.string())
            columns = [*batch.columns, model, other["vector"]]
            yield pa.RecordBatch.from_arrays(columns, schema=tables.index(dimension).remove_metadata())


def manifest(storage: Storage, expected: PartitionState) -> pa.Table:
    """The manifest columns of a partition's documents. Raises RowsChanged."""
    with _opened(storage, expected.pointers[stages.first().name]) as documents:
        return documents.read(tables.MANIFEST.names).sort_by("key")


def table_rows(storage: Storage, expected: PartitionState) -> int:
    """How many rows the table with the vectors really has, whatever its pointer says. Raises RowsChanged."""
    with _opened(storage, expected.pointers[stages.INDEXED]) as table:
        return table.num_rows


def _opened(storage: Storage, pointer: Pointer) -> Table:
    try:
        return storage.table(pointer)
    except FileNotFoundError as error:
        if storage.pointers.get(pointer.asset, pointer.partition) != pointer:
            raise RowsChanged(pointer.partition) from error
        raise FileNotFoundError(
            f"a table of {pointer.asset} is gone from the storage ({error}): run `kb run`, which makes it anew"
        ) from error


def row_marks(batch: pa.RecordBatch) -> list[tuple[str, str]]:
    """(chunk id, mark) of rows; equal marks mean equal rows, vectors included."""
    separator = pa.array(["/"] * batch.num_rows, pa.string())
    marks = pc.binary_join_element_wise(batch["row_hash"], batch["model_id"], separator)
    return list(zip(tables.values(batch["chunk_id"]), tables.values(marks), strict=True))
