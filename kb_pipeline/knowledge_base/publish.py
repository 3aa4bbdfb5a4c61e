"""Publication: bring the index in step with every connection, prove it, and move the tag.

What belongs here: the order of these steps and the conditions of a release. What doesn't: each step itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from kb_pipeline import stages
from kb_pipeline.knowledge_base import snapshot
from kb_pipeline.knowledge_base.index import Difference, Index
from kb_pipeline.knowledge_base.releases import ReleasedPartition, ReleaseRecord, Releases, content_fingerprint
from kb_pipeline.knowledge_base.snapshot import ConnectionState
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.table import Storage

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease


@dataclass(frozen=True, slots=True)
class ConnectionLayout:
    """A connection with its partitions by kb.yaml; ``partitions`` is None when it left kb.yaml but isn't retired."""

    type: str
    name: str
    partitions: tuple[Partition, ...] | None


@dataclass(frozen=True, slots=True)
class Model:
    """The model the release is made with. ``dimension`` is that of its vectors."""

    id: str
    name: str
    dimension: int


@dataclass(slots=True)
class Publication:
    """What a publication did. ``release`` is the current one afterwards, new or not."""

    release: ReleaseRecord | None = None
    published: bool = False
    pinned: str | None = None
    waiting: list[str] = field(default_factory=list)
    changed_rows: int = 0
    removed_rows: int = 0
    faults: list[Difference] = field(default_factory=list)
    superseded: list[Partition] = field(default_factory=list)
    """Partitions of earlier layouts whose tables may go."""


def publish(
    storage: Storage,
    lease: Lease,
    layouts: Sequence[ConnectionLayout],
    model: Model,
    on_progress: Callable[[int, int], None],
) -> Publication:
    """Sync every connection into the index and publish a release if anything changed and the index proves right.

    A partition that isn't consistent keeps its rows: one dead connection blocks nobody. A change of model is published
    only when every partition has its new vectors; until then the current release stays. Raises LeaseLost.
    """
    releases = Releases(storage)
    result = Publication(release=releases.current(), pinned=releases.pinned())
    states = connection_states(storage, layouts, model)
    if result.release is not None and result.release.model_id != model.id:
        result.waiting = _not_ready(storage, states)
        if result.waiting:
            return result
    if result.release is None and not any(state.ready for state in states):
        return result
    index = Index.prepare(storage, model.dimension)
    if index.model_ids() - {model.id}:
        index.clear()
    for done, state in enumerate(states):
        on_progress(done, len(states))
        difference = index.sync(state)
        result.changed_rows += len(difference.missing) + len(difference.wrong)
        result.removed_rows += len(difference.surplus)
        result.superseded.extend(state.superseded)
    for connection in sorted(index.served().keys() - {state.connection for state in states}):
        result.removed_rows += index.remove(connection)
    if result.changed_rows or result.removed_rows or not releases.all():
        index.refresh_indices()
    version = int(index.table.version)
    result.faults = [fault for fault in (index.compare(state) for state in states) if not fault.empty]
    on_progress(len(states), len(states))
    if result.faults or result.pinned is not None:
        return result
    partitions, manifests = _contents(storage, releases, states, result.release)
    if result.release is not None and result.release.content == content_fingerprint(model.id, partitions):
        if result.release.version != version and (result.changed_rows or result.removed_rows):
            # The head was damaged behind our back and healed: readers get the healed rows under a new release.
            pass
        else:
            return result
    chunks = int(index.table.count_rows())
    result.release = releases.publish(lease, version, model.id, model.name, model.dimension, chunks, partitions, manifests)
    result.published = True
    return result


def connection_states(storage: Storage, layouts: Sequence[ConnectionLayout], model: Model) -> list[ConnectionState]:
    """What speaks for each connection, beside the rows that are in the head now."""
    index = Index.existing(storage, model.dimension)
    served = index.served() if index is not None else {}
    return [
        snapshot.connection_state(storage, each.type, each.name, each.partitions, model.id, served.get(each.name, ()))
        for each in layouts
    ]


def _not_ready(storage: Storage, states: Sequence[ConnectionState]) -> list[str]:
    """Partitions that have vectors, but not of the model a release is to be made with."""
    return [
        f"{partition.type}/{partition.key}"
        for state in states
        for partition in state.kept
        if storage.table_path(stages.INDEXED, partition).exists()
    ]


def _contents(
    storage: Storage,
    releases: Releases,
    states: Sequence[ConnectionState],
    previous: ReleaseRecord | None,
) -> tuple[dict[str, ReleasedPartition], dict[str, pa.Table]]:
    """What the release is made of; partitions that kept their rows keep their entry of the previous release."""
    partitions: dict[str, ReleasedPartition] = {}
    manifests: dict[str, pa.Table] = {}
    before = previous.partitions if previous is not None else {}
    for state in states:
        for each in state.ready:
            entry = ReleasedPartition(state.type, state.connection, each.documents, each.last, each.chunks)
            partitions[f"{state.type}/{each.partition.key}"] = entry
            if not releases.has_manifest(each.documents):
                fingerprint, table = snapshot.manifest(storage, each.partition)
                if fingerprint != each.documents:
                    raise snapshot.RowsChanged(each.partition.key)
                manifests[fingerprint] = table
        for partition in state.kept:
            key = f"{partition.type}/{partition.key}"
            if key in before:
                partitions[key] = before[key]
    return partitions, manifests
