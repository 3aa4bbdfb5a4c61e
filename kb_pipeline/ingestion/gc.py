"""Garbage collection: drop what no table and no kept release refers to."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kb_pipeline import stages
from kb_pipeline.embedding.vector_store import stores
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base.candidates import CORPUS_LEASE, Candidates, is_candidate_tag
from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline.knowledge_base.releases import CURRENT, Releases
from kb_pipeline.sources.upload import Upload
from kb_pipeline.storage.files import is_abandoned
from kb_pipeline.storage.storage import Storage, file_of, key_of
from kb_pipeline.storage.table import is_open
from kb_pipeline.tables import values

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease

LEASE_WAIT = 60.0
"""Seconds to wait for whoever is writing."""
MARGIN = timedelta(seconds=10)
"""Versions that are older than the oldest kept release by less than this wait for the next collection."""
_NEVER = timedelta(days=36_500)
_TABLE = re.compile(r"(?P<type>[^/]+)/(?P<asset>[^/]+)/(?P<partition>[^/]+)/[^/]+\.parquet")


@dataclass(slots=True)
class Collected:
    """What was dropped."""

    vectors: int = 0
    releases: int = 0
    manifests: int = 0
    tables: int = 0
    staged_files: int = 0
    uploads: int = 0


def collect(workspace: Workspace, keep: int) -> Collected:
    """Keep the last ``keep`` releases (and the current and pinned ones); drop what is left over. Raises LeaseHeld."""
    result = Collected()
    storage = workspace.storage
    with _lease(workspace, CORPUS_LEASE) as lease:
        lease.commit(lambda _: Releases(storage).drop_strays())
        _collect_releases(storage, keep, result)
        result.tables = _collect_tables(workspace)
    result.vectors = _collect_vectors(workspace)
    result.staged_files = _collect_staged(storage)
    for config in workspace.connections:
        source = workspace.source(config.name)
        if isinstance(source, Upload):
            result.uploads += source.collect()
    return result


def _collect_releases(storage: Storage, keep: int, result: Collected) -> None:
    releases = Releases(storage)
    records = releases.all()
    current = releases.current()
    kept = {record.name for record in records[-keep:]} | {releases.pinned()} | {current.name if current else None}
    for record in records:
        if record.name not in kept:
            releases.forget(record)
            result.releases += 1
    remaining = releases.all()
    candidate = Candidates(storage).last()
    needed = [*(record.partitions for record in remaining), candidate.partitions if candidate is not None else {}]
    wanted = {each.documents for partitions in needed for each in partitions.values()}
    result.manifests = releases.drop_manifests(wanted)
    table = storage.index_location.open(TABLE)
    if not remaining or table is None:
        return
    tags = table.tags.list()
    for name in set(tags) - {record.name for record in remaining} - {CURRENT}:
        if not is_candidate_tag(name):
            table.tags.delete(name)  # its record is gone
    table.optimize(cleanup_older_than=_NEVER)  # compacts first, which may take long, and then the next call is quick
    oldest = min(each["version"] for each in table.tags.list().values())
    made = next(each["timestamp"] for each in table.list_versions() if each["version"] == oldest)
    # Lance refuses to drop tagged versions, so the cutoff lies before the oldest of them.
    age = datetime.now(UTC) - made.astimezone(UTC) + MARGIN
    table.optimize(cleanup_older_than=age)


def _collect_tables(workspace: Workspace) -> int:
    """Remove the files of tables that nobody names. Their writers, and those who make others from them, are kept out."""
    storage, assets = workspace.storage, (*reversed(stages.names()), stages.INVENTORY)
    named = {file_of(pointer) for pointer in storage.pointers.all()}
    unnamed: dict[tuple[str, str], set[str]] = {}
    for each in storage.files.list():
        match = _TABLE.fullmatch(each.key)
        if match is not None and match["asset"] in assets and each.key not in named:
            unnamed.setdefault((match["type"], match["partition"]), set()).add(each.key)
    count = 0
    for (type_, partition), keys in sorted(unnamed.items()):
        with ExitStack() as stack:
            # In the order against which nobody waits for another: a stage takes a listing while it holds its own lease.
            for asset in assets:
                name = f"{type_}/{asset}/{partition}"
                lease = stack.enter_context(_lease(workspace, name))
                now = storage.pointers.get(f"{type_}/{asset}", partition)
                keys -= {file_of(now)} if now is not None else set()
            keys = {key for key in keys if not is_open(storage.files.uri(key))}
            storage.files.delete(keys)
            for asset in assets:
                known = storage.pointers.superseded(asset=f"{type_}/{asset}", partition=partition)
                gone = [each for each in known if key_of(each.asset, each.partition, each.fingerprint) in keys]
                storage.pointers.forget(lease, gone)
            count += len(keys)
    return count


def _collect_vectors(workspace: Workspace) -> int:
    """Drop vectors that no table names. All writers of vectors are kept out meanwhile."""
    storage = workspace.storage
    naming = stages.naming_vectors()
    writing = [stage for stage in stages.STAGES if stage.embeds]
    partitions = sorted({each for stage in naming for each in storage.partitions(stage.name)})
    with ExitStack() as leases:
        wanted: set[str] = set()
        for partition in partitions:
            for stage in writing:
                leases.enter_context(_lease(workspace, f"{partition.type}/{stage.name}/{partition.key}"))
            for stage in naming:
                table = storage.open(stage.name, partition)
                if table is not None:
                    with table:
                        wanted.update(values(table.read([stages.VECTOR_KEY]).column(0)))
        found = stores(storage.vectors_location)
        removed = sum(store.retain(wanted) for store in found)
    for store in found:
        store.compact(thorough=True)  # takes long, and disturbs nobody
    return removed


def _lease(workspace: Workspace, name: str) -> Lease:
    return workspace.ledger.leases.acquire(name, "garbage collection", wait=LEASE_WAIT)


def _collect_staged(storage: Storage) -> int:
    """Drop files that processes, now gone, had written aside."""
    if not storage.staging.is_dir():
        return 0
    gone = [path for path in storage.staging.iterdir() if is_abandoned(path)]
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return len(gone)
