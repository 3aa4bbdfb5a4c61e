"""How connections fared: faults that stand, last successes, counts of errors."""

from __future__ import annotations

import time

import pytest

from kb_pipeline.ledger import outcomes
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.ledger.outcomes import ErrorCount, Outcome

TROUBLE = ("source", "the folder is gone")
STAGES = ("documents", "chunks", "embeddings")


def record(ledger: Ledger, partition: str, stage: str, error: tuple[str, str] | None, *siblings: str) -> None:
    ledger.outcomes.record(
        "local_directory",
        "handbook",
        partition,
        stage,
        error,
        partitions=siblings or [partition],
        last=stage == STAGES[-1],
    )


def outcome(ledger: Ledger) -> Outcome:
    return ledger.outcomes.outcome("local_directory", "handbook")


def test_before_the_first_run_nothing_is_known(ledger: Ledger) -> None:
    assert outcome(ledger) == Outcome()


def test_later_stages_do_not_make_an_unreachable_connection_well(ledger: Ledger) -> None:
    record(ledger, "handbook", "documents", TROUBLE)
    for stage in STAGES[1:]:
        record(ledger, "handbook", stage, None)
    found = outcome(ledger)
    assert (found.error_class, found.error, found.last_success) == (*TROUBLE, None)
    assert found.last_run is not None
    for stage in STAGES:
        record(ledger, "handbook", stage, None)
    found = outcome(ledger)
    assert found.error is None
    assert found.last_success is not None


def test_a_fault_after_a_success_leaves_the_time_of_the_success(ledger: Ledger) -> None:
    for stage in STAGES:
        record(ledger, "handbook", stage, None)
    before = outcome(ledger).last_success
    record(ledger, "handbook", "documents", TROUBLE)
    assert before is not None
    assert outcome(ledger).last_success == before


def test_one_shard_does_not_speak_for_another_and_each_fault_is_told(ledger: Ledger) -> None:
    first, second = "handbook.001-of-002", "handbook.002-of-002"
    record(ledger, first, "documents", TROUBLE, first, second)
    for stage in STAGES:
        record(ledger, second, stage, None, first, second)
    assert outcome(ledger).error == TROUBLE[1]
    record(ledger, second, "chunks", ("internal", "a bug"), first, second)
    told = [(each.partition, each.stage, each.message) for each in outcome(ledger).faults]
    assert told == [(first, "documents", TROUBLE[1]), (second, "chunks", "a bug")]
    # With another number of shards those partitions are no more, and their faults with them.
    record(ledger, "handbook", "documents", None)
    assert outcome(ledger).faults == ()


def test_errors_are_counted_by_connection_class_and_strategy(ledger: Ledger) -> None:
    ledger.outcomes.count("handbook", "network", "backoff", occurred=2)
    ledger.outcomes.count("handbook", "network", "backoff", occurred=1, recovered=3)
    ledger.outcomes.count("archive", "data_corruption", "skip", occurred=1)
    network = ErrorCount("handbook", "network", "backoff", 3, 3)
    assert ledger.outcomes.counts("handbook") == [network]
    assert ledger.outcomes.counts() == [ErrorCount("archive", "data_corruption", "skip", 1, 0), network]


def test_old_counts_are_left_out_and_dropped_in_the_end(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    ledger.outcomes.count("handbook", "network", "backoff", occurred=1)
    monkeypatch.setattr(time, "time", lambda: now + 10 * 86_400)
    assert ledger.outcomes.counts() == []
    assert [each.occurred for each in ledger.outcomes.counts(days=30)] == [1]
    monkeypatch.setattr(time, "time", lambda: now + (outcomes.KEEP_COUNTS_DAYS + 10) * 86_400)
    ledger.outcomes.count("archive", "network", "backoff", occurred=1)
    assert [each.connection for each in ledger.outcomes.counts(days=1_000)] == ["archive"]
