"""Verification: the index and the release against the tables they come from. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kb_pipeline.findings import Finding
from kb_pipeline.knowledge_base import snapshot
from kb_pipeline.knowledge_base.index import Difference, Index
from kb_pipeline.knowledge_base.publish import ConnectionLayout, Model, connection_states
from kb_pipeline.knowledge_base.releases import ReleaseRecord, Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.storage.storage import Storage


def verify(storage: Storage, layouts: Sequence[ConnectionLayout]) -> list[Finding]:
    """One finding for the head of the index and one for the current release.

    The head is compared with the tables of every connection; the release with what its record says went into it.
    A partition that is being changed right now keeps its rows and is not judged.
    """
    releases = Releases(storage)
    record = releases.current()
    if record is None:
        return [Finding(True, "nothing has been published yet")]
    findings = [_verify_release(storage, record)]
    if releases.pinned() is None:
        findings.append(_verify_head(storage, layouts, record))
    return findings


def _verify_head(storage: Storage, layouts: Sequence[ConnectionLayout], record: ReleaseRecord) -> Finding:
    index = Index.existing(storage, record.dimension)
    if index is None:
        return Finding(True, "the head of the index is being built for another model")
    model = Model(record.model_id, record.model_name, record.dimension)

    def compare() -> list[Difference]:
        states = connection_states(storage, layouts, model)
        faults = [fault for fault in (index.compare(state) for state in states) if not fault.empty]
        strangers = index.served().keys() - {state.connection for state in states}
        return faults + [Difference(name, surplus=list(index.marks(name))) for name in sorted(strangers)]

    faults = snapshot.settled(compare)
    if not faults:
        return Finding(True, f"the head of the index equals the tables of {len(layouts)} connections")
    examples = [chunk for fault in faults for chunk in [*fault.missing, *fault.wrong, *fault.surplus]]
    sentences = "; ".join(fault.sentence() for fault in faults)
    return Finding(False, f"the head of the index differs: {sentences}; materialize it again", tuple(examples[:10]))


def _verify_release(storage: Storage, record: ReleaseRecord) -> Finding:
    rows = Release(storage, record).to_arrow(["source", "partition"])
    counted = Counter(
        f"{source}/{partition}"
        for source, partition in zip(rows["source"].to_pylist(), rows["partition"].to_pylist(), strict=True)
    )
    wrong = [
        f"{key}: {counted.get(key, 0)} rows, {entry.chunks} recorded"
        for key, entry in sorted(record.partitions.items())
        if counted.get(key, 0) != entry.chunks
    ]
    wrong += [f"{key}: rows of a partition that isn't recorded" for key in sorted(set(counted) - set(record.partitions))]
    if not wrong:
        return Finding(True, f"{record.name} holds the {record.chunks} rows it was published with")
    return Finding(False, f"{record.name} differs from its record: {'; '.join(wrong)}", tuple(wrong[:10]))
