"""Applied listings: which listing a partition's documents were made from, so that a sensor can tell a change."""

from __future__ import annotations

import sqlalchemy as sa

from kb_pipeline.ledger.database import Database, put
from kb_pipeline.ledger.schema import applied_listings


class AppliedListings:
    """The applied listings of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(self, type_: str, partition: str, digest: str) -> None:
        """Record the digest of the listing that a partition's documents were made from. Writes when it is another one."""
        if self.applied(type_, partition) != digest:
            with self._database.write() as db:
                put(db, applied_listings, {"type": type_, "partition": partition, "digest": digest})

    def applied(self, type_: str, partition: str) -> str | None:
        """Digest of the listing that a partition's documents were made from; None before the first."""
        mine = (applied_listings.c.type == type_) & (applied_listings.c.partition == partition)
        with self._database.read() as db:
            return db.scalars(sa.select(applied_listings.c.digest).where(mine)).one_or_none()
