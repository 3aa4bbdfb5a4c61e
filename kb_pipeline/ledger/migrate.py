"""Bringing a ledger to the schema of this code, once, however many processes open it at that moment.

What belongs here: running alembic under a lock. What doesn't: the migrations, one a file below ``migrations/versions``.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.pool import NullPool

from kb_pipeline.ledger.errors import LedgerUnavailable
from kb_pipeline.ledger.revision import HEAD

_MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(url: sa.URL, lock: int, busy_seconds: float) -> None:
    """Apply the migrations that a database lacks, all or none of them. Waits while another process does.

    ``lock``: number of the advisory lock on Postgres. Raises LedgerUnavailable for a database of a newer version.
    """
    sqlite = url.get_backend_name() == "sqlite"
    engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": busy_seconds} if sqlite else {})
    with engine.connect() as connection:
        if sqlite:
            _begin_alone(connection, busy_seconds)
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
        _upgrade(connection, url)
        if sqlite:
            connection.exec_driver_sql("COMMIT")
        connection.commit()


def _upgrade(connection: sa.Connection, url: sa.URL) -> None:
    """Apply what is missing.

    Not by alembic's commands: they keep the migration under way in global variables, and Dagster, which migrates its own
    databases by alembic, may be doing so in a thread beside this one.
    """
    context = MigrationContext.configure(connection)
    scripts = ScriptDirectory(str(_MIGRATIONS))
    current = context.get_current_revision()
    try:
        scripts.get_revisions(current or "base")
    except CommandError:
        raise LedgerUnavailable(
            f"the ledger {url.render_as_string(hide_password=True)} was written by a newer version of kb_pipeline "
            f"(revision {current}, this one knows {HEAD}): update kb_pipeline"
        ) from None
    for each in reversed(list(scripts.iterate_revisions(HEAD, current or "base"))):
        each.module.upgrade(Operations(context))
        context.stamp(scripts, each.revision)


def _begin_alone(connection: sa.Connection, busy_seconds: float) -> None:
    """Begin the one writing transaction of a SQLite database, in WAL mode: readers and the writer leave each other alone.

    The mode is a property of the file and stays. Changing it doesn't wait for others as everything else does.
    """
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    raw.isolation_level = None
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(0.01)
    raw.execute("BEGIN IMMEDIATE")
