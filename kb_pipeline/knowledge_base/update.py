"""The update: bring the index in step with the tables, and leave a candidate for a release.

What belongs here: which partitions speak, which of them have to be compared, what a candidate records. What doesn't: how
rows are compared and written (``index``), what a candidate is checked for (``gate``).

A partition is compared row by row with the index unless the head is known to hold its rows. What the head holds is noted
with the candidate, and the note is believed at the very version it was written at, and only while no check has found the
candidate wrong: whatever else happened to the table made another version, and then everything is compared.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kb_pipeline import stages
from kb_pipeline.knowledge_base import snapshot
from kb_pipeline.knowledge_base.candidates import Candidate, Candidates
from kb_pipeline.knowledge_base.gate import outstanding
from kb_pipeline.knowledge_base.index import Index
from kb_pipeline.knowledge_base.ingredients import Model, ReleasedPartition, full_key
from kb_pipeline.knowledge_base.releases import ReleaseRecord, Releases
from kb_pipeline.knowledge_base.snapshot import ConnectionLayout, ConnectionState
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Update:
    """What an update did.

    ``candidate`` is None while there is nothing to publish: before the first partition is complete, or while the change
    to another model waits for the partitions in ``waiting``. ``compared`` partitions were compared with the index row by
    row, ``skipped`` ones are known to be in it.
    """

    candidate: Candidate | None = None
    waiting: tuple[str, ...] = ()
    changed_rows: int = 0
    removed_rows: int = 0
    compared: int = 0
    skipped: int = 0


def update(
    storage: Storage,
    lease: Lease,
    layouts: Sequence[ConnectionLayout],
    model: Model,
    on_progress: Callable[[int, int], None],
    *,
    everything: bool = False,
) -> Update:
    """Bring the index in step with every connection, and make what it then holds the candidate.

    A partition that isn't consistent keeps its rows: one dead connection blocks nobody. A change of model begins only when
    every partition has its new vectors; until then there is no candidate. ``everything`` compares every partition, whatever
    is noted of the head, fills an index anew that can't be read, and writes the kept manifests again. Raises LeaseLost, and
    RowsChanged when a partition was published meanwhile.
    """
    candidates, releases = Candidates(storage), Releases(storage)
    last, release = candidates.last(), releases.current()
    index = Index.existing(storage, model.dimension)
    noted = None if everything else _believed(candidates, last, index, model)
    broken = everything and index is not None and not _readable(index)
    before = _entries(last, release)
    served = _served(before) if noted is not None or broken else _found(index)
    states = [snapshot.connection_state(storage, each, model.id, served.get(each.name, ())) for each in layouts]
    made_with = last.model.id if last is not None else release.model_id if release is not None else None
    if made_with not in (None, model.id):
        waiting = _not_ready(storage, states)
        if waiting:
            candidates.withdraw(lease)
            return Update(waiting=waiting)
    if made_with is None and not any(state.ready for state in states):
        return Update()
    index = Index.prepare(storage, model.dimension)
    if broken or (noted is None and index.model_ids() - {model.id}):
        index.clear()
    work = _Work(index, states, noted)
    for done, state in enumerate(states):
        on_progress(done, len(states))
        work.sync(state)
    work.remove_others(served)
    if work.changed or work.removed or last is None:
        index.refresh_indices()
    on_progress(len(states), len(states))
    partitions = _ingredients(storage, releases, states, before, again=everything)
    candidate = noted
    if candidate is None or (candidate.version, candidate.partitions) != (index.version, partitions):
        candidate = candidates.make(lease, work.candidate(model, partitions, last, outstanding(candidates, last)))
    return Update(candidate, (), work.changed, work.removed, len(work.compared), work.skipped)


def _believed(candidates: Candidates, last: Candidate | None, index: Index | None, model: Model) -> Candidate | None:
    """The last candidate, if the head is still what it says of it."""
    if last is None or index is None or last.version != index.version or last.model != model:
        return None
    return None if any(verdict.blocks for verdict in candidates.verdicts(last).values()) else last


class _Work:
    """One pass over the connections."""

    def __init__(self, index: Index, states: Sequence[ConnectionState], noted: Candidate | None) -> None:
        self._index = index
        self._states = states
        self._noted = noted
        self.changed = self.removed = self.skipped = 0
        self.compared: set[str] = set()

    def sync(self, state: ConnectionState) -> None:
        """Bring one connection in step: those partitions whose rows the head isn't known to hold, or all of them."""
        touched = [each for each in state.ready if not self._holds(full_key(each.partition), each.last)]
        speaking = {full_key(each.partition) for each in state.ready} | {full_key(each) for each in state.kept}
        # A partition that speaks no more may have handed its rows to another one.
        whole = self._noted is None or bool(_of(self._noted.partitions, state.connection) - speaking)
        if not touched and not whole:
            self.skipped += len(state.ready)
            return
        if whole:
            touched = list(state.ready)
            difference = self._index.sync(state)
        else:
            keys = {each.partition.key for each in touched}
            difference = self._index.sync(state.only(touched), partitions=keys)
        self.skipped += len(state.ready) - len(touched)
        self.compared |= {full_key(each.partition) for each in touched}
        self.changed += len(difference.missing) + len(difference.wrong)
        self.removed += len(difference.surplus)

    def remove_others(self, served: Iterable[str]) -> None:
        """Delete the rows of connections that have no say any more."""
        for connection in sorted(set(served) - {state.connection for state in self._states}):
            self.removed += self._index.remove(connection)

    def candidate(
        self, model: Model, partitions: Mapping[str, ReleasedPartition], last: Candidate | None, unproved: Collection[str]
    ) -> Candidate:
        """What the head is now. ``unproved``: checks that ``last`` has yet to pass; then what it brought is checked too."""
        held = {
            key: entry.embeddings
            for key, entry in partitions.items()
            if key in self.compared or self._holds(key, entry.embeddings)
        }
        before = set(last.compared) if last is not None and unproved else set()
        return Candidate(
            version=self._index.version,
            made_at=time.time(),
            model=model,
            chunks=self._index.rows,
            partitions=partitions,
            held=held,
            compared=tuple(sorted((self.compared | before) & partitions.keys())),
            changed_rows=self.changed,
            removed_rows=self.removed,
        )

    def _holds(self, key: str, embeddings: str) -> bool:
        return self._noted is not None and self._noted.held.get(key) == embeddings


