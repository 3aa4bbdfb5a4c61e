"""How connections fare: when they ran and succeeded, the faults that stand, and counts of errors by what was done."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from kb_pipeline.ledger.database import Database, add, put
from kb_pipeline.ledger.schema import error_counts, faults, outcomes

_DAY = 86_400
KEEP_COUNTS_DAYS = 90
"""Counts of errors of older days are dropped."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A stage of a partition that failed and has not succeeded since. ``at``: seconds since the epoch."""

    partition: str
    stage: str
    error_class: str
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the last runs of a connection ended. Times are ISO 8601 in UTC; ``faults`` is empty after a success."""

    last_run: str | None = None
    last_success: str | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def error_class(self) -> str | None:
        """Class of the first fault."""
        return self.faults[0].error_class if self.faults else None

    @property
    def error(self) -> str | None:
        """Message of the first fault."""
        return self.faults[0].message if self.faults else None


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """How often errors of a class met a connection, what was done about them, and how often that helped."""

    connection: str
    error_class: str
    strategy: str
    occurred: int
    recovered: int


class Outcomes:
    """Outcomes and counts of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        type_: str,
        connection: str,
        partition: str,
        stage: str,
        error: tuple[str, str] | None,
        *,
        partitions: Collection[str],
        last: bool,
    ) -> None:
        """Record how a stage of a partition ended; ``error`` is (class, message).

        A fault stands until the same stage of the same partition succeeds: what later stages can still do for a
        connection that can't be reached doesn't make it well. Its last success is when its ``last`` stage ended without
        any. ``partitions``: all keys of the connection as it is split now; faults of others will never be cleared, and go.
        """
        where = {"type": type_, "connection": connection}
        with self._database.write() as db:
            # Its row, locked, comes first: shards of one connection end at the same moment.
            add(db, outcomes, [where])
            mine = sa.and_(outcomes.c.type == type_, outcomes.c.connection == connection)
            db.execute(sa.select(outcomes.c.type).where(mine).with_for_update())
            now = time.time()
            here = sa.and_(faults.c.type == type_, faults.c.connection == connection)
            gone = faults.c.partition.not_in(sorted(partitions))
            same = sa.and_(faults.c.partition == partition, faults.c.stage == stage)
            db.execute(faults.delete().where(here, gone | same))
            if error is not None:
                row = {"partition": partition, "stage": stage, "class": error[0], "message": error[1], "at": now}
                put(db, faults, {**where, **row})
            faulty = db.execute(sa.select(sa.func.count()).select_from(faults).where(here)).scalar_one() > 0
            put(db, outcomes, {**where, "last_run": now, **({"last_success": now} if last and not faulty else {})})

    def outcome(self, type_: str, connection: str) -> Outcome:
        """How the last runs of a connection ended; all None before its first."""
        mine = sa.and_(outcomes.c.type == type_, outcomes.c.connection == connection)
        here = sa.and_(faults.c.type == type_, faults.c.connection == connection)
        with self._database.read() as db:
            times = db.execute(sa.select(outcomes.c.last_run, outcomes.c.last_success).where(mine)).one_or_none()
            found = db.execute(sa.select(faults).where(here).order_by(faults.c.partition, faults.c.stage)).mappings()
            standing = tuple(Fault(row["partition"], row["stage"], row["class"], row["message"], row["at"]) for row in found)
        last_run, last_success = times if times is not None else (None, None)
        return Outcome(_iso(last_run), _iso(last_success), standing)

    def count(self, connection: str, error_class: str, strategy: str, *, occurred: int = 0, recovered: int = 0) -> None:
        """Add to today's counts: errors that occurred, and those a strategy recovered from."""
        today = int(time.time()) // _DAY
        key = {"day": today, "connection": connection, "class": error_class, "strategy": strategy}
        where = sa.and_(*(error_counts.c[name] == value for name, value in key.items()))
        more = {"occurred": error_counts.c.occurred + occurred, "recovered": error_counts.c.recovered + recovered}
        with self._database.write() as db:
            add(db, error_counts, [{**key, "occurred": 0, "recovered": 0}])
            db.execute(error_counts.update().where(where).values(**more))
            db.execute(error_counts.delete().where(error_counts.c.day < today - KEEP_COUNTS_DAYS))

    def counts(self, connection: str | None = None, *, days: int = 7) -> list[ErrorCount]:
        """Counts of the last ``days`` days, today included, of one connection or all."""
        by = (error_counts.c.connection, error_counts.c["class"], error_counts.c.strategy)
        sums = (sa.func.sum(error_counts.c.occurred), sa.func.sum(error_counts.c.recovered))
        query = sa.select(*by, *sums).where(error_counts.c.day > int(time.time()) // _DAY - days).group_by(*by).order_by(*by)
        if connection is not None:
            query = query.where(error_counts.c.connection == connection)
        with self._database.read() as db:
            return [ErrorCount(*row[:3], int(row[3]), int(row[4])) for row in db.execute(query)]


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
