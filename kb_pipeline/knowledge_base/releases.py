"""Releases: what readers see. A tag on the index, a record of what went into it, and the manifests kept with it.

What belongs here: the records, the tags, the pin. What doesn't: filling the index (``index``), searching (``search``).

``release-N`` tags never move; ``current`` moves. A rollback pins: nothing is published until the pin is taken off.
A record without its tag is no release: it was left by a publication that didn't come about.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from kb_pipeline import tables
from kb_pipeline.knowledge_base.candidates import Candidate
from kb_pipeline.knowledge_base.index import TABLE, tags
from kb_pipeline.knowledge_base.ingredients import ReleasedPartition, content_fingerprint
from kb_pipeline.storage.files import create_json, get_json, put_json
from kb_pipeline.storage.storage import KNOWLEDGE_BASE, Storage

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease

CURRENT = "current"
_NAME = re.compile(r"^release-(\d+)$")
_RECORDS = f"{KNOWLEDGE_BASE}/releases"
_RECORD = re.compile(rf"{_RECORDS}/(?P<name>release-\d+)\.json")
_MANIFESTS = f"{KNOWLEDGE_BASE}/manifests"
_PIN = f"{KNOWLEDGE_BASE}/pin.json"


class NoRelease(Exception):
    """There is no such release. The message says what to do."""


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """One release. ``version`` is the Lance table's; ``partitions`` is keyed by ``type/partition key``."""

    name: str
    version: int
    created_at: str
    model_id: str
    model_name: str
    dimension: int
    chunks: int
    partitions: Mapping[str, ReleasedPartition]

    @property
    def number(self) -> int:
        """N of release-N."""
        return _number(self.name)

    @property
    def content(self) -> str:
        """Fingerprint of what the release is made of; equal content need not be published twice."""
        return content_fingerprint(self.model_id, self.partitions)


