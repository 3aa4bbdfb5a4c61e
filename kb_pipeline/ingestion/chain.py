"""The chain of one partition, stage by stage, each under its lease: what the assets call and the tests drive.

What belongs here: which lease covers what, and publication under it. What doesn't: what a stage does (the functions that
``stages.STAGES`` names), Dagster.
"""

from __future__ import annotations

from collections.abc import Callable

from kb_pipeline import stages
from kb_pipeline.embedding.base import Embedder
from kb_pipeline.ingestion import listing
from kb_pipeline.ingestion.work import Orchestration, Prepared, Work
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base import publish, snapshot
from kb_pipeline.knowledge_base.publish import ConnectionLayout, Model, Publication
from kb_pipeline.monitoring.progress import OnProgress, Progress, Silent
from kb_pipeline.stages import Stage
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.table import Staged

LEASE_WAIT = 60.0
"""Seconds to wait for another writer of the same partition before giving up and naming it."""


OnListing = Callable[[listing.ListingInfo, bool], None]
"""Told which listing was taken, and whether it was made for it just now."""


class Chain:
    """Runs the stages of any partition of a workspace."""

    def __init__(self, workspace: Workspace, progress: Progress | None = None, *, lease_wait: float = LEASE_WAIT) -> None:
        self.workspace = workspace
        self.progress = progress or Silent()
        self.lease_wait = lease_wait

    def take_listing(
        self, connection: str, orchestration: Orchestration, on_listing: OnListing | None = None
    ) -> listing.ListingInfo:
        """List a connection, or take the listing this orchestration already made; ``on_listing`` is told which."""
        config = self.workspace.connection(connection)
        made = False

        def report(count: int) -> None:
            nonlocal made
            made = True
            self.progress.update(orchestration.id, connection, "listing", count, None)

        info = listing.take(
            self.workspace.storage,
            self.workspace.ledger.leases,
            config.type,
            connection,
            self.workspace.source(connection),
            orchestration=orchestration.id,
            not_before=orchestration.started_at,
            wait=self.lease_wait,
            on_progress=report,
            settings=self.workspace.fingerprint(connection),
        )
        if on_listing is not None:
            on_listing(info, made)
        return info

    def make(
        self,
        stage: Stage,
        partition: Partition,
        orchestration: Orchestration,
        embedder: Embedder | None = None,
        on_listing: OnListing | None = None,
    ) -> Staged:
        """Bring one stage of a partition up to date and publish it, under one lease. ``embedder``: for stages that embed;
        ``on_listing`` is told the listing of a stage that takes one.

        Raises LeaseHeld, LeaseLost, and what the stage raises; nothing is published then.
        """
        workspace = self.workspace
        name = f"{partition.type}/{stage.name}/{partition.key}"
        with workspace.ledger.leases.acquire(name, orchestration.purpose, wait=self.lease_wait) as lease:
            work = Work(
                workspace,
                partition,
                self._reporter(orchestration, partition, stage.name),
                lambda: self.take_listing(partition.connection, orchestration, on_listing),
                embedder,
            )
            prepared: Prepared = stages.load(stage.run)(work)
            prepared.staged.publish(lease)
            # After the publication, and not in its transaction: done by the next run where this one dies before.
            if prepared.then is not None:
                prepared.then()
        return prepared.staged

    def publish(self, orchestration: Orchestration, model: Model) -> Publication:
        """Sync the index and publish a release; drop tables of layouts that were replaced. Raises LeaseLost, LeaseHeld."""
        storage = self.workspace.storage

        def report(done: int, total: int) -> None:
            self.progress.update(orchestration.id, "release", "release", done, total)

        with self.workspace.ledger.leases.acquire(
            "corpus/knowledge_base", orchestration.purpose, wait=self.lease_wait
        ) as lease:
            result = snapshot.settled(
                lambda: publish.publish(storage, lease, self.layouts(), model, report),
            )
            if not result.faults:
                for partition in result.superseded:
                    for asset in reversed(stages.names()):
                        storage.table_path(asset, partition).unlink(missing_ok=True)
        return result

    def layouts(self) -> list[ConnectionLayout]:
        """Every connection that has a say in the release: those of kb.yaml, and those that left it unretired."""
        configured = {config.name: config for config in self.workspace.connections}
        found = [ConnectionLayout(config.type, name, self.workspace.partitions(name)) for name, config in configured.items()]
        retired = self.workspace.ledger.retirements.all()
        left = {
            (each.type, each.connection)
            for each in self.workspace.storage.partitions(stages.INDEXED)
            if each.connection not in configured and each.connection not in retired
        }
        return found + [ConnectionLayout(type_, name, None) for type_, name in sorted(left)]

    def _reporter(self, orchestration: Orchestration, partition: Partition, stage: str) -> OnProgress:
        run, name = orchestration.id, partition.key

        def report(done: int, total: int, size: int | None = None) -> None:
            self.progress.update(run, name, stage, done, total, size)

        return report
