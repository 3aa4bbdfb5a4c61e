"""Retirements: connections that left the knowledge base for good, which no listing could tell."""

from __future__ import annotations

import time

import sqlalchemy as sa

from kb_pipeline.ledger.database import Database, add
from kb_pipeline.ledger.schema import breakers, error_counts, faults, outcomes, retirements, retries


class Retirements:
    """The retirements of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def retire(self, connection: str) -> None:
        """Mark a connection as retired: the next release drops its rows. What is known of how it fared goes."""
        with self._database.write() as db:
            add(db, retirements, [{"connection": connection, "at": time.time()}])
            for table in (outcomes, faults, retries, breakers, error_counts):
                db.execute(table.delete().where(table.c.connection == connection))

    def revive(self, connection: str) -> None:
        """Forget that a connection was retired: it is back in kb.yaml."""
        if connection in self.all():
            with self._database.write() as db:
                db.execute(retirements.delete().where(retirements.c.connection == connection))

    def all(self) -> frozenset[str]:
        """Connections that were retired."""
        with self._database.read() as db:
            return frozenset(db.scalars(sa.select(retirements.c.connection)))
