"""What an earlier version kept in state.sqlite is taken over once, and only when that version is not at work any more."""

from __future__ import annotations

import json
import logging
import os
import platform
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from kb_pipeline.ledger.errors import LeaseHeld
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.ledger.takeover import take_over

_OLD = """
CREATE TABLE leases (name TEXT PRIMARY KEY, token INTEGER NOT NULL, holder TEXT, expires_at REAL NOT NULL);
CREATE TABLE outcomes (type TEXT, connection TEXT, last_run TEXT, last_success TEXT, PRIMARY KEY (type, connection));
CREATE TABLE faults (type TEXT, connection TEXT, partition TEXT, stage TEXT, class TEXT, message TEXT,
    PRIMARY KEY (type, connection, partition, stage));
CREATE TABLE retries (connection TEXT, key TEXT, PRIMARY KEY (connection, key));
CREATE TABLE applied (type TEXT, partition TEXT, digest TEXT, PRIMARY KEY (type, partition));
CREATE TABLE retired (connection TEXT PRIMARY KEY, at TEXT);
INSERT INTO outcomes VALUES ('t', 'a', '2026-01-02T03:04:05+00:00', NULL);
INSERT INTO outcomes VALUES ('t', 'b', '2026-01-02T03:04:05+00:00', '2026-01-02T03:04:05+00:00');
INSERT INTO faults VALUES ('t', 'a', 'a', 'documents', 'source', 'the folder is gone');
INSERT INTO retries VALUES ('a', 'x.md');
INSERT INTO applied VALUES ('t', 'a', 'digest');
INSERT INTO retired VALUES ('c', '2026-01-02T03:04:05.678901+00:00');
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "state.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(_OLD)
    return path


def hold(old: Path, pid: int, started: float, expires_at: float) -> None:
    holder = {"host": platform.node(), "pid": pid, "started": started, "purpose": "the nightly run"}
    with closing(sqlite3.connect(old)) as database, database:
        database.execute("INSERT INTO leases VALUES ('t/documents/a', 3, ?, ?)", (json.dumps(holder), expires_at))


def test_what_was_known_is_taken_over_once_and_told(old: Path, ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    hold(old, 1, 1.0, time.time() + 3_600)  # a process that is gone, whose lease would not have run out yet
    with caplog.at_level(logging.WARNING):
        assert take_over(old, ledger)
        assert not take_over(old, ledger)
    (record,) = caplog.records
    assert f"{old} was taken over" in record.getMessage()
    found = ledger.outcomes.outcome("t", "a")
    assert (found.last_run, found.last_success) == ("2026-01-02T03:04:05+00:00", None)
    assert (found.error_class, found.error) == ("source", "the folder is gone")
    assert ledger.outcomes.outcome("t", "b").last_success == "2026-01-02T03:04:05+00:00"
    assert ledger.retries.of("a") == {"x.md"}
    assert ledger.listings.applied("t", "a") == "digest"
    assert ledger.retirements.all() == {"c"}
    assert not old.exists()


def test_what_the_ledger_knows_already_is_newer(old: Path, ledger: Ledger) -> None:
    ledger.listings.apply("t", "a", "newer")
    take_over(old, ledger)
    assert ledger.listings.applied("t", "a") == "newer"
    assert ledger.retries.of("a") == {"x.md"}


def test_nothing_is_taken_from_a_version_that_is_at_work(old: Path, ledger: Ledger) -> None:
    hold(old, os.getpid(), psutil.Process().create_time(), time.time() + 3_600)
    with pytest.raises(LeaseHeld, match=r"t/documents/a is in use by the nightly run .* earlier version"):
        take_over(old, ledger)
    assert old.exists()
    assert ledger.retries.of("a") == frozenset()


def test_an_old_file_without_all_tables_is_taken_over(tmp_path: Path, ledger: Ledger) -> None:
    old = tmp_path / "state.sqlite"
    with closing(sqlite3.connect(old)) as database, database:
        database.execute("CREATE TABLE retries (connection TEXT, key TEXT, PRIMARY KEY (connection, key))")
        database.execute("INSERT INTO retries VALUES ('a', 'x.md')")
    assert take_over(old, ledger)
    assert ledger.retries.of("a") == {"x.md"}
