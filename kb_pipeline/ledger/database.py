"""The database under the ledger: opening, migrating, transactions, and what SQLite and Postgres do differently.

What belongs here: everything that knows a dialect. What doesn't: any table.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from kb_pipeline.ledger.errors import LedgerUnavailable

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

BUSY_SECONDS = 60.0
"""How long to wait for another process's transaction on SQLite; it may be stopped in the middle of one."""
_MIGRATION_LOCK = 0x6B625F6C  # "kb_l"; any number that others who lock in the same database don't take


class Database:
    """One database. Cheap to build: it is opened, and migrated when its revision is an old one, at first use.

    Every connection to it checks the revision first (one small SELECT), so a database that vanished under a running
    process, and is made anew, has its tables again.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            self.url = _with_driver(make_url(url))
        except ArgumentError:
            raise LedgerUnavailable("the ledger's url is none: expected sqlite:///PATH or postgresql://HOST/NAME") from None
        self._lock = threading.Lock()
        self._opened: sa.Engine | None = None
        self._dispose: Callable[[], object] = lambda: None

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    @property
    def path(self) -> Path | None:
        """The file, of an SQLite database."""
        return Path(self.url.database) if self.url.get_backend_name() == "sqlite" and self.url.database else None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view; waits for no writer."""
        with self._connection() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may write. On SQLite it is the only one that writes, from its beginning: keep it short."""
        with self._connection() as connection:
            connection = connection.execution_options(kb_writes=True)
            with connection.begin():
                yield connection

    def now(self, connection: sa.Connection) -> float:
        """Seconds since the epoch, by the clock all holders of leases share.

        On Postgres that is the server's: machines whose own clocks differ agree on when a lease ran out. SQLite has one
        machine only. Ask once the row in question is locked, or the time spent waiting for it is forgotten.
        """
        if connection.dialect.name == "postgresql":
            return float(connection.execute(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()))).scalar_one())
        return time.time()

    def close(self) -> None:
        """Close every connection. The next use opens again."""
        with self._lock:
            self._opened = None
            self._dispose()

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        try:
            connection = self._engine().connect()
        except DBAPIError as error:
            if self.path is not None:
                raise  # a full disk, a locked file: told by what it is
            reason = str(error.orig).strip().splitlines()[0]
            raise LedgerUnavailable(f"the ledger {self} can't be reached: {reason}") from error
        with connection:
            yield connection

    def _engine(self) -> sa.Engine:
        with self._lock:
            if self._opened is None:
                self._opened = _open(self.url, self.path, str(self))
                self._dispose = weakref.finalize(self, self._opened.dispose)
            return self._opened


def put(connection: sa.Connection, table: sa.Table, row: Mapping[str, object]) -> None:
    """Insert a row, or set the columns given where there is one with its primary key."""
    keys = [column.name for column in table.primary_key]
    statement = _insert(connection, table).values(**row)
    values = {name: statement.excluded[name] for name in row if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=values))


def add(connection: sa.Connection, table: sa.Table, rows: Iterable[Mapping[str, object]]) -> None:
    """Insert rows unless there are ones with their primary keys."""
    found = [dict(row) for row in rows]
    if found:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), found)


def write_in_turn(connection: sa.Connection, table: sa.Table) -> None:
    """Let nobody else write to a table before this transaction ends, so that its numbers appear in ascending order."""
    if connection.dialect.name == "postgresql":  # on SQLite it is so
        name = connection.dialect.identifier_preparer.format_table(table)
        connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")


def _insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # loaded where one is used: a tenth of a short command's time

    return postgresql.insert(table)


def _with_driver(url: URL) -> URL:
    """``postgresql://`` means the driver that the extra ``postgres`` installs."""
    return url.set(drivername="postgresql+psycopg2") if url.drivername in ("postgresql", "postgres") else url


def _open(url: URL, path: Path | None, shown: str) -> sa.Engine:
    try:
        return _sqlite(url, path) if path is not None else _postgres(url)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise LedgerUnavailable(
            f"the ledger {shown} needs a driver that isn't installed ({error}): pip install 'kb_pipeline[postgres]'"
        ) from error


def _postgres(url: URL) -> sa.Engine:
    engine = sa.create_engine(url, pool_size=2, max_overflow=8, pool_pre_ping=True)

    @sa.event.listens_for(engine, "connect")
    def check(connection: Any, record: ConnectionPoolEntry) -> None:
        with connection.cursor() as cursor:
            # Not a SELECT from the table itself: that is an error when it isn't there yet.
            cursor.execute("SELECT to_regclass('alembic_version')")
            exists = cursor.fetchone()[0] is not None
            if exists:
                cursor.execute("SELECT version_num FROM alembic_version")
            row = cursor.fetchone() if exists else None
        connection.rollback()
        _bring_up_to_date(engine, row[0] if row else None)

    return engine


def _sqlite(url: URL, path: Path) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS}, max_overflow=-1)

    @sa.event.listens_for(engine, "do_connect")
    def make_folder(*_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)

    @sa.event.listens_for(engine, "connect")
    def check(connection: Any, record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # SQLAlchemy begins: see below
        connection.execute("PRAGMA synchronous = FULL")  # what was published stays so after a power cut
        tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if tables else None
        _bring_up_to_date(engine, row[0] if row else None)
        record.info["file"] = _identity(path)

    @sa.event.listens_for(engine, "checkout")
    def same_file(connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
        # A connection to a file that was deleted goes on writing to it, where nobody reads: two could hold one lease.
        if record.info["file"] != _identity(path):
            raise sa.exc.DisconnectionError

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("kb_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _bring_up_to_date(engine: sa.Engine, revision: str | None) -> None:
    from kb_pipeline.ledger.revision import HEAD

    if revision != HEAD:
        from kb_pipeline.ledger.migrate import migrate  # imports alembic: slow, and rarely needed

        migrate(engine.url, _MIGRATION_LOCK, BUSY_SECONDS)