class Releases:
    """All releases of one storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._files = storage.files

    def all(self) -> list[ReleaseRecord]:
        """Every release, oldest first."""
        found = [self._load(name) for name in tags(self._storage) if _NAME.match(name)]
        return sorted((record for record in found if record is not None), key=lambda record: record.number)

    def get(self, name: str) -> ReleaseRecord:
        """A release by its name, or the current one for "current". Raises NoRelease."""
        if name == CURRENT:
            record = self.current()
            if record is None:
                raise NoRelease("nothing has been published yet: run `kb run`")
            return record
        record = self._load(name) if _NAME.match(name) and name in tags(self._storage) else None
        if record is None:
            known = ", ".join(each.name for each in self.all()) or "none"
            raise NoRelease(f"no release {name!r}; known: {known}")
        return record

    def current(self) -> ReleaseRecord | None:
        """The release that readers get by default; None before the first."""
        found = tags(self._storage)
        if CURRENT not in found:
            return None
        # Releases whose rows are equal share a version; the newest of them is meant, unless a rollback named one.
        names = [name for name, version in found.items() if version == found[CURRENT] and _NAME.match(name)]
        pinned = self.pinned()
        if pinned in names:
            return self._load(pinned)
        return self._load(max(names, key=_number)) if names else None

    def pinned(self) -> str | None:
        """The release a rollback pinned, if any."""
        try:
            return str(get_json(self._files, _PIN)["release"])
        except FileNotFoundError:
            return None

    def publish(self, lease: Lease, candidate: Candidate) -> ReleaseRecord:
        """Make a candidate the current release. Raises LeaseLost."""
        if self._strays():
            lease.commit(lambda _: self.drop_strays())
        record = self._create_record(candidate)

        def move() -> None:
            table = self._storage.index_location.open(TABLE)
            table.tags.create(record.name, record.version)
            _point(table, record.version)

        lease.commit(lambda _: move())
        return record

    def _create_record(self, candidate: Candidate) -> ReleaseRecord:
        """Write the record under the next number. One that is there stays, whoever wrote it: it is not written over."""
        number = max((_number(name) for name in tags(self._storage) if _NAME.match(name)), default=0)
        while True:
            number += 1
            record = ReleaseRecord(
                f"release-{number}",
                candidate.version,
                datetime.now(UTC).isoformat(timespec="seconds"),
                candidate.model.id,
                candidate.model.name,
                candidate.model.dimension,
                candidate.chunks,
                dict(candidate.partitions),
            )
            if create_json(self._files, _record_key(record.name), asdict(record)):
                return record

    def keep_manifest(self, fingerprint: str, table: pa.Table) -> None:
        """Keep a partition's manifest under its fingerprint, for the releases that will name it."""
        with self._storage.write(fingerprint, tables.MANIFEST) as writer:
            for batch in table.to_batches(max_chunksize=16_384):
                writer.batch(batch)
        self._files.keep(_manifest_key(fingerprint), writer.path, replace=True)

    def manifest(self, record: ReleaseRecord, partition_key: str) -> pa.Table:
        """The manifest of one partition (``type/key``) as it was in a release, with the columns of tables.MANIFEST."""
        return self.manifest_of(record.partitions[partition_key].documents)

    def manifest_of(self, fingerprint: str) -> pa.Table:
        """The manifest kept under a fingerprint. Raises FileNotFoundError."""
        with self._files.open(_manifest_key(fingerprint)) as file:
            return pq.read_table(file)

    def has_manifest(self, fingerprint: str) -> bool:
        """Whether a manifest with this fingerprint is kept already."""
        return self._files.find(_manifest_key(fingerprint)) is not None

    def drop_manifests(self, wanted: Collection[str]) -> int:
        """Remove the manifests whose fingerprints aren't among ``wanted``; returns how many (gc)."""
        keys = {_manifest_key(each) for each in wanted}
        gone = [each.key for each in self._files.list(_MANIFESTS) if each.key not in keys]
        self._files.delete(gone)
        return len(gone)

    def rollback(self, lease: Lease, name: str) -> ReleaseRecord:
        """Make an earlier release the current one, and pin it. Raises NoRelease, LeaseLost."""
        record = self.get(name)

        def move() -> None:
            # The pin comes first: a crash in between must not let the next run publish over the rollback.
            put_json(self._files, _PIN, {"release": record.name, "at": datetime.now(UTC).isoformat()})
            _point(self._storage.index_location.open(TABLE), record.version)

        lease.commit(lambda _: move())
        return record

    def unpin(self) -> str | None:
        """Take the pin off; returns what was pinned. The next run publishes again."""
        pinned = self.pinned()
        self._files.delete([_PIN])
        return pinned

    def forget(self, record: ReleaseRecord) -> None:
        """Drop a release's tag and record (gc)."""
        table = self._storage.index_location.open(TABLE)
        if record.name in table.tags.list():
            table.tags.delete(record.name)
        self._files.delete([_record_key(record.name)])

    def _load(self, name: str) -> ReleaseRecord | None:
        try:
            raw = get_json(self._files, _record_key(name))
        except FileNotFoundError:
            return None
        raw["partitions"] = {key: ReleasedPartition(**value) for key, value in raw["partitions"].items()}
        return ReleaseRecord(**raw)

    def drop_strays(self) -> None:
        """Drop records without a tag: their numbers are free again. Only while the lease provably holds, or one that is
        about to get its tag would go."""
        self._files.delete(self._strays())

    def _strays(self) -> list[str]:
        found = {each.key: match["name"] for each in self._files.list(_RECORDS) if (match := _RECORD.fullmatch(each.key))}
        tagged = tags(self._storage)  # looked up last: what gets its tag meanwhile is none
        return [key for key, name in found.items() if name not in tagged]


def _point(table: Any, version: int) -> None:
    if CURRENT in table.tags.list():
        table.tags.update(CURRENT, version)
    else:
        table.tags.create(CURRENT, version)


def _number(name: str) -> int:
    match = _NAME.match(name)
    assert match is not None
    return int(match[1])


def _record_key(name: str) -> str:
    return f"{_RECORDS}/{name}.json"


def _manifest_key(fingerprint: str) -> str:
    return f"{_MANIFESTS}/{fingerprint}.parquet"
