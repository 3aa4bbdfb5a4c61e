"""Releases: what readers see. A tag on the index, a record of what went into it, and the manifests kept with it.

What belongs here: the records, the tags, the pin. What doesn't: filling the index (``index``), searching (``search``).

``release-N`` tags never move; ``current`` moves. A rollback pins: nothing is published until the pin is taken off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from kb_pipeline import tables
from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline.storage import identity
from kb_pipeline.storage.table import Storage, write_json

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease

CURRENT = "current"
_NAME = re.compile(r"^release-(\d+)$")


class NoRelease(Exception):
    """There is no such release. The message says what to do."""


@dataclass(frozen=True, slots=True)
class ReleasedPartition:
    """What one partition contributed: fingerprints of its documents (manifest) and of its last stage, number of chunks."""

    type: str
    connection: str
    documents: str
    embeddings: str
    chunks: int


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
        match = _NAME.match(self.name)
        assert match is not None
        return int(match[1])

    @property
    def content(self) -> str:
        """Fingerprint of what the release is made of; equal content need not be published twice."""
        return content_fingerprint(self.model_id, self.partitions)


def content_fingerprint(model_id: str, partitions: Mapping[str, ReleasedPartition]) -> str:
    """Fingerprint of a release's ingredients."""
    parts = sorted((key, each.documents, each.embeddings) for key, each in partitions.items())
    return identity.digest("release", model_id, parts)


class Releases:
    """All releases of one storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._root = storage.knowledge_base_path

    def _record_path(self, name: str) -> Path:
        return self._root / "releases" / f"{name}.json"

    def _pin_path(self) -> Path:
        return self._root / "pin.json"

    def _manifest_path(self, fingerprint: str) -> Path:
        return self._root / "manifests" / f"{fingerprint}.parquet"

    def all(self) -> list[ReleaseRecord]:
        """Every release, oldest first."""
        found = []
        for path in (self._root / "releases").glob("release-*.json"):
            if _NAME.match(path.stem):
                found.append(_load(path))
        return sorted(found, key=lambda record: record.number)

    def get(self, name: str) -> ReleaseRecord:
        """A release by its name, or the current one for "current". Raises NoRelease."""
        if name == CURRENT:
            record = self.current()
            if record is None:
                raise NoRelease("nothing has been published yet: run `kb run`")
            return record
        if _NAME.match(name) and self._record_path(name).exists():
            return _load(self._record_path(name))
        known = ", ".join(record.name for record in self.all()) or "none"
        raise NoRelease(f"no release {name!r}; known: {known}")

    def current(self) -> ReleaseRecord | None:
        """The release that readers get by default; None before the first."""
        table = self._storage.index_location.open(TABLE)
        if table is None:
            return None
        tags = table.tags.list()
        if CURRENT not in tags:
            return None
        version = tags[CURRENT]["version"]
        pinned = self.pinned()
        # Releases whose rows are equal share a version; the newest of them is meant, unless a rollback named one.
        candidates = [record for record in self.all() if record.version == version]
        named = [record for record in candidates if record.name == pinned]
        return (named or candidates)[-1] if candidates else None

    def pinned(self) -> str | None:
        """The release a rollback pinned, if any."""
        try:
            return str(json.loads(self._pin_path().read_text(encoding="utf-8"))["release"])
        except FileNotFoundError:
            return None

    def publish(
        self,
        lease: Lease,
        version: int,
        model_id: str,
        model_name: str,
        dimension: int,
        chunks: int,
        partitions: Mapping[str, ReleasedPartition],
        manifests: Mapping[str, pa.Table],
    ) -> ReleaseRecord:
        """Publish a version of the index. ``manifests`` maps fingerprints to manifest tables. Raises LeaseLost."""
        for fingerprint, table in manifests.items():
            self._keep_manifest(fingerprint, table)

        def move() -> ReleaseRecord:
            table = self._storage.index_location.open(TABLE)
            tags = table.tags.list()
            taken = [int(match[1]) for match in map(_NAME.match, tags) if match]
            number = 1 + max([*taken, *(record.number for record in self.all())], default=0)
            record = ReleaseRecord(
                f"release-{number}",
                version,
                datetime.now(UTC).isoformat(timespec="seconds"),
                model_id,
                model_name,
                dimension,
                chunks,
                dict(partitions),
            )
            table.tags.create(record.name, version)
            write_json(self._record_path(record.name), asdict(record))
            _point(table, version)
            return record

        return lease.commit(lambda _: move())

    def _keep_manifest(self, fingerprint: str, table: pa.Table) -> None:
        path = self._manifest_path(fingerprint)
        if path.exists():
            return
        with self._storage.stage(path, tables.MANIFEST) as writer:
            for batch in table.to_batches(max_chunksize=16_384):
                writer.batch(batch)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.path.replace(path)

    def manifest(self, record: ReleaseRecord, partition_key: str) -> pa.Table:
        """The manifest of one partition (``type/key``) as it was in a release, with the columns of tables.MANIFEST."""
        return pq.read_table(self._manifest_path(record.partitions[partition_key].documents))

    def has_manifest(self, fingerprint: str) -> bool:
        """Whether a manifest with this fingerprint is kept already."""
        return self._manifest_path(fingerprint).exists()

    def rollback(self, lease: Lease, name: str) -> ReleaseRecord:
        """Make an earlier release the current one, and pin it. Raises NoRelease, LeaseLost."""
        record = self.get(name)

        def move() -> None:
            # The pin comes first: a crash in between must not let the next run publish over the rollback.
            write_json(self._pin_path(), {"release": record.name, "at": datetime.now(UTC).isoformat()})
            _point(self._storage.index_location.open(TABLE), record.version)

        lease.commit(lambda _: move())
        return record

    def unpin(self) -> str | None:
        """Take the pin off; returns what was pinned. The next run publishes again."""
        pinned = self.pinned()
        self._pin_path().unlink(missing_ok=True)
        return pinned

    def forget(self, record: ReleaseRecord) -> None:
        """Drop a release's tag and record (gc)."""
        table = self._storage.index_location.open(TABLE)
        if record.name in table.tags.list():
            table.tags.delete(record.name)
        self._record_path(record.name).unlink(missing_ok=True)


def _point(table: Any, version: int) -> None:
    if CURRENT in table.tags.list():
        table.tags.update(CURRENT, version)
    else:
        table.tags.create(CURRENT, version)


def _load(path: Path) -> ReleaseRecord:
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["partitions"] = {key: ReleasedPartition(**value) for key, value in raw["partitions"].items()}
    return ReleaseRecord(**raw)
