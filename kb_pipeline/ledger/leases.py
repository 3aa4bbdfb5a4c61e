"""Leases with fencing tokens: two writers on one partition can't interleave.

Every acquisition takes a higher token than all before. A heartbeat renews what is held; a lease that ran out can't be
renewed, so that a process that was stopped (SIGSTOP, a suspended machine) and wakes finds itself without it. What is
published is committed in a transaction that has checked the token and keeps everybody else from taking the lease.

That transaction holds up others: on SQLite every writer of the ledger, on Postgres whoever wants this very lease. So
whatever takes long (writing a file, syncing it to disk, uploading it) comes before it, under the lease, which the
heartbeat keeps alive meanwhile.

Method: fencing tokens as in M. Kleppmann, "How to do distributed locking" (2016).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from kb_pipeline.ledger.database import Database, add
from kb_pipeline.ledger.errors import LeaseHeld, LeaseLost, LedgerUnavailable
from kb_pipeline.ledger.processes import Holder
from kb_pipeline.ledger.schema import leases

T = TypeVar("T")

LEASE_TTL = 30.0
"""Seconds that a lease lives without a heartbeat."""
_LOOK_AGAIN_SECONDS = 0.2
_logger = logging.getLogger(__name__)


class Leases:
    """All leases of one ledger.

    ``ttl`` seconds is how long a lease lives without a heartbeat. A holder on this machine whose process is gone is
    recognised at once, so a killed run blocks nobody.
    """

    def __init__(self, database: Database, *, ttl: float = LEASE_TTL) -> None:
        self._database = database
        self.ttl = ttl

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
            pause.wait(min(_LOOK_AGAIN_SECONDS, max(0.01, deadline - time.monotonic())))

    def _try_acquire(self, name: str, purpose: str) -> Lease:
        mine = Holder.this_process(purpose)
        with self._database.write() as connection:
            # The row first: there is nothing to lock before it exists.
            add(connection, leases, [{"name": name, "token": 0, "holder": None, "expires_at": 0.0}])
            row = _lock(connection, name)
            now = self._database.now(connection)
            current = Holder(**json.loads(row.holder)) if row.holder else None
            if current is not None and row.expires_at > now and not current.dead:
                raise LeaseHeld(f"{name} is in use by {current}")
            token = row.token + 1
            values = {"token": token, "holder": json.dumps(asdict(mine)), "expires_at": now + self.ttl}
            connection.execute(leases.update().where(leases.c.name == name).values(**values))
        return Lease(self, name, token)

    def renew(self, name: str, token: int) -> bool:
        """Extend a lease that is still held; False when it ran out or was taken over."""
        with self._database.write() as connection:
            held = self._holds(connection, name, token)
            if held:
                self._extend(connection, name)
            return held

    def release(self, name: str, token: int) -> None:
        """Give a lease back; does nothing when it isn't held any more."""
        with self._database.write() as connection:
            mine = (leases.c.name == name) & (leases.c.token == token)
            connection.execute(leases.update().where(mine).values(holder=None, expires_at=0.0))

    def commit(self, name: str, token: int, action: Callable[[sa.Connection], T]) -> T:
        """Run ``action`` in one transaction while the lease provably holds. Raises LeaseLost without running it otherwise.

        Nobody can take the lease, and no heartbeat renew it, while ``action`` runs: it is renewed at the end.
        """
        with self._database.write() as connection:
            if not self._holds(connection, name, token):
                raise LeaseLost(f"the lease on {name} was lost while working; nothing was published, run again")
            done = action(connection)
            self._extend(connection, name)
            return done

    def _holds(self, connection: sa.Connection, name: str, token: int) -> bool:
        """Lock the lease's row, and only then look at the clock: waiting for the lock may have taken the lease's time."""
        row = _lock(connection, name)
        return row.token == token and row.holder is not None and row.expires_at > self._database.now(connection)

    def _extend(self, connection: sa.Connection, name: str) -> None:
        until = self._database.now(connection) + self.ttl
        connection.execute(leases.update().where(leases.c.name == name).values(expires_at=until))


class Lease:
    """A held lease: a context manager that keeps itself alive until it is released."""

    def __init__(self, store: Leases, name: str, token: int) -> None:
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
            except (SQLAlchemyError, LedgerUnavailable, OSError) as error:  # there may be room, or a server, before it ends
                _logger.warning("the lease on %s could not be renewed: %s", self.name, _reason(error))

    def commit(self, action: Callable[[sa.Connection], T]) -> T:
        """Run ``action`` (moving a pointer, a rename, a tag) in one short transaction, only if this lease still holds.

        Everything slow (writing, uploading, syncing to disk) comes before. Raises LeaseLost without running it.
        """
        return self._store.commit(self.name, self.token, action)

    def release(self) -> None:
        """Stop the heartbeat and give the lease back. One that can't be given back (a full disk) runs out by itself."""
        self._stop.set()
        self._thread.join()
        try:
            self._store.release(self.name, self.token)
        except (SQLAlchemyError, LedgerUnavailable, OSError) as error:
            _logger.warning(
                "the lease on %s runs out in %.0f s: giving it back failed: %s", self.name, self._store.ttl, _reason(error)
            )

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class _Row:
    """A lease as it is stored. Token 0, never handed out: nobody ever held it."""

    token: int = 0
    holder: str | None = None
    expires_at: float = 0.0


def _lock(connection: sa.Connection, name: str) -> _Row:
    """The row of a lease, locked until the transaction ends; on SQLite the transaction is the lock."""
    columns = sa.select(leases.c.token, leases.c.holder, leases.c.expires_at)
    row = connection.execute(columns.where(leases.c.name == name).with_for_update()).one_or_none()
    return _Row(*row) if row is not None else _Row()


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip()
