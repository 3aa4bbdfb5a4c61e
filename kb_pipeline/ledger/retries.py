"""Requested retries: items that somebody asked to have read again by the next run."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from kb_pipeline.ledger.database import Database, add
from kb_pipeline.ledger.schema import retries

_SOME = 500
"""Keys in one statement."""


class Retries:
    """The requests of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def request(self, connection: str, keys: Iterable[str]) -> None:
        """Ask that these items be read again by the next run."""
        with self._database.write() as db:
            add(db, retries, [{"connection": connection, "key": key} for key in keys])

    def of(self, connection: str) -> frozenset[str]:
        """Keys that somebody asked to read again."""
        with self._database.read() as db:
            return frozenset(db.scalars(sa.select(retries.c.key).where(retries.c.connection == connection)))

    def served(self, connection: str, keys: Iterable[str]) -> None:
        """Forget requests that were served."""
        found = sorted(keys)
        if not found:
            return
        with self._database.write() as db:
            for start in range(0, len(found), _SOME):
                mine = (retries.c.connection == connection) & retries.c.key.in_(found[start : start + _SOME])
                db.execute(retries.delete().where(mine))
