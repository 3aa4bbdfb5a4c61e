"""The ledger as one thing: what a workspace opens and everything else takes its part from."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from sqlalchemy.engine import URL

from kb_pipeline.ledger.breakers import Breakers
from kb_pipeline.ledger.database import Database
from kb_pipeline.ledger.leases import LEASE_TTL, Leases
from kb_pipeline.ledger.listings import AppliedListings
from kb_pipeline.ledger.outcomes import Outcomes
from kb_pipeline.ledger.pointers import Pointers
from kb_pipeline.ledger.progress import ProgressEvents
from kb_pipeline.ledger.retirements import Retirements
from kb_pipeline.ledger.retries import Retries


class Ledger:
    """The ledger of one knowledge base, shared by all processes that work on it.

    Cheap to build: the database is opened, and migrated when need be, at first use; its connections are closed with
    ``close``, or when nobody holds the ledger any more. Threads may share one.

    ``url``: ``sqlite:////absolute/path`` or ``postgresql://user:password@host/name``. ``lease_ttl``: seconds that a lease
    lives without a heartbeat. Every use raises LedgerUnavailable when the database can't be opened.
    """

    def __init__(self, url: str | URL, *, lease_ttl: float = LEASE_TTL) -> None:
        self.database = Database(url)
        self.leases = Leases(self.database, ttl=lease_ttl)
        self.pointers = Pointers(self.database)
        self.outcomes = Outcomes(self.database)
        self.breakers = Breakers(self.database)
        self.retries = Retries(self.database)
        self.listings = AppliedListings(self.database)
        self.retirements = Retirements(self.database)
        self.progress = ProgressEvents(self.database)

    @classmethod
    def of_file(cls, path: Path, *, lease_ttl: float = LEASE_TTL) -> Ledger:
        """The ledger in an SQLite file, whatever characters its path has. Neither file nor folder need exist."""
        return cls(URL.create("sqlite", database=str(path)), lease_ttl=lease_ttl)

    def __str__(self) -> str:
        return str(self.database)

    def close(self) -> None:
        """Close its connections. The next use opens again."""
        self.database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
