"""Taking over what an earlier version kept in ``state.sqlite``: once, the first time this version opens a ledger there.

Everything but leases goes along: outcomes, faults, requested retries, applied listings, retired connections.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from kb_pipeline.ledger.database import add
from kb_pipeline.ledger.errors import LeaseHeld
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.ledger.processes import Holder
from kb_pipeline.ledger.schema import applied_listings, faults, outcomes, retirements, retries

_WAIT = 60.0
_logger = logging.getLogger(__name__)


def take_over(old: Path, ledger: Ledger) -> bool:
    """Copy what an earlier version knew, and rename its file; False when there is none (any more).

    Raises LeaseHeld while a process of the earlier version is at work: the two don't see each other's leases.
    """
    if not old.exists():
        return False
    with ledger.leases.acquire("ledger/takeover", f"taking over {old}", wait=_WAIT) as lease:
        if not old.exists():
            return False
        with closing(sqlite3.connect(old, timeout=_WAIT)) as source:
            for name, holder in _held(source):
                raise LeaseHeld(f"{name} is in use by {holder}, with an earlier version of kb_pipeline: end that first")
            lease.commit(lambda connection: _copy(source, connection))
        kept = old.with_name(f"{old.name}.taken-over")
        old.replace(kept)
    _logger.warning("%s was taken over into the ledger %s; it is kept as %s, nothing needs it", old, ledger, kept.name)
    return True


def _held(source: sqlite3.Connection) -> Iterator[tuple[str, Holder]]:
    rows = _rows(source, "leases", "name, holder, expires_at")
    for name, holder, expires_at in rows:
        if holder and float(str(expires_at)) > time.time():
            found = Holder(**json.loads(str(holder)))
            if not found.dead:
                yield str(name), found


def _copy(source: sqlite3.Connection, target: sa.Connection) -> None:
    """What the ledger knows already is newer, and stays."""
    now = time.time()

    def copy(table: sa.Table, old_name: str, *columns: str, times: tuple[str, ...] = (), **more: object) -> None:
        found = [dict(zip(columns, row, strict=True)) | more for row in _rows(source, old_name, ", ".join(columns))]
        for row in found:
            row.update({name: _seconds(row[name]) for name in times})
        add(target, table, found)

    copy(outcomes, "outcomes", "type", "connection", "last_run", "last_success", times=("last_run", "last_success"))
    copy(faults, "faults", "type", "connection", "partition", "stage", "class", "message", at=now)
    copy(retries, "retries", "connection", "key")
    copy(applied_listings, "applied", "type", "partition", "digest")
    copy(retirements, "retired", "connection", "at", times=("at",))


def _rows(source: sqlite3.Connection, table: str, columns: str) -> list[tuple[object, ...]]:
    """Rows of a table; none when the earlier version hadn't made it yet."""
    if source.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is None:
        return []
    return source.execute(f"SELECT {columns} FROM {table}").fetchall()


def _seconds(iso: object) -> float | None:
    return None if iso is None else datetime.fromisoformat(str(iso)).timestamp()
