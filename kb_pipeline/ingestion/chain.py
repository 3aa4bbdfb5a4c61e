"""The chain of one partition, stage by stage, each under its lease: what the assets call and the tests drive.

What belongs here: which lease covers what, and publication under it. What doesn't: what a stage does (the functions that
``stages.STAGES`` names), Dagster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from kb_pipeline import stages
from kb_pipeline.embedding.base import Embedder
from kb_pipeline.findings import Finding
from kb_pipeline.flow.tally import Tally
from kb_pipeline.ingestion import listing
from kb_pipeline.ingestion.work import Orchestration, Prepared, Work
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base import gate, publish, snapshot, update, verify
from kb_pipeline.knowledge_base.candidates import CORPUS_LEASE
from kb_pipeline.knowledge_base.gate import Check
from kb_pipeline.knowledge_base.ingredients import Model
from kb_pipeline.knowledge_base.publish import Publication
from kb_pipeline.knowledge_base.snapshot import ConnectionLayout
from kb_pipeline.knowledge_base.update import Update
from kb_pipeline.ledger.leases import Lease
from kb_pipeline.monitoring.progress import OnProgress, Progress, Silent
from kb_pipeline.sources.base import Source, SourceError
from kb_pipeline.stages import Stage
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Staged

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
        # By connection: what its source did in this process, and the last orchestration whose listing of it failed.
        self._tallies: dict[str, Tally] = {}
        self._unlisted: dict[str, tuple[str, SourceError]] = {}

    def take_listing(
        self, connection: str, orchestration: Orchestration, on_listing: OnListing | None = None
    ) -> listing.ListingInfo:
        """List a connection, or take the listing this orchestration already made; ``on_listing`` is told which.

        One that failed isn't tried again for the same orchestration: shards of a dead connection don't wait for it in turn.
        """
        failed = self._unlisted.get(connection)
        if failed is not None and failed[0] == orchestration.id:
            raise failed[1]
        config = self.workspace.connection(connection)
        made = False

        def report(count: int) -> None:
            nonlocal made
            made = True
            self.progress.update(orchestration.id, connection, "listing", count, None)

        try:
            with self.asking(connection) as source:
                info = listing.take(
                    self.workspace.storage,
                    config.type,
                    connection,
                    source,
                    orchestration=orchestration.id,
                    not_before=orchestration.started_at,
                    wait=self.lease_wait,
                    on_progress=report,
                    settings=self.workspace.fingerprint(connection),
                )
        except SourceError as error:
            self._unlisted[connection] = (orchestration.id, error)
            raise
        if made:
            self.workspace.record_listing(connection, None)
        if on_listing is not None:
            on_listing(info, made)
        return info

    @contextmanager
    def asking(self, connection: str) -> Iterator[Source]:
        """The source of a connection, asked with patience; what was counted on the way is kept at the end."""
        tally = self._tallies.get(connection)
        if tally is None:
            tally = self._tallies.setdefault(connection, self.workspace.tally(connection))
        with closing(self.workspace.ask(connection, tally)) as source:
            yield source

    def troubles(self, connection: str) -> dict[str, Any]:
        """For people: the state of a connection's circuit breaker, and the errors that this process met there."""
        tally = self._tallies.get(connection)
        errors = tally.sentences() if tally is not None else {}
        state = self.workspace.circuit(connection).seen.state.value
        return {"breaker": state, **({"errors": errors} if errors else {})}

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
                lambda: self.asking(partition.connection),
                embedder,
            )
            prepared: Prepared = stages.load(stage.run)(work)
            prepared.staged.publish(lease)
            # After the publication, and not in its transaction: done by the next run where this one dies before.
            if prepared.then is not None:
                prepared.then()
        return prepared.staged

    def index(self, orchestration: Orchestration, model: Model, *, everything: bool = False) -> Update:
        """Bring the index in step and leave a candidate. Raises LeaseLost, LeaseHeld."""
        storage = self.workspace.storage

        def report(done: int, total: int) -> None:
            self.progress.update(orchestration.id, "release", "release", done, total)

        with self._corpus(orchestration) as lease:
            return snapshot.settled(
                lambda: update.update(storage, lease, self.layouts(), model, report, everything=everything),
            )

    def inspect(self, check: Check) -> Finding:
        """Put the candidate to one check of the gate."""
        return gate.inspect(self.workspace.storage, check)

    def publish(self, orchestration: Orchestration) -> Publication:
        """Publish the candidate that passed its checks; drop tables of layouts that it replaced.

        Raises NotPublishable, LeaseLost, LeaseHeld.
        """
        storage = self.workspace.storage
        with self._corpus(orchestration) as lease:
            result = publish.publish(storage, lease, began_at=orchestration.started_at)
            if result.candidate is not None:
                for layout in self.layouts():
                    for partition in snapshot.superseded(storage, layout, result.candidate.partitions):
                        for asset in reversed(stages.names()):
                            storage.drop(lease, asset, partition)
        storage.remove_superseded()
        return result

    def verify(self) -> list[Finding]:
        """Compare everything that readers see with what it was made from; changes nothing."""
        return verify.verify(self.workspace.storage, self.workspace.ledger.leases)

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

    @contextmanager
    def _corpus(self, orchestration: Orchestration) -> Iterator[Lease]:
        with self.workspace.ledger.leases.acquire(CORPUS_LEASE, orchestration.purpose, wait=self.lease_wait) as lease:
            yield lease

    def _reporter(self, orchestration: Orchestration, partition: Partition, stage: str) -> OnProgress:
        run, name = orchestration.id, partition.key

        def report(done: int, total: int, size: int | None = None) -> None:
            self.progress.update(run, name, stage, done, total, size)

        return report
