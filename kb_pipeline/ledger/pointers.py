"""Pointers: which immutable table is current. Moved in a transaction that has checked the writer's lease."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from kb_pipeline.ledger.database import Database, put
from kb_pipeline.ledger.leases import Lease
from kb_pipeline.ledger.schema import pointers


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


class Pointers:
    """The pointers of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, asset: str, partition: str) -> Pointer | None:
        """The pointer of one partition; None when nothing was published, or it was dropped."""
        with self._database.read() as connection:
            where = (pointers.c.asset == asset) & (pointers.c.partition == partition)
            row = connection.execute(sa.select(pointers).where(where)).one_or_none()
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
        lease.commit(lambda connection: put(connection, pointers, asdict(pointer)))

    def drop(self, lease: Lease, asset: str, partition: str) -> None:
        """Let nothing be current. Raises LeaseLost."""
        where = (pointers.c.asset == asset) & (pointers.c.partition == partition)
        lease.commit(lambda connection: connection.execute(pointers.delete().where(where)))
