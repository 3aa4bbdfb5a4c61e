"""Candidates: a version of the index that may become a release, what went into it, and what its checks found.

What belongs here: the record, the tag that keeps the version, the verdicts. What doesn't: making a candidate
(``update``), what it is checked for (``gate``), publishing it (``publish``).

There is one candidate at a time. The Lance tag ``candidate-<id>`` says which: it keeps gc from dropping the version, and
it moves only while the lease holds. Record and verdicts are files beside it, written before the tag and never changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kb_pipeline.findings import Finding, Severity
from kb_pipeline.knowledge_base.index import TABLE, tags
from kb_pipeline.knowledge_base.ingredients import Model, ReleasedPartition, content_fingerprint
from kb_pipeline.storage.files import get_json, put_json
from kb_pipeline.storage.storage import KNOWLEDGE_BASE, Storage

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease

CORPUS_LEASE = "corpus/knowledge_base"
"""Name of the lease over the index, its candidate and the releases."""
_TAG = "candidate-"
_FOLDER = f"{KNOWLEDGE_BASE}/candidates"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version of the index with all that went into it. Partitions are named ``type/partition key``.

    ``made_at``: seconds since the epoch. ``partitions``: the ingredients, as a release records them. ``held``: fingerprint
    of the last stage's table whose rows this version provably holds. ``compared``: partitions that no candidate
    before this one was checked with as they are now. ``changed_rows`` and ``removed_rows``: what was done to the index to
    bring it here.
    """

    version: int
    made_at: float
    model: Model
    chunks: int
    partitions: Mapping[str, ReleasedPartition]
    held: Mapping[str, str]
    compared: tuple[str, ...]
    changed_rows: int
    removed_rows: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def content(self) -> str:
        """Fingerprint of what it is made of; equal content need not be published twice."""
        return content_fingerprint(self.model.id, self.partitions)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check said of one candidate."""

    check: str
    passed: bool
    severity: Severity
    sentence: str

    @property
    def blocks(self) -> bool:
        """Whether the candidate may not become a release."""
        return not self.passed and self.severity is Severity.ERROR


class Candidates:
    """The candidate of one storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._files = storage.files

    def last(self) -> Candidate | None:
        """The candidate that was made last; None when there is none, or when its record is gone."""
        found = next(iter(self._tags()), None)
        if found is None:
            return None
        try:
            raw = get_json(self._files, f"{_FOLDER}/{found.removeprefix(_TAG)}.json")
        except FileNotFoundError:
            return None
        raw["model"] = Model(**raw["model"])
        raw["partitions"] = {key: ReleasedPartition(**value) for key, value in raw["partitions"].items()}
        raw["compared"] = tuple(raw["compared"])
        return Candidate(**raw)

    def make(self, lease: Lease, candidate: Candidate) -> Candidate:
        """Make this the candidate. Raises LeaseLost."""
        put_json(self._files, f"{_FOLDER}/{candidate.id}.json", asdict(candidate))

        def tag() -> None:
            table = self._storage.index_location.open(TABLE)
            # The old tag goes first: between the two there is no candidate, and a crash there costs a comparison.
            for name in table.tags.list():
                if name.startswith(_TAG):
                    table.tags.delete(name)
            table.tags.create(_TAG + candidate.id, candidate.version)

        lease.commit(lambda _: tag())
        own = f"{_FOLDER}/{candidate.id}."
        self._files.delete([each.key for each in self._files.list(_FOLDER) if not each.key.startswith(own)])
        return candidate

    def withdraw(self, lease: Lease) -> None:
        """Have no candidate: what it was made with is no longer asked for. Raises LeaseLost."""

        def untag() -> None:
            table = self._storage.index_location.open(TABLE)
            for name in table.tags.list():
                if name.startswith(_TAG):
                    table.tags.delete(name)

        if self._tags():
            lease.commit(lambda _: untag())

    def judge(self, candidate: Candidate, check: str, finding: Finding) -> Verdict:
        """Record what a check found in a candidate."""
        verdict = Verdict(check, finding.passed, finding.severity, finding.sentence)
        put_json(self._files, f"{_FOLDER}/{candidate.id}.{check}.json", asdict(verdict))
        return verdict

    def verdicts(self, candidate: Candidate) -> dict[str, Verdict]:
        """Check -> its verdict, of the checks that looked at this candidate."""
        found = {}
        for each in self._files.list(_FOLDER):
            if not each.key.startswith(f"{_FOLDER}/{candidate.id}.") or each.key == f"{_FOLDER}/{candidate.id}.json":
                continue
            raw: dict[str, Any] = get_json(self._files, each.key)
            verdict = Verdict(**raw)
            found[verdict.check] = replace(verdict, severity=Severity(verdict.severity))
        return found

    def _tags(self) -> list[str]:
        return [name for name in tags(self._storage) if name.startswith(_TAG)]


def is_candidate_tag(name: str) -> bool:
    """Whether a tag of the index is that of a candidate."""
    return name.startswith(_TAG)
