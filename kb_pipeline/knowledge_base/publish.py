"""Publication: a candidate that passed its checks becomes the release that readers see. It moves tags and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kb_pipeline.flow.kinds import ErrorClass
from kb_pipeline.knowledge_base.candidates import Candidate, Candidates
from kb_pipeline.knowledge_base.gate import outstanding
from kb_pipeline.knowledge_base.index import Index
from kb_pipeline.knowledge_base.releases import ReleaseRecord, Releases
from kb_pipeline.storage.storage import Storage

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease

_ADVICE = "launch the job corpus_release, or `kb run`"


class NotPublishable(Exception):
    """The candidate may not become a release. The message says why and what to do."""

    kind = ErrorClass.FAILED_CHECK


@dataclass(frozen=True, slots=True)
class Publication:
    """What a publication did. ``release`` is the current one afterwards; ``note`` says why it isn't a new one."""

    release: ReleaseRecord | None
    published: bool = False
    pinned: str | None = None
    note: str = ""
    candidate: Candidate | None = None
    """The candidate that is what readers see now, or will see when the pin goes."""


def publish(storage: Storage, lease: Lease, *, began_at: float) -> Publication:
    """Publish the candidate, if it passed its checks and readers don't have it yet.

    ``began_at``: when the run began, in seconds since the epoch. A candidate that is younger and not passed belongs to
    another run under way, which will publish it itself. Raises NotPublishable for one that failed a check, was never put
    to one, or that the index has moved on from; LeaseLost.
    """
    candidates, releases = Candidates(storage), Releases(storage)
    candidate, release, pinned = candidates.last(), releases.current(), releases.pinned()
    if candidate is None:
        return Publication(release, pinned=pinned, note="there is no candidate")
    reasons = outstanding(candidates, candidate)
    if reasons and candidate.made_at >= began_at:
        return Publication(release, pinned=pinned, note="another run has a newer candidate at its checks")
    if reasons:
        raise NotPublishable(f"the candidate may not be published: {'; '.join(reasons)}; {_ADVICE}")
    if pinned is not None:
        return Publication(release, pinned=pinned, note=f"{pinned} is pinned", candidate=candidate)
    if release is not None and release.content == candidate.content and not _healed(candidate, release):
        return Publication(release, note="readers have it already", candidate=candidate)
    if candidate.made_at < began_at and not _is_head(storage, candidate):
        raise NotPublishable(f"the index has changed since its candidate was made and checked: {_ADVICE}")
    return Publication(releases.publish(lease, candidate), published=True, candidate=candidate)


def _healed(candidate: Candidate, release: ReleaseRecord) -> bool:
    """Whether rows were put right that somebody damaged behind our back: readers get them under a new release."""
    return candidate.version != release.version and bool(candidate.changed_rows or candidate.removed_rows)


def _is_head(storage: Storage, candidate: Candidate) -> bool:
    index = Index.existing(storage, candidate.model.dimension)
    return index is not None and index.version == candidate.version
