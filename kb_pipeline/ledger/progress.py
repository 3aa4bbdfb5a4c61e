"""Progress of runs as recorded events, whoever started them and whoever looks on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from kb_pipeline.ledger.database import Database
from kb_pipeline.ledger.schema import progress


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far a stage of a partition was at a moment.

    ``total`` is None while it isn't known (during a listing), ``bytes`` where nobody counts them. ``at``: seconds since
    the epoch. ``id`` grows from event to event; 0 of one that isn't recorded yet.
    """

    run: str
    partition: str
    stage: str
    done: int
    total: int | None
    bytes: int | None
    at: float
    id: int = 0


class ProgressEvents:
    """The progress events of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, events: Iterable[ProgressEvent]) -> None:
        """Append events, in one transaction."""
        rows = [
            {
                "run": each.run,
                "partition": each.partition,
                "stage": each.stage,
                "done": each.done,
                "total": each.total,
                "bytes": each.bytes,
                "at": each.at,
            }
            for each in events
        ]
        if rows:
            with self._database.write() as db:
                db.execute(progress.insert(), rows)

    def latest(self, run: str) -> list[ProgressEvent]:
        """The newest event of each stage of each partition of a run, in the order they were recorded."""
        newest = (
            sa.select(sa.func.max(progress.c.id))
            .where(progress.c.run == run)
            .group_by(progress.c.partition, progress.c.stage)
            .scalar_subquery()
        )
        with self._database.read() as db:
            found = db.execute(sa.select(progress).where(progress.c.id.in_(newest)).order_by(progress.c.id))
            return [ProgressEvent(**row._mapping) for row in found]

    def drop(self, runs: Iterable[str]) -> None:
        """Forget the progress of runs."""
        with self._database.write() as db:
            for run in runs:
                db.execute(progress.delete().where(progress.c.run == run))
