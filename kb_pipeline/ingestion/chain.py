"""The chain of one partition, stage by stage, each under its lease: what the assets call and the tests drive.

What belongs here: which lease covers which stage, and the order listing -> documents. What doesn't: Dagster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kb_pipeline.embedding.base import Embedder
from kb_pipeline.ingestion import chunks, documents, embeddings, listing
from kb_pipeline.ingestion.parsers import parsers
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base import publish, snapshot
from kb_pipeline.knowledge_base.publish import ConnectionLayout, Model, Publication
from kb_pipeline.monitoring.progress import Progress, Silent
from kb_pipeline.storage.partitions import Partition, layout
from kb_pipeline.storage.table import Staged

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease

LAST_STAGE = "embeddings"
LEASE_WAIT = 60.0
"""Seconds to wait for another writer of the same partition before giving up and naming it."""


@dataclass(frozen=True, slots=True)
class Orchestration:
    """What a piece of work belongs to. ``started_at``: seconds since the epoch; ``purpose`` is shown to others who wait."""

    id: str
    started_at: float
    purpose: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A staged table with the lease it may be published under."""

    staged: Staged
    lease: Lease
    then: Callable[[], None] | None = None

    def publish(self) -> Staged:
        """Make it visible. Raises LeaseLost."""
        self.staged.publish(self.lease)
        # After the publication: done twice after a crash it is harmless, and left out it is done by the next run.
        if self.then is not None:
            self.then()
        return self.staged


class Chain:
    """Runs the stages of any partition of a workspace."""

    def __init__(self, workspace: Workspace, progress: Progress | None = None, *, lease_wait: float = LEASE_WAIT) -> None:
        self.workspace = workspace
        self.progress = progress or Silent()
        self.lease_wait = lease_wait

    def take_listing(self, connection: str, orchestration: Orchestration) -> listing.ListingInfo:
        """List a connection, or take the listing this orchestration already made."""
        config = self.workspace.connection(connection)

        def report(count: int) -> None:
            self.progress.update(connection, "listing", count, None)

        return listing.take(
            self.workspace.storage,
            self.workspace.ledger.leases,
            config.type,
            connection,
            self.workspace.source(connection),
            orchestration=orchestration.id,
            not_before=orchestration.started_at,
            wait=self.lease_wait,
            on_progress=report,
        )

    @contextmanager
    def documents(self, partition: Partition, orchestration: Orchestration) -> Iterator[Pending]:
        """Documents of a partition from today's listing, ready to be published while the context lasts."""
        workspace = self.workspace
        with self._lease("documents", partition, orchestration) as lease:
            self.take_listing(partition.connection, orchestration)
            info, listed = listing.read(workspace.storage, partition)
            retries = workspace.ledger.retries.of(partition.connection)
            if retries:
                inside = documents.keys_inside(workspace.storage, partition)
                retries &= {*listed["key"].to_pylist(), *inside}
            report = self._reporter(partition, "documents")
            staged = None if retries else documents.standing(workspace.storage, partition, listed, workspace.limits)
            if staged is not None:
                report(listed.num_rows, listed.num_rows)
            else:
                staged = documents.update(
                    workspace.storage,
                    partition,
                    listing.items(listed),
                    workspace.source(partition.connection),
                    parsers(workspace.limits).submit,
                    workspace.limits,
                    retries=retries,
                    on_progress=report,
                )

            def then() -> None:
                workspace.ledger.retries.served(partition.connection, retries)
                workspace.ledger.listings.apply(partition.type, partition.key, info.digest)

            yield Pending(staged, lease, then)

    @contextmanager
    def chunks(self, partition: Partition, orchestration: Orchestration) -> Iterator[Pending]:
        """Chunks of a partition, ready to be published while the context lasts."""
        workspace = self.workspace
        with self._lease("chunks", partition, orchestration) as lease:
            staged = chunks.update(
                workspace.storage,
                partition,
                workspace.tokenizer,
                workspace.chunkers,
                on_progress=self._reporter(partition, "chunks"),
            )
            yield Pending(staged, lease)

    @contextmanager
    def embeddings(self, partition: Partition, orchestration: Orchestration, embedder: Embedder) -> Iterator[Pending]:
        """Embeddings of a partition, ready to be published while the context lasts."""
        workspace = self.workspace
        with self._lease("embeddings", partition, orchestration) as lease:
            staged = embeddings.update(
                workspace.storage,
                partition,
                embedder,
                window_bytes=workspace.limits.inflight_bytes,
                on_progress=self._reporter(partition, "embeddings"),
            )
            yield Pending(staged, lease)

    def publish(self, orchestration: Orchestration, model: Model) -> Publication:
        """Sync the index and publish a release; drop tables of layouts that were replaced. Raises LeaseLost, LeaseHeld."""
        storage = self.workspace.storage

        def report(done: int, total: int) -> None:
            self.progress.update("release", "release", done, total)

        with self.workspace.ledger.leases.acquire(
            "corpus/knowledge_base", orchestration.purpose, wait=self.lease_wait
        ) as lease:
            result = snapshot.settled(
                lambda: publish.publish(storage, lease, self.layouts(), model, report),
            )
            if not result.faults:
                for partition in result.superseded:
                    for asset in ("embeddings", "chunks", "documents"):
                        storage.table_path(asset, partition).unlink(missing_ok=True)
        return result

    def record(self, partition: Partition, stage: str, error: tuple[str, str] | None) -> None:
        """Record in the ledger how a stage of a partition ended; ``error`` is (class, message)."""
        type_, connection = partition.type, partition.connection
        keys = [each.key for each in layout(type_, connection, partition.shards)]
        self.workspace.ledger.outcomes.record(
            type_, connection, partition.key, stage, error, partitions=keys, last=stage == LAST_STAGE
        )

    def layouts(self) -> list[ConnectionLayout]:
        """Every connection that has a say in the release: those of kb.yaml, and those that left it unretired."""
        configured = {config.name: config for config in self.workspace.connections}
        found = [ConnectionLayout(config.type, name, self.workspace.partitions(name)) for name, config in configured.items()]
        retired = self.workspace.ledger.retirements.all()
        left = {
            (each.type, each.connection)
            for each in self.workspace.storage.partitions("embeddings")
            if each.connection not in configured and each.connection not in retired
        }
        return found + [ConnectionLayout(type_, name, None) for type_, name in sorted(left)]

    @contextmanager
    def _lease(self, asset: str, partition: Partition, orchestration: Orchestration) -> Iterator[Lease]:
        name = f"{partition.type}/{asset}/{partition.key}"
        with self.workspace.ledger.leases.acquire(name, orchestration.purpose, wait=self.lease_wait) as lease:
            yield lease

    def _reporter(self, partition: Partition, stage: str) -> Callable[[int, int], None]:
        name = partition.key

        def report(done: int, total: int) -> None:
            self.progress.update(name, stage, done, total)

        return report
