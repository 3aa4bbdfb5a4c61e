"""Two writers on one partition can't interleave, whatever happens to one of them; and nobody takes another's lease."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

import kb_pipeline
from kb_pipeline.ledger.errors import LeaseHeld, LeaseLost
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.ledger.processes import process_alive
from kb_pipeline.ledger.schema import leases
from kb_pipeline_tests.ledger import stopped_writer
from kb_pipeline_tests.ledger.conftest import OpenLedger

NAME = "t/documents/a"
TTL = 0.7
"""Seconds: short, and yet long enough for a heartbeat on a busy machine."""


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.02)


def pass_time(seconds: float) -> None:
    begin = time.time()
    wait_until(lambda: time.time() > begin + seconds)


@contextmanager
def writer(url: str, folder: Path, ttl: float) -> Iterator[tuple[subprocess.Popen[str], Path, Path]]:
    """A process that holds the lease; with the file it publishes and the file that lets it go on."""
    target, go_on = folder / "published", folder / "go on"
    process = subprocess.Popen(
        [sys.executable, "-m", stopped_writer.__name__, url, str(ttl), str(target), str(go_on)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(kb_pipeline.__file__).parents[1],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process, target, go_on
    finally:
        process.kill()
        process.communicate()


def is_free(ledger: Ledger) -> bool:
    """Whether the lease could be had; looks without taking it."""
    with ledger.database.read() as connection:
        expires_at = connection.execute(sa.select(leases.c.expires_at).where(leases.c.name == NAME)).scalar_one()
        return bool(expires_at < ledger.database.now(connection))


def test_a_held_lease_is_refused_naming_holder_process_and_host(open_ledger: OpenLedger) -> None:
    with open_ledger().leases.acquire(NAME, "the nightly run"), pytest.raises(LeaseHeld) as refused:
        open_ledger().leases.acquire(NAME, "another run")
    message = str(refused.value)
    for part in (NAME, "the nightly run", str(os.getpid()), platform.node()):
        assert part in message


def test_leases_of_other_names_are_independent(ledger: Ledger) -> None:
    store = ledger.leases
    with store.acquire(NAME, "one") as one, store.acquire("t/documents/b", "two") as two:
        assert one.commit(lambda _: 1) + two.commit(lambda _: 2) == 3


def test_tokens_grow_and_a_released_lease_is_free(ledger: Ledger) -> None:
    tokens = []
    for _ in range(3):
        with ledger.leases.acquire(NAME, "a run") as lease:
            tokens.append(lease.token)
    assert tokens == sorted(set(tokens))


def test_one_of_many_who_ask_at_once_gets_the_lease(open_ledger: OpenLedger) -> None:
    """Also the first time, when there is no row to lock yet."""
    ledgers = [open_ledger() for _ in range(6)]
    ledgers[0].leases.acquire("another", "opens the database").release()
    gate = threading.Barrier(len(ledgers))
    got: list[int] = []
    held: list[str] = []

    def ask(each: Ledger) -> None:
        gate.wait()
        try:
            got.append(each.leases.acquire(NAME, "a run").token)
        except LeaseHeld as error:
            held.append(str(error))

    threads = [threading.Thread(target=ask, args=(each,)) for each in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [1]
    assert len(held) == len(ledgers) - 1


def test_nothing_is_published_after_the_release(ledger: Ledger) -> None:
    with ledger.leases.acquire(NAME, "a run") as lease:
        pass
    done: list[str] = []
    with pytest.raises(LeaseLost, match="nothing was published"):
        lease.commit(lambda _: done.append("published"))
    assert done == []


def test_what_fails_within_the_transaction_leaves_nothing_and_the_lease_held(ledger: Ledger) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.execute(leases.insert().values(name="half", token=1, expires_at=0.0))
        raise OSError("in the middle")

    with ledger.leases.acquire(NAME, "a run") as lease:
        with pytest.raises(OSError, match="in the middle"):
            lease.commit(fail)
        assert lease.commit(lambda connection: connection.scalars(sa.select(leases.c.name)).all()) == [NAME]


def test_an_expired_lease_is_lost_though_nobody_took_it(open_ledger: OpenLedger) -> None:
    store = open_ledger(lease_ttl=0.0).leases
    lease = store.acquire(NAME, "a run")
    with pytest.raises(LeaseLost):
        lease.commit(lambda _: None)
    assert store.renew(NAME, lease.token) is False
    lease.release()


def test_one_whose_lease_was_taken_over_neither_publishes_nor_gives_it_back(open_ledger: OpenLedger) -> None:
    late = open_ledger(lease_ttl=0.0).leases.acquire(NAME, "the late one")
    with open_ledger().leases.acquire(NAME, "the next one") as mine:
        with pytest.raises(LeaseLost):
            late.commit(lambda _: None)
        late.release()
        assert mine.commit(lambda _: "published") == "published"
        with pytest.raises(LeaseHeld, match="the next one"):
            open_ledger().leases.acquire(NAME, "a third one")


def test_the_heartbeat_keeps_a_lease_for_longer_than_its_ttl(open_ledger: OpenLedger) -> None:
    with open_ledger(lease_ttl=TTL).leases.acquire(NAME, "a long run") as lease:
        pass_time(3 * TTL)
        assert lease.commit(lambda _: "published") == "published"


@pytest.fixture
def unwritable(ledger: Ledger) -> Callable[[], None]:
    """Makes the leases refuse every change, as on a full disk, until ``mend``."""

    def refuse() -> None:
        with ledger.database.write() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql(
                    "CREATE TRIGGER full BEFORE UPDATE ON leases BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
                )
            else:
                connection.exec_driver_sql(
                    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
                    "AS $$ BEGIN RAISE EXCEPTION 'disk is full'; END $$"
                )
                connection.exec_driver_sql('CREATE TRIGGER "full" BEFORE UPDATE ON leases EXECUTE FUNCTION refuse()')

    return refuse


def mend(ledger: Ledger) -> None:
    with ledger.database.write() as connection:
        connection.exec_driver_sql('DROP TRIGGER "full"' + (" ON leases" if connection.dialect.name != "sqlite" else ""))


def test_a_lease_that_cannot_be_given_back_runs_out_and_the_error_in_the_body_stands(
    open_ledger: OpenLedger, unwritable: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        with open_ledger(lease_ttl=TTL).leases.acquire(NAME, "a run"):
            unwritable()
            raise OSError("the error of the body")

    with pytest.raises(OSError, match="the error of the body"):
        work()
    assert f"the lease on {NAME} runs out" in caplog.text
    assert "disk is full" in caplog.text
    wait_until(lambda: is_free(open_ledger()))


def test_a_heartbeat_that_cannot_write_says_so_and_goes_on_trying(
    open_ledger: OpenLedger, unwritable: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    lease = open_ledger(lease_ttl=3 * TTL).leases.acquire(NAME, "a long run")
    unwritable()
    wait_until(lambda: caplog.text.count("could not be renewed") >= 2)
    mend(open_ledger())
    lease.release()
    assert is_free(open_ledger())


def test_a_waiting_writer_gets_the_lease_when_it_is_given_back(ledger: Ledger) -> None:
    first = ledger.leases.acquire(NAME, "first")
    tokens: list[int] = []

    def wait() -> None:
        with ledger.leases.acquire(NAME, "second", wait=30.0) as second:
            tokens.append(second.token)

    waiting = threading.Thread(target=wait)
    waiting.start()
    first.release()
    waiting.join(30.0)
    assert tokens == [first.token + 1]


def test_the_lease_of_a_dead_process_is_taken_over_at_once(ledger: Ledger, ledger_url: str, tmp_path: Path) -> None:
    with writer(ledger_url, tmp_path, 3_600.0) as (process, target, _):
        with pytest.raises(LeaseHeld, match="the stopped writer"):
            ledger.leases.acquire(NAME, "the next run")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with ledger.leases.acquire(NAME, "the next run") as lease:
            assert lease.commit(lambda _: "published") == "published"
        assert not target.exists()


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_writer_that_was_stopped_past_its_lease_publishes_nothing_when_it_wakes(
    ledger: Ledger, ledger_url: str, tmp_path: Path, taken_over: bool
) -> None:
    with writer(ledger_url, tmp_path, TTL) as (process, target, go_on):
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_free(ledger))
        if taken_over:
            with ledger.leases.acquire(NAME, "the next run") as lease:
                lease.commit(lambda _: target.write_text("from the next run"))
                go_on.touch()
                process.send_signal(signal.SIGCONT)
                output, _ = process.communicate(timeout=30)
                assert lease.commit(lambda _: "still mine") == "still mine"
        else:
            go_on.touch()
            process.send_signal(signal.SIGCONT)
            output, _ = process.communicate(timeout=30)
        assert process.returncode == stopped_writer.LOST
        assert "was lost" in output
        assert target.exists() == taken_over
        assert not taken_over or target.read_text() == "from the next run"


def test_nobody_takes_the_lease_between_the_check_and_the_rename(open_ledger: OpenLedger) -> None:
    order: list[str] = []

    def take_over() -> None:
        with open_ledger().leases.acquire(NAME, "the next run", wait=30.0):
            order.append("taken over")

    with open_ledger(lease_ttl=TTL).leases.acquire(NAME, "a run") as lease:
        thread = threading.Thread(target=take_over)

        def slow_rename(_: sa.Connection) -> None:
            thread.start()
            pass_time(2 * TTL)
            order.append("renamed")

        lease.commit(slow_rename)
        assert lease.commit(lambda _: "still mine") == "still mine"
    thread.join(30.0)
    assert order == ["renamed", "taken over"]


def test_what_is_written_before_the_transaction_takes_nobody_elses_lease(open_ledger: OpenLedger) -> None:
    """A publication on a slow disk: the bytes take several times as long to write as a lease lives."""
    with (
        open_ledger(lease_ttl=TTL).leases.acquire("t/documents/b", "another run") as other,
        open_ledger(lease_ttl=TTL).leases.acquire(NAME, "a run") as lease,
    ):
        writing = threading.Thread(target=pass_time, args=(4 * TTL,))
        writing.start()
        while writing.is_alive():
            assert other.commit(lambda _: "published") == "published"
            writing.join(TTL / 10)
        assert lease.commit(lambda _: "published") == "published"


def test_on_postgres_a_long_transaction_holds_up_nobody_elses_lease(postgres_ledger_url: str) -> None:
    with Ledger(postgres_ledger_url, lease_ttl=TTL) as ledger, Ledger(postgres_ledger_url, lease_ttl=TTL) as another:
        go_on = threading.Event()
        with ledger.leases.acquire(NAME, "a run") as lease, another.leases.acquire("t/documents/b", "another run") as other:
            thread = threading.Thread(target=lease.commit, args=(lambda _: go_on.wait(30.0),))
            thread.start()
            begin = time.time()
            while time.time() < begin + 3 * TTL:
                assert other.commit(lambda _: "published") == "published"
                another.leases.acquire("t/documents/c", "a third run").release()
                thread.join(TTL / 10)
            go_on.set()
            thread.join(30.0)
            assert lease.commit(lambda _: "still mine") == "still mine"


def test_a_clock_that_goes_wrong_on_one_machine_takes_no_lease_on_postgres(
    postgres_ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(postgres_ledger_url) as ledger, ledger.leases.acquire(NAME, "a run"):
        monkeypatch.setattr(time, "time", lambda: 4e9)
        with pytest.raises(LeaseHeld):
            ledger.leases.acquire(NAME, "a machine that lives in the next century")


def test_waiting_for_the_lock_counts(open_ledger: OpenLedger) -> None:
    """The clock is read once the lease is locked: one that ran out while its holder waited can't be renewed."""
    ledger = open_ledger(lease_ttl=TTL)
    lease = ledger.leases.acquire(NAME, "a run")
    lease._stop.set()  # as if the heartbeat had been late
    lease._thread.join()
    answers: list[bool] = []
    with open_ledger().database.write() as connection:
        connection.execute(leases.update().where(leases.c.name == NAME).values(name=NAME))  # locks it
        late = threading.Thread(target=lambda: answers.append(ledger.leases.renew(NAME, lease.token)))
        late.start()
        pass_time(2 * TTL)
    late.join(30.0)
    assert answers == [False]


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    assert process_alive(os.getpid())
    assert not process_alive(os.getpid(), started=1.0)
