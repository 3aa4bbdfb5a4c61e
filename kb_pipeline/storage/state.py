"""Small facts beside the tables: outcomes of connections, requested retries, retired connections. One SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kb_pipeline import stages
from kb_pipeline.storage.partitions import Partition, layout

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outcomes (
    type TEXT, connection TEXT, last_run TEXT, last_success TEXT, PRIMARY KEY (type, connection)
);
CREATE TABLE IF NOT EXISTS faults (
    type TEXT, connection TEXT, partition TEXT, stage TEXT, class TEXT, message TEXT,
    PRIMARY KEY (type, connection, partition, stage)
);
CREATE TABLE IF NOT EXISTS retries (connection TEXT, key TEXT, PRIMARY KEY (connection, key));
CREATE TABLE IF NOT EXISTS applied (type TEXT, partition TEXT, digest TEXT, PRIMARY KEY (type, partition));
CREATE TABLE IF NOT EXISTS retired (connection TEXT PRIMARY KEY, at TEXT);
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the last runs of a connection ended. Times are ISO 8601 in UTC; ``error`` is None after a success."""

    last_run: str | None = None
    last_success: str | None = None
    error_class: str | None = None
    error: str | None = None


class State:
    """The facts of one storage."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=60.0)) as connection, connection:
            connection.executescript(_SCHEMA)
            yield connection

    def record(self, partition: Partition, stage: str, error: tuple[str, str] | None) -> None:
        """Record how a stage of a partition ended; ``error`` is (class, message).

        A fault stands until the same stage of the same partition succeeds: what later stages can still do for a
        connection that can't be reached doesn't make it well. Its last success is when its last stage ended without any.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        where = (partition.type, partition.connection)
        siblings = {each.key for each in layout(*where, partition.shards)}
        with self._connect() as db:
            known = db.execute("SELECT partition FROM faults WHERE type = ? AND connection = ?", where).fetchall()
            gone = {key for (key,) in known} - siblings  # of another number of shards: nothing will ever clear them
            db.executemany(
                "DELETE FROM faults WHERE type = ? AND connection = ? AND partition = ?", [(*where, key) for key in gone]
            )
            db.execute(
                "DELETE FROM faults WHERE type = ? AND connection = ? AND partition = ? AND stage = ?",
                (*where, partition.key, stage),
            )
            if error is not None:
                db.execute("INSERT INTO faults VALUES (?, ?, ?, ?, ?, ?)", (*where, partition.key, stage, *error))
            faulty = db.execute("SELECT 1 FROM faults WHERE type = ? AND connection = ?", where).fetchone() is not None
            success = now if stage == stages.last().name and not faulty else None
            db.execute(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET last_run = excluded.last_run, "
                "last_success = coalesce(excluded.last_success, last_success)",
                (*where, now, success),
            )

    def outcome(self, type_: str, connection: str) -> Outcome:
        """How the last runs of a connection ended; all None before its first."""
        where = (type_, connection)
        with self._connect() as db:
            times = db.execute(
                "SELECT last_run, last_success FROM outcomes WHERE type = ? AND connection = ?", where
            ).fetchone()
            fault = db.execute(
                "SELECT class, message FROM faults WHERE type = ? AND connection = ? ORDER BY partition, stage", where
            ).fetchone()
        return Outcome(*(times or (None, None)), *(fault or (None, None)))

    def request_retry(self, connection: str, keys: Iterable[str]) -> None:
        """Ask that these items be read again by the next run."""
        with self._connect() as db:
            db.executemany("INSERT OR IGNORE INTO retries VALUES (?, ?)", [(connection, key) for key in keys])

    def retries(self, connection: str) -> frozenset[str]:
        """Keys that somebody asked to read again."""
        with self._connect() as db:
            rows = db.execute("SELECT key FROM retries WHERE connection = ?", (connection,)).fetchall()
        return frozenset(key for (key,) in rows)

    def retried(self, connection: str, keys: Iterable[str]) -> None:
        """Forget requests that were served."""
        with self._connect() as db:
            db.executemany("DELETE FROM retries WHERE connection = ? AND key = ?", [(connection, key) for key in keys])

    def apply(self, type_: str, partition: str, digest: str) -> None:
        """Record the digest of the listing that a partition's documents were made from."""
        with self._connect() as db:
            db.execute(
                "INSERT INTO applied VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET digest = excluded.digest",
                (type_, partition, digest),
            )

    def applied(self, type_: str, partition: str) -> str | None:
        """Digest of the listing that a partition's documents were made from; None before the first."""
        with self._connect() as db:
            row = db.execute("SELECT digest FROM applied WHERE type = ? AND partition = ?", (type_, partition)).fetchone()
        return row[0] if row else None

    def retire(self, connection: str) -> None:
        """Mark a connection as retired: the next release drops its rows."""
        with self._connect() as db:
            db.execute("INSERT OR IGNORE INTO retired VALUES (?, ?)", (connection, datetime.now(UTC).isoformat()))
            db.execute("DELETE FROM outcomes WHERE connection = ?", (connection,))
            db.execute("DELETE FROM faults WHERE connection = ?", (connection,))
            db.execute("DELETE FROM retries WHERE connection = ?", (connection,))

    def revive(self, connection: str) -> None:
        """Forget that a connection was retired: it is back in kb.yaml."""
        with self._connect() as db:
            db.execute("DELETE FROM retired WHERE connection = ?", (connection,))

    def retired(self) -> frozenset[str]:
        """Connections that were retired."""
        with self._connect() as db:
            return frozenset(name for (name,) in db.execute("SELECT connection FROM retired").fetchall())
