"""The circuit breaker's state machine: by example, and against a plain account of what it promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.flow.breaker import Breaker, Policy, State, admit, failed, succeeded
from kb_pipeline.flow.kinds import Diagnosis, ErrorClass

POLICY = Policy(failures=3, cooldown=10, max_cooldown=80, probe_seconds=60)
TROUBLE = Diagnosis(ErrorClass.NETWORK)
CLOSED = Breaker("drive")


def opened(at: float = 100.0) -> Breaker:
    breaker = CLOSED
    for _ in range(3):
        breaker = failed(breaker, at, POLICY, TROUBLE, "no")
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    two = failed(failed(CLOSED, 1, POLICY, TROUBLE, "a"), 2, POLICY, TROUBLE, "b")
    assert (two.state, two.failures) == (State.CLOSED, 2)
    assert succeeded(two) == CLOSED
    three = failed(two, 3, POLICY, TROUBLE, "c")
    assert three == Breaker("drive", State.OPEN, 3, 3, 13, "network", "c")


def test_it_may_be_opened_at_once() -> None:
    breaker = failed(CLOSED, 5, POLICY, TROUBLE, "nothing came", trip=True)
    assert (breaker.state, breaker.probe_at) == (State.OPEN, 15)


def test_an_open_one_refuses_until_the_probe_is_due_and_lets_one_probe() -> None:
    breaker = opened()
    assert admit(breaker, 109.9, POLICY) == (breaker, "waits")
    probing, admission = admit(breaker, 110, POLICY)
    assert (probing.state, admission) == (State.HALF_OPEN, "probes")
    assert admit(probing, 111, POLICY) == (probing, "waits")
    assert succeeded(probing) == CLOSED


def test_a_probe_that_fails_doubles_the_wait_and_keeps_the_date_of_opening() -> None:
    breaker, waits = opened(), []
    for _ in range(5):
        assert breaker.probe_at is not None
        probing, _ = admit(breaker, breaker.probe_at, POLICY)
        breaker = failed(probing, breaker.probe_at, POLICY, TROUBLE, "still no")
        assert breaker.probe_at is not None
        assert probing.probe_at is not None
        waits.append(breaker.probe_at - (probing.probe_at - POLICY.probe_seconds))
    assert waits == [20, 40, 80, 80, 80]
    assert (breaker.opened_at, breaker.message) == (100, "still no")


def test_a_probe_that_never_reports_is_replaced() -> None:
    lost, _ = admit(opened(), 110, POLICY)
    again, admission = admit(lost, 170, POLICY)
    assert (admission, again.probe_at) == ("probes", 230)


def test_the_sources_own_word_goes_before_the_cooldown_but_not_for_ever() -> None:
    two = replace(CLOSED, failures=2)
    for seconds, expected in ((45.0, 45.0), (1.0, 10.0), (1e9, 86_400.0)):
        asked = failed(two, 0, POLICY, Diagnosis(ErrorClass.RATE_LIMITING, seconds), "patience")
        assert asked.probe_at == expected


def test_failures_of_those_who_asked_before_it_opened_change_no_dates() -> None:
    late = failed(opened(), 105, POLICY, TROUBLE, "late")
    assert late == replace(opened(), message="late")


EVENTS = st.lists(st.tuples(st.sampled_from(["ask", "fail", "succeed"]), st.floats(0, 30)), max_size=60)


@given(EVENTS)
def test_whatever_happens_at_most_one_asks_while_it_is_not_closed(events: list[tuple[str, float]]) -> None:
    now, breaker, probe_began = 0.0, CLOSED, None
    for event, seconds in events:
        now += seconds
        if event == "ask":
            breaker, admission = admit(breaker, now, POLICY)
            assert (admission == "asks") == (breaker.state is State.CLOSED)
            if admission == "probes":
                assert probe_began is None or now - probe_began >= POLICY.probe_seconds, "two probes at a time"
                probe_began = now
        elif event == "fail":
            breaker = failed(breaker, now, POLICY, TROUBLE, "no")
            probe_began = None
            assert breaker.state is not State.HALF_OPEN
        else:
            breaker, probe_began = succeeded(breaker), None
            assert breaker == CLOSED
        assert (breaker.state is State.CLOSED) == (breaker.opened_at is None) == (breaker.probe_at is None)
        assert breaker.state is not State.CLOSED or breaker.failures < POLICY.failures
        if breaker.state is State.OPEN:
            assert breaker.probe_at is not None
            assert breaker.probe_at - now <= POLICY.max_cooldown + 1e-6


@pytest.mark.parametrize("failures", [10, 10_000])
def test_a_long_row_of_failures_overflows_nothing(failures: int) -> None:
    breaker = failed(replace(opened(), state=State.HALF_OPEN, failures=failures), 0, POLICY, TROUBLE, "no")
    assert breaker.probe_at == 80
