"""Circuit breakers: one row a connection that is, or was, in trouble. When they open and close is not decided here."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from kb_pipeline.flow.breaker import Breaker, State
from kb_pipeline.ledger.database import Database, add, put
from kb_pipeline.ledger.schema import breakers


class Breakers:
    """The breakers of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, connection: str) -> Breaker:
        """A connection's breaker; closed when nothing is known of it."""
        with self._database.read() as db:
            return _find(db, connection, lock=False)

    def all(self) -> dict[str, Breaker]:
        """Every breaker that is known, by connection."""
        with self._database.read() as db:
            return {row["connection"]: _breaker(row) for row in db.execute(sa.select(breakers)).mappings()}

    def update(self, connection: str, change: Callable[[Breaker, float], Breaker]) -> Breaker:
        """Replace a breaker by what ``change`` makes of it and of the time; nobody else changes it meanwhile.

        So of several processes that find it open and due, one takes the probe. Returns the new one.
        """
        with self._database.write() as db:
            add(db, breakers, [{"connection": connection, "state": State.CLOSED.value, "failures": 0}])
            found = _find(db, connection, lock=True)
            changed = change(found, self._database.now(db))
            if changed != found:
                put(db, breakers, _row(changed))
        return changed

    def reset(self, connection: str) -> None:
        """Forget a connection's trouble: its breaker is closed."""
        with self._database.write() as db:
            db.execute(breakers.delete().where(breakers.c.connection == connection))


def _find(db: sa.Connection, connection: str, *, lock: bool) -> Breaker:
    query = sa.select(breakers).where(breakers.c.connection == connection)
    row = db.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    return _breaker(row) if row is not None else Breaker(connection)


def _breaker(row: sa.RowMapping) -> Breaker:
    columns = ("opened_at", "failures", "probe_at", "class", "message")
    return Breaker(row["connection"], State(row["state"]), *(row[name] for name in columns))


def _row(breaker: Breaker) -> dict[str, object]:
    return {
        "connection": breaker.connection,
        "state": breaker.state.value,
        "opened_at": breaker.opened_at,
        "failures": breaker.failures,
        "probe_at": breaker.probe_at,
        "class": breaker.error_class,
        "message": breaker.message,
    }
