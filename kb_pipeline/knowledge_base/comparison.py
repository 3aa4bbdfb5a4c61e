"""Comparing a version of the index with the tables it was made from. Changes nothing.

A table that was published anew since then says nothing about this version: its partition is *behind*, and only the number
of its rows can be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from kb_pipeline.findings import Finding
from kb_pipeline.knowledge_base import snapshot
from kb_pipeline.knowledge_base.index import Index
from kb_pipeline.knowledge_base.ingredients import ReleasedPartition
from kb_pipeline.knowledge_base.snapshot import ConnectionState, PartitionState
from kb_pipeline.storage.partitions import Partition, parse_key
from kb_pipeline.storage.storage import Storage


@dataclass(slots=True)
class Comparison:
    """What is wrong: a sentence a connection or partition, and ids of chunks. ``compared`` and ``behind``: partitions."""

    faults: list[str] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    compared: int = 0
    behind: int = 0


def judge(what: str, advice: str, compare: Callable[[], Comparison]) -> Finding:
    """Compare, and say what came of it about ``what``; ``advice`` says how to go on when it differs or can't be read."""
    try:
        found = compare()
    except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        return Finding(False, f"{what} can't be read: {str(error).splitlines()[0]}; {advice}")
    metrics = {"partitions_compared": found.compared, "partitions_behind": found.behind}
    if not found.faults:
        return Finding(True, f"{what} equals the tables of {found.compared} partitions", metrics=metrics)
    sentence = f"{what} differs from its tables: {'; '.join(found.faults)}; {advice}"
    return Finding(False, sentence, tuple(found.chunks[:10]), metrics=metrics)


def compare_some(
    storage: Storage, index: Index, partitions: Mapping[str, ReleasedPartition], keys: Collection[str]
) -> Comparison:
    """Compare some partitions (``type/key``) row by row, and the number of all rows."""

    def once() -> Comparison:
        found = Comparison()
        for state in _states(storage, {key: partitions[key] for key in keys if key in partitions}, found):
            _compare(found, index, state, {each.partition.key for each in state.ready})
        expected = sum(entry.chunks for entry in partitions.values())
        if index.rows != expected:
            found.faults.append(f"{index.rows} rows, {expected} in all partitions")
        return found

    return snapshot.settled(once)


def compare_all(storage: Storage, index: Index, partitions: Mapping[str, ReleasedPartition]) -> Comparison:
    """Compare every partition row by row, and look for rows of others. Raises RuntimeError for what can't be read."""
    index.read_through()

    def once() -> Comparison:
        found = Comparison()
        everywhere = index.counts()
        counts = {(source, key): rows for (source, _, key), rows in everywhere.items()}
        known = set()
        for state in _states(storage, partitions, found):
            known.add(state.connection)
            for each in state.ready:
                if (rows := snapshot.table_rows(storage, each)) != each.chunks:
                    found.faults.append(f"{each.partition.key}: its table has {rows} rows, {each.chunks} recorded")
            _compare(found, index, state, None)
        for key, entry in sorted(partitions.items()):
            rows = counts.get((entry.type, key.partition("/")[2]), 0)
            if rows != entry.chunks:
                found.faults.append(f"{key}: {rows} rows, {entry.chunks} recorded")
        for connection in sorted({connection for _, connection, _ in everywhere} - known):
            strangers = list(index.marks(connection))
            found.faults.append(f"{connection}: {len(strangers)} rows of a connection that isn't part of it")
            found.chunks += strangers
        return found

    return snapshot.settled(once)


def _states(storage: Storage, partitions: Mapping[str, ReleasedPartition], found: Comparison) -> list[ConnectionState]:
    """The partitions by connection: ``ready`` are those whose tables still are what went in, ``kept`` the others."""
    ready: dict[tuple[str, str], list[PartitionState]] = {}
    behind: dict[tuple[str, str], list[Partition]] = {}
    for name, entry in partitions.items():
        partition = parse_key(entry.type, name.partition("/")[2])
        state = snapshot.state(storage, partition)
        where = entry.type, entry.connection
        if state is not None and state.last == entry.embeddings:
            ready.setdefault(where, []).append(state)
            found.compared += 1
        else:
            behind.setdefault(where, []).append(partition)
            found.behind += 1
    return [
        ConnectionState(*where, tuple(ready.get(where, ())), tuple(behind.get(where, ())))
        for where in sorted(ready.keys() | behind.keys())
    ]


def _compare(found: Comparison, index: Index, state: ConnectionState, partitions: Collection[str] | None) -> None:
    if partitions is not None and not partitions:
        return
    difference = index.compare(state, partitions=partitions)
    if not difference.empty:
        found.faults.append(difference.sentence())
        found.chunks += [*difference.missing, *difference.wrong, *difference.surplus]
