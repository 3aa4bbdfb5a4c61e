"""Opening a ledger: made and migrated once, by whoever comes first; cheap afterwards; a sentence when it can't be."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import kb_pipeline
from kb_pipeline.ledger import migrate, schema
from kb_pipeline.ledger.errors import LedgerUnavailable
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.ledger.revision import HEAD
from kb_pipeline_tests.ledger.conftest import OpenLedger

_OPENS = """
import sys
from kb_pipeline.ledger.ledger import Ledger
ledger = Ledger(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with ledger.leases.acquire(sys.argv[2], "a test") as lease:
    print(lease.token, "alembic" in sys.modules)
"""


def opener(url: str, name: str) -> subprocess.Popen[str]:
    """A process that opens the ledger, and takes a lease, when it gets a line."""
    return subprocess.Popen(
        [sys.executable, "-c", _OPENS, url, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(kb_pipeline.__file__).parents[1],
    )


def test_the_head_is_the_last_migration() -> None:
    assert ScriptDirectory(str(migrate._MIGRATIONS)).get_heads() == [HEAD]


def test_the_migrations_make_what_the_code_sees(ledger: Ledger) -> None:
    with ledger.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_processes_that_open_an_empty_ledger_at_once_do_not_collide(ledger_url: str) -> None:
    processes = [opener(ledger_url, f"lease {number}") for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (output.split()[:1], process.returncode) == (["1"], 0), errors


def test_an_open_of_a_ledger_that_is_up_to_date_is_cheap(ledger: Ledger, ledger_url: str) -> None:
    """Without alembic, whose import alone takes longer than everything else; one small query."""
    ledger.retirements.all()
    output, errors = opener(ledger_url, "a").communicate("go\n", timeout=60)
    assert output.split() == ["ready", "1", "False"], errors


def test_the_check_of_the_revision_costs_a_millisecond(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    took = []
    for _ in range(20):
        with Ledger(url) as ledger:
            begin = time.perf_counter()
            with ledger.database.read():
                took.append(time.perf_counter() - begin)
    assert min(took) < 0.005  # a fifth of that on a quiet machine


def test_a_ledger_of_a_newer_version_is_left_alone(open_ledger: OpenLedger) -> None:
    first = open_ledger()
    with first.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    second = open_ledger()
    with pytest.raises(LedgerUnavailable, match=r"newer version of kb_pipeline \(revision 9999"):
        second.retirements.all()
    first.close()
    with pytest.raises(LedgerUnavailable):
        first.retirements.all()


def test_a_migration_that_fails_half_way_leaves_nothing(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "upgrade", _half_way)
    with Ledger(ledger_url) as ledger, pytest.raises(RuntimeError, match="the machine went down"):
        ledger.retirements.all()
    monkeypatch.undo()
    with Ledger(ledger_url) as ledger:
        ledger.retirements.retire("a")
        assert ledger.retirements.all() == {"a"}


def _half_way(config: object, revision: str) -> None:
    connection = config.attributes["connection"]  # type: ignore[attr-defined]
    connection.exec_driver_sql("CREATE TABLE leases (name TEXT)")
    raise RuntimeError("the machine went down")


def test_a_ledger_that_vanished_under_a_process_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "ledger.sqlite"
    with Ledger(f"sqlite:///{path}") as ledger, Ledger(f"sqlite:///{path}") as another:
        ledger.retirements.retire("a")
        for each in path.parent.iterdir():
            each.unlink()
        path.parent.rmdir()
        assert ledger.retirements.all() == frozenset()
        ledger.retirements.retire("b")
        assert another.retirements.all() == {"b"}


def test_a_reader_does_not_wait_for_a_writer(open_ledger: OpenLedger) -> None:
    ledger, another = open_ledger(), open_ledger()
    ledger.retirements.retire("a")
    with ledger.database.write() as connection:
        connection.execute(schema.retirements.delete())
        assert another.retirements.all() == {"a"}
    assert another.retirements.all() == frozenset()


def test_a_server_that_does_not_answer_is_told_without_the_password() -> None:
    with Ledger("postgresql://kb:wordpass@127.0.0.1:9/kb") as ledger, pytest.raises(LedgerUnavailable) as error:
        ledger.retirements.all()
    assert "127.0.0.1" in str(error.value)
    assert "wordpass" not in str(error.value)


def test_a_driver_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with Ledger("postgresql://h/kb") as ledger, pytest.raises(LedgerUnavailable, match=r"kb_pipeline\[postgres\]"):
        ledger.retirements.all()
