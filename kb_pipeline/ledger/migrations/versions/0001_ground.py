"""The tables a ledger begins with.

A migration says what its tables were when it was written; it doesn't look into ``schema``, which goes on changing.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade(op: Operations) -> None:
    """Make the tables."""
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.Text),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_table(
        "pointers",
        sa.Column("asset", sa.Text, primary_key=True),
        sa.Column("partition", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("link", sa.Text, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("published_at", sa.Double, nullable=False),
    )
    op.create_table(
        "outcomes",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("connection", sa.Text, primary_key=True),
        sa.Column("last_run", sa.Double),
        sa.Column("last_success", sa.Double),
    )
    op.create_table(
        "faults",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("connection", sa.Text, primary_key=True),
        sa.Column("partition", sa.Text, primary_key=True),
        sa.Column("stage", sa.Text, primary_key=True),
        sa.Column("class", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "error_counts",
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("connection", sa.Text, primary_key=True),
        sa.Column("class", sa.Text, primary_key=True),
        sa.Column("strategy", sa.Text, primary_key=True),
        sa.Column("occurred", sa.BigInteger, nullable=False),
        sa.Column("recovered", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "breakers",
        sa.Column("connection", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("opened_at", sa.Double),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("probe_at", sa.Double),
        sa.Column("class", sa.Text),
        sa.Column("message", sa.Text),
    )
    op.create_table(
        "retries",
        sa.Column("connection", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
    )
    op.create_table(
        "applied_listings",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("partition", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
    )
    op.create_table(
        "retirements",
        sa.Column("connection", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "progress",
        sa.Column("id", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("partition", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("progress_by_work", "progress", ["run", "partition", "stage", "id"])