def _of(partitions: Mapping[str, ReleasedPartition], connection: str) -> set[str]:
    return {key for key, entry in partitions.items() if entry.connection == connection}


def _readable(index: Index) -> bool:
    try:
        index.read_through()
    except (OSError, RuntimeError, ValueError) as error:
        _logger.warning("the index can't be read and is filled anew: %s", str(error).splitlines()[0])
        return False
    return True


def _served(partitions: Mapping[str, ReleasedPartition]) -> dict[str, set[str]]:
    """Connection -> keys of the partitions in the head, by a note."""
    found: dict[str, set[str]] = {}
    for key, entry in partitions.items():
        found.setdefault(entry.connection, set()).add(key.partition("/")[2])
    return found


def _found(index: Index | None) -> dict[str, set[str]]:
    """The same by the rows that are there."""
    found: dict[str, set[str]] = {}
    for _, connection, partition in index.counts() if index is not None else ():
        found.setdefault(connection, set()).add(partition)
    return found


def _not_ready(storage: Storage, states: Sequence[ConnectionState]) -> tuple[str, ...]:
    """Partitions that have vectors, but not of the model that is wanted now."""
    kept: list[Partition] = [partition for state in states for partition in state.kept]
    return tuple(full_key(each) for each in kept if storage.pointer(stages.INDEXED, each) is not None)


def _entries(last: Candidate | None, release: ReleaseRecord | None) -> Mapping[str, ReleasedPartition]:
    """What the index was made of before: partitions that keep their rows keep their entry."""
    if last is not None:
        return last.partitions
    return release.partitions if release is not None else {}


def _ingredients(
    storage: Storage,
    releases: Releases,
    states: Sequence[ConnectionState],
    before: Mapping[str, ReleasedPartition],
    *,
    again: bool,
) -> dict[str, ReleasedPartition]:
    """What the index is made of now; keeps the manifests that a release of it will name, those kept already ``again``."""
    partitions: dict[str, ReleasedPartition] = {}
    for state in states:
        for each in state.ready:
            key = full_key(each.partition)
            partitions[key] = ReleasedPartition(state.type, state.connection, each.documents, each.last, each.chunks)
            if again or not releases.has_manifest(each.documents):
                releases.keep_manifest(each.documents, snapshot.manifest(storage, each))
        for partition in state.kept:
            key = full_key(partition)
            if key in before:
                partitions[key] = before[key]
    return partitions
