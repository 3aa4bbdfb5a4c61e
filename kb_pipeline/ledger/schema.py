"""The tables of the ledger as the code sees them. ``migrations`` is what makes them; a test holds the two together.

Times are seconds since the epoch. Texts of errors have had secrets taken out by whoever words them.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, Table, Text

metadata = MetaData()

SERIAL = BigInteger().with_variant(Integer, "sqlite")
"""A number that the database counts up; SQLite does so for its INTEGER alone."""

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("token", BigInteger, nullable=False),  # grows with every acquisition, so the row stays when it is given back
    Column("holder", Text),  # JSON of a Holder; null: free
    Column("expires_at", Double, nullable=False),
)

pointers = Table(
    "pointers",
    metadata,
    Column("asset", Text, primary_key=True),
    Column("partition", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("link", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("published_at", Double, nullable=False),
)

superseded = Table(
    "superseded",
    metadata,
    Column("asset", Text, primary_key=True),
    Column("partition", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("at", Double, nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("type", Text, primary_key=True),
    Column("connection", Text, primary_key=True),
    Column("last_run", Double),
    Column("last_success", Double),
)

faults = Table(
    "faults",
    metadata,
    Column("type", Text, primary_key=True),
    Column("connection", Text, primary_key=True),
    Column("partition", Text, primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("class", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("at", Double, nullable=False),
)

error_counts = Table(
    "error_counts",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),  # days since the epoch, in UTC
    Column("connection", Text, primary_key=True),
    Column("class", Text, primary_key=True),
    Column("strategy", Text, primary_key=True),
    Column("occurred", BigInteger, nullable=False),
    Column("recovered", BigInteger, nullable=False),
)

breakers = Table(
    "breakers",
    metadata,
    Column("connection", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("opened_at", Double),
    Column("failures", Integer, nullable=False),
    Column("probe_at", Double),
    Column("class", Text),
    Column("message", Text),
)

retries = Table(
    "retries",
    metadata,
    Column("connection", Text, primary_key=True),
    Column("key", Text, primary_key=True),
)

applied_listings = Table(
    "applied_listings",
    metadata,
    Column("type", Text, primary_key=True),
    Column("partition", Text, primary_key=True),
    Column("digest", Text, nullable=False),
)

retirements = Table(
    "retirements",
    metadata,
    Column("connection", Text, primary_key=True),
    Column("at", Double, nullable=False),
)

progress = Table(
    "progress",
    metadata,
    Column("id", SERIAL, primary_key=True, autoincrement=True),
    Column("run", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger),
    Column("bytes", BigInteger),
    Column("at", Double, nullable=False),
    Index("progress_by_work", "run", "partition", "stage", "id"),
    sqlite_autoincrement=True,  # or a number would come back after its event was dropped, and a reader miss the new one
)
