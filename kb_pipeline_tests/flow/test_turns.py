"""Turns: how many work at a time, what those do who can only wait, and that a stop ends all waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from kb_pipeline.flow.turns import Stopped, Turns


def soon(condition: Callable[[], bool]) -> None:
    """Wait for something another thread is about to do."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


def test_only_so_many_work_at_a_time() -> None:
    turns, at_work, most = Turns({"work": 2}), 0, 0
    lock = threading.Lock()

    def work(name: str) -> None:
        nonlocal at_work, most
        with turns.taken(name, "work"):
            with lock:
                at_work += 1
                most = max(most, at_work)
            threading.Event().wait(0.005)
            with lock:
                at_work -= 1

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(work, map(str, range(16))))
    assert most == 2


def test_each_purpose_has_its_own_limit_and_one_without_has_none() -> None:
    turns = Turns({"work": 1})
    with turns.taken("a", "work"), turns.taken("b", "listing"), turns.taken("c", "listing"):
        pass


def test_a_lent_turn_is_anothers_until_it_is_reclaimed() -> None:
    turns = Turns({"work": 1})
    log: list[str] = []
    may_end = threading.Event()

    def other() -> None:
        with turns.taken("other", "work"):
            log.append("other works")
            may_end.wait(30)
            log.append("other ends")

    with turns.taken("silent", "work"):
        thread = threading.Thread(target=other)
        thread.start()
        threading.Event().wait(0.02)
        assert log == []
        turns.lend("silent")
        soon(lambda: log == ["other works"])
        may_end.set()
        turns.reclaim("silent")
        log.append("silent works")
    thread.join()
    assert log == ["other works", "other ends", "silent works"]


def test_lending_and_reclaiming_without_a_turn_do_nothing() -> None:
    turns = Turns({"work": 1})
    turns.lend("nobody")
    turns.reclaim("nobody")
    with turns.taken("somebody", "work"):
        turns.reclaim("somebody")


def test_a_turn_that_ends_while_it_is_lent_is_nobodys() -> None:
    turns = Turns({"work": 1})
    with turns.taken("a", "work"):
        turns.lend("a")
    with turns.taken("b", "work"):
        turns.reclaim("a")  # would wait for ever, if "a" still had something to take back


def test_a_stop_ends_every_kind_of_waiting_at_once() -> None:
    turns = Turns({"work": 1})
    started = threading.Barrier(4)
    outcomes: list[str] = []

    def waits(what: Callable[[], None]) -> None:
        started.wait()
        try:
            what()
        except Stopped:
            outcomes.append("stopped")

    def take() -> None:
        with turns.taken("b", "work"):
            outcomes.append("took a turn")

    with turns.taken("a", "work"):
        began = time.monotonic()
        threads = [
            threading.Thread(target=waits, args=(each,))
            for each in (take, lambda: turns.wait(600), lambda: turns.wait(600, lambda: False))
        ]
        for thread in threads:
            thread.start()
        started.wait()
        turns.stop()
        for thread in threads:
            thread.join()
    assert outcomes == ["stopped"] * 3
    assert time.monotonic() - began < 60
    with pytest.raises(Stopped):
        turns.wait(0)


def test_waiting_ends_when_what_it_waits_for_is_there() -> None:
    turns, there = Turns(), threading.Event()
    thread = threading.Timer(0.02, lambda: (there.set(), turns.notify()))
    thread.start()
    turns.wait(600, there.is_set)
    assert there.is_set()
    thread.join()
    turns.wait(0.01)


def test_one_may_wait_until_all_that_are_left_can_only_wait() -> None:
    turns = Turns({"work": 2})
    unfinished = {"good", "silent"}
    ready, go_on = threading.Event(), threading.Event()

    def good() -> None:
        with turns.taken("good", "work"):
            ready.set()
            go_on.wait(30)
        unfinished.discard("good")
        turns.notify()

    with turns.taken("silent", "work"):
        turns.lend("silent")
        thread = threading.Thread(target=good)
        thread.start()
        ready.wait(30)
        threading.Timer(0.02, go_on.set).start()
        turns.until(lambda lent: lent >= unfinished)
        assert unfinished == {"silent"}
        assert go_on.is_set()
        thread.join()
