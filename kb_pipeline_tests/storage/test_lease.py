"""Two writers on one partition can't interleave, whatever happens to one of them."""

from __future__ import annotations

import os
import platform
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kb_pipeline
from kb_pipeline.storage.lease import LeaseHeld, LeaseLost, LeaseStore, process_alive
from kb_pipeline_tests.storage import stopped_writer

NAME = "t/documents/a"
TTL = 0.5


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.02)


@contextmanager
def writer(database: Path, ttl: float) -> Iterator[tuple[subprocess.Popen[str], Path, Path]]:
    """A process that holds the lease; with the file it publishes and the file that lets it go on."""
    target, go_on = database.parent / "published", database.parent / "go on"
    process = subprocess.Popen(
        [sys.executable, "-m", stopped_writer.__name__, str(database), str(ttl), str(target), str(go_on)],
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


def is_free(database: Path) -> bool:
    """Whether the lease could be had; looks without taking it."""
    with sqlite3.connect(database) as connection:
        (expires_at,) = connection.execute("SELECT expires_at FROM leases WHERE name = ?", (NAME,)).fetchone()
    connection.close()
    return bool(expires_at < time.time())


def test_a_held_lease_is_refused_naming_holder_process_and_host(database: Path) -> None:
    store = LeaseStore(database)
    with store.acquire(NAME, "the nightly run"), pytest.raises(LeaseHeld) as refused:
        LeaseStore(database).acquire(NAME, "another run")
    message = str(refused.value)
    for part in (NAME, "the nightly run", str(os.getpid()), platform.node()):
        assert part in message


def test_leases_of_other_names_are_independent(database: Path) -> None:
    store = LeaseStore(database)
    with store.acquire(NAME, "one") as one, store.acquire("t/documents/b", "two") as two:
        assert one.publish(lambda: 1) + two.publish(lambda: 2) == 3


def test_tokens_grow_and_a_released_lease_is_free(database: Path) -> None:
    store = LeaseStore(database)
    tokens = []
    for _ in range(3):
        with store.acquire(NAME, "a run") as lease:
            tokens.append(lease.token)
    assert tokens == sorted(set(tokens))


def test_nothing_is_published_after_the_release(database: Path) -> None:
    with LeaseStore(database).acquire(NAME, "a run") as lease:
        pass
    done: list[str] = []
    with pytest.raises(LeaseLost, match="nothing was published"):
        lease.publish(lambda: done.append("published"))
    assert done == []


def test_an_expired_lease_is_lost_though_nobody_took_it(database: Path) -> None:
    store = LeaseStore(database, ttl=0.0)
    lease = store.acquire(NAME, "a run")
    with pytest.raises(LeaseLost):
        lease.publish(lambda: None)
    assert store.renew(NAME, lease.token) is False
    lease.release()


def test_one_whose_lease_was_taken_over_neither_publishes_nor_gives_it_back(database: Path) -> None:
    late = LeaseStore(database, ttl=0.0).acquire(NAME, "the late one")
    with LeaseStore(database).acquire(NAME, "the next one") as mine:
        with pytest.raises(LeaseLost):
            late.publish(lambda: None)
        late.release()
        assert mine.publish(lambda: "published") == "published"
        with pytest.raises(LeaseHeld, match="the next one"):
            LeaseStore(database).acquire(NAME, "a third one")


def test_the_heartbeat_keeps_a_lease_for_longer_than_its_ttl(database: Path) -> None:
    store = LeaseStore(database, ttl=TTL)
    with store.acquire(NAME, "a long run") as lease:
        begin = time.time()
        wait_until(lambda: time.time() > begin + 3 * TTL)
        assert lease.publish(lambda: "published") == "published"


@pytest.fixture
def unwritable(database: Path) -> Callable[[], None]:
    """Makes the lease database refuse every change, as on a full disk."""

    def refuse() -> None:
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TRIGGER full BEFORE UPDATE ON leases BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
        connection.close()

    return refuse


def test_a_lease_that_cannot_be_given_back_runs_out_and_the_error_in_the_body_stands(
    database: Path, unwritable: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        with LeaseStore(database, ttl=TTL).acquire(NAME, "a run"):
            unwritable()
            raise OSError("the error of the body")

    with pytest.raises(OSError, match="the error of the body"):
        work()
    assert f"the lease on {NAME} runs out" in caplog.text
    assert "disk is full" in caplog.text
    wait_until(lambda: is_free(database))


def test_a_heartbeat_that_cannot_write_says_so_and_goes_on_trying(
    database: Path, unwritable: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    lease = LeaseStore(database, ttl=3 * TTL).acquire(NAME, "a long run")
    unwritable()
    wait_until(lambda: caplog.text.count("could not be renewed") >= 2)
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TRIGGER full")
    connection.close()
    lease.release()
    assert is_free(database)


def test_a_waiting_writer_gets_the_lease_when_it_is_given_back(database: Path) -> None:
    store = LeaseStore(database)
    first = store.acquire(NAME, "first")
    tokens: list[int] = []

    def wait() -> None:
        with store.acquire(NAME, "second", wait=30.0) as second:
            tokens.append(second.token)

    waiting = threading.Thread(target=wait)
    waiting.start()
    first.release()
    waiting.join(30.0)
    assert tokens == [first.token + 1]


def test_the_lease_of_a_dead_process_is_taken_over_at_once(database: Path) -> None:
    with writer(database, 3_600.0) as (process, target, _):
        with pytest.raises(LeaseHeld, match="the stopped writer"):
            LeaseStore(database).acquire(NAME, "the next run")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with LeaseStore(database).acquire(NAME, "the next run") as lease:
            assert lease.publish(lambda: "published") == "published"
        assert not target.exists()


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_writer_that_was_stopped_past_its_lease_publishes_nothing_when_it_wakes(database: Path, taken_over: bool) -> None:
    with writer(database, TTL) as (process, target, go_on):
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_free(database))
        if taken_over:
            with LeaseStore(database).acquire(NAME, "the next run") as lease:
                lease.publish(lambda: target.write_text("from the next run"))
                go_on.touch()
                process.send_signal(signal.SIGCONT)
                output, _ = process.communicate(timeout=30)
                assert lease.publish(lambda: "still mine") == "still mine"
        else:
            go_on.touch()
            process.send_signal(signal.SIGCONT)
            output, _ = process.communicate(timeout=30)
        assert process.returncode == stopped_writer.LOST
        assert "was lost" in output
        assert target.exists() == taken_over
        assert not taken_over or target.read_text() == "from the next run"


def test_nobody_takes_the_lease_between_the_check_and_the_rename(database: Path) -> None:
    store = LeaseStore(database, ttl=TTL)
    order: list[str] = []

    def take_over() -> None:
        with LeaseStore(database).acquire(NAME, "the next run", wait=30.0):
            order.append("taken over")

    with store.acquire(NAME, "a run") as lease:
        thread = threading.Thread(target=take_over)

        def slow_rename() -> None:
            thread.start()
            begin = time.time()
            wait_until(lambda: time.time() > begin + 2 * TTL)
            order.append("renamed")

        lease.publish(slow_rename)
    thread.join(30.0)
    assert order == ["renamed", "taken over"]


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    assert process_alive(os.getpid())
    assert not process_alive(os.getpid(), started=1.0)
