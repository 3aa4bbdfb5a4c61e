"""Pointers: which immutable table is current. Moved in a transaction that has checked the writer's lease.

What was current is noted with the time it stopped being so, until somebody has removed its file: readers may still be at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from kb_pipeline.ledger.database import Database, put
from kb_pipeline.ledger.leases import Lease
from kb_pipeline.ledger.schema import pointers, superseded


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which immutable table is current.

    ``asset``         ``local_directory/documents``, ``local_directory/inventory``
    ``partition``     a partition key; of an inventory the connection's name
    ``fingerprint``   of the content; the file's name as well
    ``link``          fingerprint of the upstream table it was made from, "" for none
    ``recipe``        settings it was made with
    ``rows``          how many it has
    ``published_at``  seconds since the epoch
    """

    asset: str
    partition: str
    fingerprint: str
    link: str
    recipe: str
    rows: int
    published_at: float


@dataclass(frozen=True, slots=True)
class Superseded:
    """A table that was current until ``at`` (seconds since the epoch, by the ledger's clock)."""

    asset: str
    partition: str
    fingerprint: str
    at: float


class Pointers:
    """The pointers of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, asset: str, partition: str) -> Pointer | None:
        """The pointer of one partition; None when nothing was published, or it was dropped."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(pointers).where(_table(pointers, asset, partition))).one_or_none()
        return Pointer(**row._mapping) if row is not None else None

    def all(self, asset: str | None = None) -> list[Pointer]:
        """Every pointer, or those of one asset, by asset and partition; as they stood at one moment."""
        query = sa.select(pointers).order_by(pointers.c.asset, pointers.c.partition)
        if asset is not None:
            query = query.where(pointers.c.asset == asset)
        with self._database.read() as connection:
            return [Pointer(**row._mapping) for row in connection.execute(query)]

    def move(self, lease: Lease, pointer: Pointer) -> None:
        """Make a table current. Its bytes are in place, synced or uploaded, before. Raises LeaseLost."""

        def move(connection: sa.Connection) -> None:
            self._supersede(connection, pointer.asset, pointer.partition)
            same = _table(superseded, pointer.asset, pointer.partition) & (superseded.c.fingerprint == pointer.fingerprint)
            connection.execute(superseded.delete().where(same))
            put(connection, pointers, asdict(pointer))

        lease.commit(move)

    def drop(self, lease: Lease, asset: str, partition: str) -> None:
        """Let nothing be current. Raises LeaseLost."""

        def drop(connection: sa.Connection) -> None:
            self._supersede(connection, asset, partition)
            connection.execute(pointers.delete().where(_table(pointers, asset, partition)))

        lease.commit(drop)

    def superseded(
        self, *, seconds: float = 0.0, asset: str | None = None, partition: str | None = None
    ) -> list[Superseded]:
        """Tables that stopped being current at least so long ago and whose files nobody has removed since."""
        query = sa.select(superseded).order_by(superseded.c.asset, superseded.c.partition, superseded.c.fingerprint)
        if asset is not None:
            query = query.where(superseded.c.asset == asset)
        if partition is not None:
            query = query.where(superseded.c.partition == partition)
        with self._database.read() as connection:
            rows = connection.execute(query.where(superseded.c.at <= self._database.now(connection) - seconds))
            return [Superseded(**row._mapping) for row in rows]

    def forget(self, lease: Lease, gone: Iterable[Superseded]) -> None:
        """Note that the files of superseded tables were removed. Raises LeaseLost."""
        keys = [(each.asset, each.partition, each.fingerprint) for each in gone]

        def forget(connection: sa.Connection) -> None:
            for asset, partition, fingerprint in keys:
                same = _table(superseded, asset, partition) & (superseded.c.fingerprint == fingerprint)
                connection.execute(superseded.delete().where(same))

        if keys:
            lease.commit(forget)

    def _supersede(self, connection: sa.Connection, asset: str, partition: str) -> None:
        current = sa.select(pointers.c.fingerprint).where(_table(pointers, asset, partition))
        fingerprint = connection.scalars(current).one_or_none()
        if fingerprint is not None:
            now = self._database.now(connection)
            put(connection, superseded, asdict(Superseded(asset, partition, fingerprint, now)))


def _table(table: sa.Table, asset: str, partition: str) -> sa.ColumnElement[bool]:
    return (table.c.asset == asset) & (table.c.partition == partition)
