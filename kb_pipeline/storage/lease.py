"""Leases with fencing tokens: two writers on one partition can't interleave.

A lease is a row in a small SQLite database beside the tables. Every acquisition takes a higher token than all before.
A heartbeat thread renews the lease; a lease that ran out can't be renewed, so that a process that was stopped
(SIGSTOP, a suspended machine) and wakes finds itself without it. Publication checks the token inside the same
exclusive transaction that covers the rename: nobody can take the lease between the check and the rename.

Method: fencing tokens as in M. Kleppmann, "How to do distributed locking" (2016).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS leases (
    name TEXT PRIMARY KEY,
    token INTEGER NOT NULL,
    holder TEXT,
    expires_at REAL NOT NULL
)
"""


class LeaseHeld(Exception):
    """Somebody else holds the lease. The message names the holder."""


class LeaseLost(Exception):
    """The lease ran out or was taken over: nothing may be published under it."""


class LeaseStore:
    """All leases of one storage.

    ``ttl`` seconds is how long a lease lives without a heartbeat. A holder on this machine whose process is gone is
    recognised at once, so a killed run blocks nobody.
    """

    def __init__(self, path: Path, *, ttl: float = 30.0) -> None:
        self._path = path
        self.ttl = ttl

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=60.0, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute(_SCHEMA)
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite has rolled back itself when the disk is full
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def acquire(self, name: str, purpose: str, *, wait: float = 0.0) -> Lease:
        """Take the lease, waiting up to ``wait`` seconds for its holder. Raises LeaseHeld naming the holder."""
        deadline = time.monotonic() + wait
        pause = threading.Event()
        while True:
            try:
                return self._try_acquire(name, purpose)
            except LeaseHeld:
                if time.monotonic() >= deadline:
                    raise
            pause.wait(min(0.2, max(0.01, deadline - time.monotonic())))

    def _try_acquire(self, name: str, purpose: str) -> Lease:
        now = time.time()
        holder = _this_process(purpose)
        with self._transaction() as connection:
            row = connection.execute("SELECT token, holder, expires_at FROM leases WHERE name = ?", (name,)).fetchone()
            token = 1
            if row is not None:
                token = row[0] + 1
                current = json.loads(row[1]) if row[1] else None
                if current is not None and row[2] > now and not _is_dead(current):
                    raise LeaseHeld(f"{name} is in use by {_describe(current)}")
            connection.execute(
                "INSERT INTO leases (name, token, holder, expires_at) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
                "SET token = excluded.token, holder = excluded.holder, expires_at = excluded.expires_at",
                (name, token, json.dumps(holder), now + self.ttl),
            )
        return Lease(self, name, token)

    def renew(self, name: str, token: int) -> bool:
        """Extend a lease that is still held; False when it ran out or was taken over."""
        now = time.time()
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE leases SET expires_at = ? WHERE name = ? AND token = ? AND holder IS NOT NULL AND expires_at > ?",
                (now + self.ttl, name, token, now),
            )
            return changed.rowcount == 1

    def release(self, name: str, token: int) -> None:
        """Give a lease back; does nothing when it isn't held any more."""
        with self._transaction() as connection:
            connection.execute("UPDATE leases SET holder = NULL, expires_at = 0 WHERE name = ? AND token = ?", (name, token))

    def publish(self, name: str, token: int, action: Callable[[], T]) -> T:
        """Run ``action`` while the lease provably holds. Raises LeaseLost without running it otherwise."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT 1 FROM leases WHERE name = ? AND token = ? AND holder IS NOT NULL AND expires_at > ?",
                (name, token, time.time()),
            ).fetchone()
            if row is None:
                raise LeaseLost(f"the lease on {name} was lost while working; nothing was published, run again")
            return action()


class Lease:
    """A held lease: a context manager that keeps itself alive until it is released."""

    def __init__(self, store: LeaseStore, name: str, token: int) -> None:
        self._store = store
        self.name = name
        self.token = token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, name=f"lease {name}", daemon=True)
        self._thread.start()

    def _heartbeat(self) -> None:
        while not self._stop.wait(self._store.ttl / 3):
            try:
                if not self._store.renew(self.name, self.token):
                    return
            except sqlite3.Error as error:  # a full disk may have room again before the lease runs out
                _logger.warning("the lease on %s could not be renewed: %s", self.name, error)

    def publish(self, action: Callable[[], T]) -> T:
        """Run ``action`` (a rename, a tag move) only if this lease still holds. Raises LeaseLost."""
        return self._store.publish(self.name, self.token, action)

    def release(self) -> None:
        """Stop the heartbeat and give the lease back. One that can't be given back (a full disk) runs out by itself."""
        self._stop.set()
        self._thread.join()
        try:
            self._store.release(self.name, self.token)
        except sqlite3.Error as error:
            _logger.warning(
                "the lease on %s runs out in %.0f s: giving it back failed: %s", self.name, self._store.ttl, error
            )

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _this_process(purpose: str) -> dict[str, Any]:
    process = psutil.Process()
    return {"host": platform.node(), "pid": os.getpid(), "started": process.create_time(), "purpose": purpose}


def _is_dead(holder: dict[str, Any]) -> bool:
    """True only when the holder ran on this machine and its process is gone; another machine's is never called dead."""
    return holder["host"] == platform.node() and not process_alive(holder["pid"], holder["started"])


def process_alive(pid: int, started: float | None = None) -> bool:
    """Whether a process lives; ``started`` (seconds since the epoch) tells it from a later one with the same pid."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started is None or abs(process.create_time() - started) < 1.0
    except psutil.NoSuchProcess:
        return False


def _describe(holder: dict[str, Any]) -> str:
    since = time.strftime("%H:%M:%S", time.localtime(holder["started"]))
    return f"{holder['purpose']} (process {holder['pid']} on {holder['host']}, started {since})"
