"""Pointers, breakers, retries, applied listings, retirements, progress: small facts that several processes agree on."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from kb_pipeline.flow.breaker import Breaker, State
from kb_pipeline.ledger.errors import LeaseLost
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.ledger.pointers import Pointer
from kb_pipeline.monitoring.progress import ProgressEvent
from kb_pipeline_tests.ledger.conftest import OpenLedger

DOCUMENTS = Pointer("local_directory/documents", "handbook", "f1", "", "r1", 3, 1.5)


def test_a_pointer_is_what_was_moved_last(ledger: Ledger) -> None:
    assert ledger.pointers.get(DOCUMENTS.asset, DOCUMENTS.partition) is None
    newer = replace(DOCUMENTS, fingerprint="f2", link="f1", rows=10_000_000_000)
    with ledger.leases.acquire("t", "a run") as lease:
        for each in (DOCUMENTS, newer):
            ledger.pointers.move(lease, each)
            assert ledger.pointers.get(DOCUMENTS.asset, DOCUMENTS.partition) == each
        other = replace(DOCUMENTS, asset="local_directory/chunks")
        ledger.pointers.move(lease, other)
        assert ledger.pointers.all() == [other, newer]
        assert ledger.pointers.all("local_directory/documents") == [newer]
        ledger.pointers.drop(lease, newer.asset, newer.partition)
        assert ledger.pointers.all() == [other]


def test_a_lost_lease_moves_and_drops_no_pointer(ledger: Ledger) -> None:
    with ledger.leases.acquire("t", "a run") as lease:
        ledger.pointers.move(lease, DOCUMENTS)
    with pytest.raises(LeaseLost):
        ledger.pointers.move(lease, replace(DOCUMENTS, fingerprint="late"))
    with pytest.raises(LeaseLost):
        ledger.pointers.drop(lease, DOCUMENTS.asset, DOCUMENTS.partition)
    assert ledger.pointers.all() == [DOCUMENTS]


def test_what_was_current_is_known_until_its_file_is_removed(ledger: Ledger) -> None:
    first, second = DOCUMENTS, replace(DOCUMENTS, fingerprint="f2")

    def known(seconds: float = 0.0, **where: str) -> list[str]:
        return [each.fingerprint for each in ledger.pointers.superseded(seconds=seconds, **where)]

    with ledger.leases.acquire("t", "a run") as lease:
        ledger.pointers.move(lease, first)
        ledger.pointers.move(lease, replace(first, rows=4))
        assert known() == [], "the same table anew supersedes nothing"
        ledger.pointers.move(lease, second)
        assert known() == ["f1"]
        assert known(seconds=60) == []
        assert known(asset=first.asset, partition=first.partition) == ["f1"]
        assert known(asset="local_zip/documents") == known(partition="other") == []
        ledger.pointers.move(lease, first)
        assert known() == ["f2"], "what is current again isn't superseded"
        ledger.pointers.drop(lease, first.asset, first.partition)
        assert known() == ["f1", "f2"]
        one, _ = ledger.pointers.superseded()
        assert abs(one.at - time.time()) < 60
        ledger.pointers.forget(lease, [one])
        assert known() == ["f2"]
    with pytest.raises(LeaseLost):
        ledger.pointers.forget(lease, ledger.pointers.superseded())
    assert known() == ["f2"]


def test_a_breaker_is_closed_until_something_is_known(ledger: Ledger) -> None:
    assert ledger.breakers.get("handbook") == Breaker("handbook")
    ledger.breakers.update("handbook", lambda found, now: found)
    assert ledger.breakers.get("handbook") == Breaker("handbook")
    opened = Breaker("handbook", State.OPEN, 10.5, 3, 20.5, "network", "no route")
    assert ledger.breakers.update("handbook", lambda found, now: opened) == opened
    assert ledger.breakers.all() == {"handbook": opened}
    ledger.breakers.reset("handbook")
    assert ledger.breakers.get("handbook") == Breaker("handbook")


def test_of_many_that_find_a_breaker_due_one_takes_the_probe(open_ledger: OpenLedger) -> None:
    ledgers = [open_ledger() for _ in range(4)]
    ledgers[0].breakers.update("handbook", lambda found, now: replace(found, state=State.OPEN, failures=3))
    gate, took = threading.Barrier(len(ledgers)), []

    def probe(each: Ledger) -> None:
        gate.wait()

        def take(found: Breaker, now: float) -> Breaker:
            if found.state is State.OPEN:
                took.append(each)
                return replace(found, state=State.HALF_OPEN, probe_at=now)
            return found

        each.breakers.update("handbook", take)

    threads = [threading.Thread(target=probe, args=(each,)) for each in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == 1


def test_retries_stand_until_they_are_served(ledger: Ledger) -> None:
    keys = [f"{number}.md" for number in range(1_200)]
    ledger.retries.request("handbook", keys)
    ledger.retries.request("handbook", keys[:2])
    ledger.retries.request("archive", ["a.zip"])
    assert ledger.retries.of("handbook") == set(keys)
    ledger.retries.served("handbook", keys[1:])
    ledger.retries.served("handbook", ["never asked for"])
    assert ledger.retries.of("handbook") == {"0.md"}
    assert ledger.retries.of("archive") == {"a.zip"}


def test_an_applied_listing_is_the_last_one(ledger: Ledger) -> None:
    assert ledger.listings.applied("t", "a") is None
    for digest in ("one", "two", "two"):
        ledger.listings.apply("t", "a", digest)
        assert ledger.listings.applied("t", "a") == digest
    assert ledger.listings.applied("t", "b") is None


def test_a_retired_connection_leaves_nothing_behind_and_may_come_back(ledger: Ledger) -> None:
    for name in ("handbook", "archive"):
        ledger.outcomes.record("t", name, name, "documents", ("source", "gone"), partitions=[name], last=False)
        ledger.outcomes.count(name, "network", "backoff", occurred=1)
        ledger.retries.request(name, ["a.md"])
        ledger.breakers.update(name, lambda found, now: replace(found, state=State.OPEN))
    for _ in range(2):
        ledger.retirements.retire("handbook")
        assert ledger.retirements.all() == {"handbook"}
    assert ledger.outcomes.outcome("t", "handbook").last_run is None
    assert ledger.outcomes.counts("handbook") == []
    assert ledger.retries.of("handbook") == frozenset()
    assert set(ledger.breakers.all()) == {"archive"}
    assert ledger.outcomes.outcome("t", "archive").error == "gone"
    ledger.retirements.revive("handbook")
    assert ledger.retirements.all() == frozenset()


def test_the_latest_progress_of_each_stage_is_found(ledger: Ledger) -> None:
    def event(run: str, partition: str, done: int, total: int | None = None) -> ProgressEvent:
        return ProgressEvent(run, partition, "documents", done, total, 10_000_000_000, 1.25)

    ledger.progress.record([event("r", "a", 1), event("r", "b", 5), event("s", "a", 9)])
    ledger.progress.record([event("r", "a", 2, 7)])
    ledger.progress.record([])
    found = ledger.progress.latest("r")
    assert [replace(each, id=0) for each in found] == [event("r", "b", 5), event("r", "a", 2, 7)]
    assert [each.id for each in found] == sorted(each.id for each in found)
    ledger.progress.drop(["r"])
    assert ledger.progress.latest("r") == []
    assert len(ledger.progress.latest("s")) == 1
