"""Verification: everything readers may see, compared with what it was made from. Changes nothing.

What belongs here: the head of the index, the current release and its manifests, compared whole. What doesn't: the cheap
look at what just changed, before every release (``gate``).
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from kb_pipeline import tables
from kb_pipeline.findings import Finding
from kb_pipeline.knowledge_base import snapshot
from kb_pipeline.knowledge_base.candidates import CORPUS_LEASE, Candidates
from kb_pipeline.knowledge_base.comparison import Comparison, compare_all, judge
from kb_pipeline.knowledge_base.index import Index
from kb_pipeline.knowledge_base.ingredients import ReleasedPartition
from kb_pipeline.knowledge_base.releases import ReleaseRecord, Releases
from kb_pipeline.ledger.errors import LeaseHeld
from kb_pipeline.storage.partitions import parse_key
from kb_pipeline.storage.storage import Storage

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Leases

_ADVICE = "run `kb verify --heal`"


def verify(storage: Storage, leases: Leases) -> list[Finding]:
    """One finding for the current release, one for its manifests, and one for the head of the index.

    The release is compared with the tables of its record that are still there, and the head with those of its candidate.
    A partition that was published anew since, and an index that a run is updating right now, are not judged.
    """
    record = Releases(storage).current()
    if record is None:
        return [Finding(True, "nothing has been published yet")]
    return [_release(storage, record), _manifests(storage, record), _head(storage, leases, record)]


def _release(storage: Storage, record: ReleaseRecord) -> Finding:
    def compare() -> Comparison:
        return compare_all(storage, Index.at(storage, record.dimension, record.version), record.partitions)

    return judge(record.name, _ADVICE, compare)


def _head(storage: Storage, leases: Leases, record: ReleaseRecord) -> Finding:
    try:
        # While the head is its candidate's version, that version is what is compared, whoever writes meanwhile. Otherwise
        # somebody wrote to it, or writes right now: the lease tells which.
        with ExitStack() as held:
            candidate = Candidates(storage).last()
            dimension = candidate.model.dimension if candidate is not None else record.dimension
            index = Index.existing(storage, dimension)
            if candidate is None or index is None or index.version != candidate.version:
                held.enter_context(leases.acquire(CORPUS_LEASE, "a verification"))
                candidate = Candidates(storage).last()
                dimension = candidate.model.dimension if candidate is not None else record.dimension
                index = Index.existing(storage, dimension)
            if index is None:
                return Finding(True, "the head of the index is being built for another model")
            partitions = candidate.partitions if candidate is not None else record.partitions
            return judge("the head of the index", _ADVICE, partial(compare_all, storage, index, partitions))
    except LeaseHeld as error:
        return Finding(True, f"the head of the index was not looked at: {error}")


def _manifests(storage: Storage, record: ReleaseRecord) -> Finding:
    wrong = [f"{key}: {fault}" for key, entry in sorted(record.partitions.items()) if (fault := _fault(storage, key, entry))]
    if not wrong:
        return Finding(True, f"the manifests of {record.name} are whole", metrics={"manifests": len(record.partitions)})
    return Finding(False, f"manifests of {record.name} are damaged: {'; '.join(wrong)}; {_ADVICE}", tuple(wrong[:10]))


def _fault(storage: Storage, key: str, entry: ReleasedPartition) -> str | None:
    """What is wrong with the kept manifest of one partition; compared with its documents while those are the same."""
    try:
        kept = Releases(storage).manifest_of(entry.documents)
    except FileNotFoundError:
        return "it is gone"
    except (OSError, pa.ArrowException) as error:
        return f"it can't be read ({str(error).splitlines()[0]})"
    if not kept.schema.equals(tables.MANIFEST):
        return "it has other columns"
    state = snapshot.state(storage, parse_key(entry.type, key.partition("/")[2]))
    if state is None or state.documents != entry.documents:
        return None  # retired, or published anew since
    try:
        made = snapshot.manifest(storage, state)
    except snapshot.RowsChanged:
        return None
    return None if kept.equals(made.cast(tables.MANIFEST)) else "it differs from its documents table"
