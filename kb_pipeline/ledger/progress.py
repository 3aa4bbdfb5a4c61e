"""Progress of runs as recorded events, whoever started them and whoever looks on."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict

import sqlalchemy as sa

from kb_pipeline.ledger.database import Database, write_in_turn
from kb_pipeline.ledger.schema import progress
from kb_pipeline.monitoring.progress import ProgressEvent

KEEP_RUNS = 200
"""Runs whose progress is kept at most, whatever is kept of them elsewhere."""
THIN_SECONDS = 3_600.0
"""Of what is older, only the last event of each stage stays."""
_SOME = 500
"""Runs in one statement."""


class ProgressEvents:
    """The progress events of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, events: Iterable[ProgressEvent]) -> None:
        """Append events, in one transaction."""
        rows = [{name: value for name, value in asdict(each).items() if name != "id"} for each in events]
        if rows:
            with self._database.write() as db:
                write_in_turn(db, progress)
                db.execute(progress.insert(), rows)

    def last_id(self) -> int:
        """Id of the newest event; 0 before the first."""
        with self._database.read() as db:
            return db.execute(sa.select(sa.func.max(progress.c.id))).scalar_one() or 0

    def since(self, id_: int) -> list[ProgressEvent]:
        """Events after that one, in the order they were recorded. None turns up later with a smaller id."""
        with self._database.read() as db:
            found = db.execute(sa.select(progress).where(progress.c.id > id_).order_by(progress.c.id))
            return [ProgressEvent(**row._mapping) for row in found]

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
        found = sorted(set(runs))
        if found:
            with self._database.write() as db:
                for start in range(0, len(found), _SOME):
                    db.execute(progress.delete().where(progress.c.run.in_(found[start : start + _SOME])))

    def prune(self, *, keep: int = KEEP_RUNS, thin_seconds: float = THIN_SECONDS) -> None:
        """Keep the newest ``keep`` runs, and of what is older than ``thin_seconds`` the last event of each stage."""
        newest = sa.func.max(progress.c.id)
        with self._database.write() as db:
            runs = db.scalars(sa.select(progress.c.run).group_by(progress.c.run).order_by(newest.desc()).offset(keep)).all()
            for start in range(0, len(runs), _SOME):
                db.execute(progress.delete().where(progress.c.run.in_(runs[start : start + _SOME])))
            last = sa.select(newest).group_by(progress.c.run, progress.c.partition, progress.c.stage).scalar_subquery()
            old = progress.c.at < time.time() - thin_seconds
            db.execute(progress.delete().where(old, progress.c.id.not_in(last)))
