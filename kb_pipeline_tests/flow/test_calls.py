"""Calls that may never return: what they bring, and what is left behind of them."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TypeVar

import pytest

from kb_pipeline.flow import calls
from kb_pipeline.flow.calls import Beat, Caller, Silent, TooManyLeft

_names = itertools.count()
T = TypeVar("T")


@pytest.fixture
def name() -> str:
    """A connection that nobody else calls."""
    return f"connection-{next(_names)}"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging calls wait for; opened at the end, so that no thread outlives its test for long."""
    event = threading.Event()
    yield event
    event.set()


def each(caller: Caller, function: Callable[[], Iterator[T]]) -> Iterator[T]:
    """The items of a call, one by one."""
    with closing(caller.batches(function)) as batches:  # type: ignore[type-var]
        for batch in batches:
            yield from batch


def test_a_call_returns_or_raises_what_it_would_without(name: str) -> None:
    caller = Caller(name, 5, 2)
    assert caller.call(lambda beat: 42) == 42
    with pytest.raises(ZeroDivisionError):
        caller.call(lambda beat: 1 // 0)


def test_calls_one_after_the_other_take_one_thread(name: str) -> None:
    caller = Caller(name, 5, 2)
    threads = {caller.call(lambda beat: threading.get_ident()) for _ in range(20)}
    assert len(threads) <= 2, "the last call's thread may not be free yet"
    assert threading.get_ident() not in threads


def test_a_silent_call_is_left_behind_and_only_so_many(name: str, gate: threading.Event) -> None:
    caller = Caller(name, 0.02, 2)
    for _ in range(2):
        with pytest.raises(Silent, match=r"no answer for 0\.02 s"):
            caller.call(lambda beat: gate.wait(30))
    with pytest.raises(TooManyLeft, match="2 calls"):
        caller.call(lambda beat: 1)
    with pytest.raises(TooManyLeft):
        next(each(Caller(name, 1, 2), lambda: iter([1])))
    assert Caller(f"{name}-other", 1, 2).call(lambda beat: 1) == 1, "another connection is none the worse"


def test_calls_that_return_after_all_make_room_again(name: str, gate: threading.Event) -> None:
    caller = Caller(name, 0.02, 1)
    returned = threading.Event()

    def hang(beat: Beat) -> None:
        gate.wait(30)
        returned.set()

    with pytest.raises(Silent):
        caller.call(hang)
    gate.set()
    assert returned.wait(30)
    for _ in range(1_000):
        if not calls._left.of(name):
            break
        threading.Event().wait(0.01)
    assert caller.call(lambda beat: 7) == 7


def test_a_call_that_gets_on_may_take_as_long_as_it_likes(name: str) -> None:
    def slow(beat: Beat) -> int:
        for _ in range(10):
            threading.Event().wait(0.03)
            beat()
        return 1

    assert Caller(name, 0.2, 1).call(slow) == 1


def test_whoever_waits_may_lose_interest(name: str, gate: threading.Event) -> None:
    seen: list[float] = []

    def look(silence: float) -> None:
        seen.append(silence)
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        Caller(name, 30, 1, look).call(lambda beat: gate.wait(30))
    assert len(seen) == 1
    assert seen[0] < 5


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 3_000])
def test_items_come_in_order_and_all(name: str, size: int) -> None:
    assert list(each(Caller(name, 5, 2), lambda: iter(range(size)))) == list(range(size))


def test_an_error_comes_after_the_items_before_it(name: str) -> None:
    def broken() -> Iterator[int]:
        yield from range(1_000)
        raise KeyError("page 2")

    items = each(Caller(name, 5, 2), broken)
    assert [next(items) for _ in range(1_000)] == list(range(1_000))
    with pytest.raises(KeyError, match="page 2"):
        next(items)


def test_the_first_item_comes_before_the_second_is_there(name: str, gate: threading.Event) -> None:
    def slow() -> Iterator[int]:
        yield 1
        gate.wait(30)
        yield 2

    items = each(Caller(name, 30, 2), slow)
    assert next(items) == 1
    gate.set()
    assert list(items) == [2]


def test_a_listing_that_falls_silent_is_left_behind(name: str, gate: threading.Event) -> None:
    def silent() -> Iterator[int]:
        yield 1
        gate.wait(30)

    items = each(Caller(name, 0.05, 2), silent)
    assert next(items) == 1
    with pytest.raises(Silent):
        next(items)
    assert calls._left.of(name) == 1


def test_whoever_takes_their_time_is_not_taken_for_a_silent_source(name: str) -> None:
    """The source has more than may be ahead, and waits for us."""
    items = each(Caller(name, 0.1, 2), lambda: iter(range(5_000)))
    assert next(items) == 0
    threading.Event().wait(0.4)
    assert sum(1 for _ in items) == 4_999


def test_a_listing_that_nobody_wants_any_more_ends(name: str) -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    items = each(Caller(name, 30, 1), endless)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert closed.wait(30)


def test_a_process_that_was_forked_off_has_threads_of_its_own(name: str) -> None:
    assert Caller(name, 5, 1).call(lambda beat: 1) == 1
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if Caller(name, 5, 1).call(lambda beat: 1) == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
