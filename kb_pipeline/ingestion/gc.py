"""Garbage collection: drop what no table and no kept release refers to."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kb_pipeline import stages
from kb_pipeline.embedding.vector_store import stores
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base.candidates import CORPUS_LEASE, Candidates, is_candidate_tag
from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline.knowledge_base.releases import CURRENT, Releases
from kb_pipeline.ledger.processes import process_alive
from kb_pipeline.sources.upload import Upload
from kb_pipeline.storage.table import Storage, Table
from kb_pipeline.tables import values

LEASE_WAIT = 60.0
"""Seconds to wait for whoever is writing."""
MARGIN = timedelta(seconds=10)
"""Versions that are older than the oldest kept release by less than this wait for the next collection."""
_NEVER = timedelta(days=36_500)
_STAGED = re.compile(r"-(\d+)-[0-9a-f]{12}\.parquet$")


@dataclass(slots=True)
class Collected:
    """What was dropped."""

    vectors: int = 0
    releases: int = 0
    manifests: int = 0
    staged_files: int = 0
    uploads: int = 0


def collect(workspace: Workspace, keep: int) -> Collected:
    """Keep the last ``keep`` releases (and the current and pinned ones); drop what is left over. Raises LeaseHeld."""
    result = Collected()
    storage = workspace.storage
    with workspace.ledger.leases.acquire(CORPUS_LEASE, "garbage collection", wait=LEASE_WAIT) as lease:
        lease.commit(lambda _: Releases(storage).drop_strays())
        _collect_releases(storage, keep, result)
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
    for path in (storage.knowledge_base_path / "manifests").glob("*.parquet"):
        if path.stem not in wanted:
            path.unlink(missing_ok=True)
            result.manifests += 1
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


def _collect_vectors(workspace: Workspace) -> int:
    """Drop vectors that no table names. All writers of vectors are kept out meanwhile."""
    from contextlib import ExitStack

    storage = workspace.storage
    naming = stages.naming_vectors()
    writing = [stage for stage in stages.STAGES if stage.embeds]
    partitions = sorted({each for stage in naming for each in storage.partitions(stage.name)})
    with ExitStack() as leases:
        wanted: set[str] = set()
        for partition in partitions:
            for stage in writing:
                name = f"{partition.type}/{stage.name}/{partition.key}"
                leases.enter_context(workspace.ledger.leases.acquire(name, "garbage collection", wait=LEASE_WAIT))
            for stage in naming:
                table = Table.open(storage.table_path(stage.name, partition))
                if table is not None:
                    with table:
                        wanted.update(values(table.read([stages.VECTOR_KEY]).column(0)))
        found = stores(storage.vectors_location)
        removed = sum(store.retain(wanted) for store in found)
    for store in found:
        store.compact(thorough=True)  # takes long, and disturbs nobody
    return removed


def _collect_staged(storage: Storage) -> int:
    """Drop tables that processes, now gone, had written aside."""
    count = 0
    for path in storage.staging_path.glob("*"):
        match = _STAGED.search(path.name)
        if match is None or (int(match[1]) != os.getpid() and not process_alive(int(match[1]))):
            _drop(path)
            count += 1
    return count


def _drop(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
