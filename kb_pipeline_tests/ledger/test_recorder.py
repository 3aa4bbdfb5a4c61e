"""Progress is recorded as it goes, and never at the cost of the work."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

import kb_pipeline
from kb_pipeline.ledger.errors import LedgerUnavailable
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.ledger.progress import ProgressEvents
from kb_pipeline.ledger.recorder import RecordedProgress
from kb_pipeline.monitoring.progress import ProgressEvent

_DIES = """
import sys
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.ledger.recorder import RecordedProgress
ledger = Ledger(sys.argv[1])
progress = RecordedProgress(lambda: ledger.progress, interval=3600.0)
progress.update("r", "a", "documents", 7, 7)
"""


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.02)


def counts(ledger: Ledger, run: str = "r") -> dict[tuple[str, str], tuple[int, int | None]]:
    return {(each.partition, each.stage): (each.done, each.total) for each in ledger.progress.latest(run)}


def test_it_can_be_followed_while_it_goes_on(ledger: Ledger) -> None:
    progress = RecordedProgress(lambda: ledger.progress, interval=0.02)
    for done in (3, 5):
        progress.update("r", "a", "documents", done, 10, 1_000 * done)
        wait_until(lambda done=done: counts(ledger).get(("a", "documents")) == (done, 10))  # type: ignore[misc]
    (event,) = ledger.progress.latest("r")
    assert event.bytes == 5_000
    assert abs(event.at - time.time()) < 60


def test_many_updates_are_few_events_and_the_last_is_among_them(ledger: Ledger) -> None:
    progress = RecordedProgress(lambda: ledger.progress, interval=0.2)
    begin = time.monotonic()
    done = 0
    while time.monotonic() < begin + 1.0:
        done += 1
        for partition in ("a", "b"):
            progress.update("r", partition, "documents", done, None)
    progress.flush()
    events = ledger.progress.since(0)
    took = time.monotonic() - begin
    for partition in ("a", "b"):
        mine = [each for each in events if each.partition == partition]
        assert mine[-1].done == done
        assert [each.done for each in mine] == sorted(each.done for each in mine)
        assert len(mine) <= took / 0.2 + 2


def test_an_update_takes_no_time_whatever_the_ledger_does(tmp_path: Path) -> None:
    """The work calls it for every item. Microseconds, also while another process keeps the ledger locked."""
    with Ledger.of_file(tmp_path / "ledger.sqlite") as ledger, Ledger.of_file(tmp_path / "ledger.sqlite") as other:
        progress = RecordedProgress(lambda: ledger.progress, interval=0.01)
        ledger.progress.last_id()
        with other.database.write():
            begin = time.process_time(), time.perf_counter()
            for done in range(20_000):
                progress.update("r", "a", "documents", done, 20_000)
            took = time.process_time() - begin[0]
            assert time.perf_counter() - begin[1] < 30.0, "it waited for the lock"
        assert took / 20_000 < 50e-6
        progress.flush()
        assert counts(ledger) == {("a", "documents"): (19_999, 20_000)}


def test_what_is_noted_when_the_process_ends_is_written(ledger: Ledger, ledger_url: str) -> None:
    subprocess.run([sys.executable, "-c", _DIES, ledger_url], check=True, cwd=Path(kb_pipeline.__file__).parents[1])
    assert counts(ledger) == {("a", "documents"): (7, 7)}


def test_one_that_is_thrown_away_writes_nothing_where_that_happens(ledger: Ledger) -> None:
    """It may happen anywhere, in the middle of a transaction too: that thread would wait for itself."""
    writers: list[threading.Thread] = []

    def events() -> ProgressEvents:
        writers.append(threading.current_thread())
        return ledger.progress

    progress = RecordedProgress(events, interval=0.05)
    progress.update("r", "a", "documents", 1, 2)
    with ledger.database.write():
        del progress
        gc.collect()
    wait_until(lambda: counts(ledger) == {("a", "documents"): (1, 2)})
    assert threading.current_thread() not in writers


@pytest.mark.parametrize("error", [LedgerUnavailable("the server is gone"), OperationalError("INSERT", {}, OSError("full"))])
def test_a_ledger_that_cannot_be_written_is_told_once_and_costs_nothing_else(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise error

    progress = RecordedProgress(refuse, interval=3_600.0)  # type: ignore[arg-type]
    for done in range(3):
        progress.update("r", "a", "documents", done, 3)
        progress.flush()
    assert caplog.text.count("progress can't be recorded") == 1


def test_no_thread_stays_when_nothing_happens(ledger: Ledger) -> None:
    progress = RecordedProgress(lambda: ledger.progress, interval=0.02)
    before = set(threading.enumerate())
    for _ in range(2):
        progress.update("r", "a", "documents", 1, 1)
        wait_until(lambda: set(threading.enumerate()) <= before)
    assert [each.done for each in ledger.progress.since(0)] == [1, 1]


def event(run: str, done: int, at: float, partition: str = "a") -> ProgressEvent:
    return ProgressEvent(run, partition, "documents", done, 10, None, at)


def test_events_after_one_are_found_in_order_from_all_runs(ledger: Ledger) -> None:
    assert ledger.progress.last_id() == 0
    ledger.progress.record([event("r", 1, 1.0), event("s", 2, 1.0)])
    last = ledger.progress.last_id()
    ledger.progress.record([event("r", 3, 1.0)])
    assert [each.done for each in ledger.progress.since(0)] == [1, 2, 3]
    assert [each.done for each in ledger.progress.since(last)] == [3]


def test_no_event_turns_up_behind_one_that_was_seen(ledger: Ledger, ledger_url: str) -> None:
    """A reader that goes on from the last id it saw would miss it."""
    seen: list[int] = []
    stop = threading.Event()

    def write(name: str) -> None:
        with Ledger(ledger_url) as mine:
            for done in range(40):
                mine.progress.record([event(name, done, 1.0), event(name, done, 1.0, "b")])

    def read() -> None:
        while not stop.is_set():
            seen.extend(each.id for each in ledger.progress.since(seen[-1] if seen else 0))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(name,)) for name in ("r", "s", "t")]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    seen.extend(each.id for each in ledger.progress.since(seen[-1] if seen else 0))
    assert seen == [each.id for each in ledger.progress.since(0)]
    assert len(seen) == 3 * 40 * 2


def test_old_runs_go_and_old_events_are_thinned(ledger: Ledger) -> None:
    now = time.time()
    for run in ("old", "long", "new"):
        ledger.progress.record([event(run, 1, now - 7_200), event(run, 2, now - 7_000), event(run, 5, now - 6_900, "b")])
    ledger.progress.record([event("long", 3, now), event("long", 4, now)])
    ledger.progress.prune(keep=2)
    left = [(each.run, each.partition, each.done) for each in ledger.progress.since(0)]
    assert left == [("long", "b", 5), ("new", "a", 2), ("new", "b", 5), ("long", "a", 3), ("long", "a", 4)]
    ledger.progress.prune(keep=2)
    assert len(ledger.progress.since(0)) == len(left)
