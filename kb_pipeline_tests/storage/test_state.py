"""Small facts beside the tables: how connections fared."""

from __future__ import annotations

from pathlib import Path

import pytest

from kb_pipeline.storage.partitions import layout
from kb_pipeline.storage.state import Outcome, State

TROUBLE = ("source", "the folder is gone")


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state.sqlite")


def test_before_the_first_run_nothing_is_known(state: State) -> None:
    assert state.outcome("local_directory", "handbook") == Outcome()


def test_later_stages_do_not_make_an_unreachable_connection_well(state: State) -> None:
    (whole,) = layout("local_directory", "handbook", 1)
    state.record(whole, "documents", TROUBLE)
    for stage in ("chunks", "embeddings"):
        state.record(whole, stage, None)
    found = state.outcome("local_directory", "handbook")
    assert (found.error_class, found.error, found.last_success) == (*TROUBLE, None)
    assert found.last_run is not None
    for stage in ("documents", "chunks", "embeddings"):
        state.record(whole, stage, None)
    found = state.outcome("local_directory", "handbook")
    assert found.error is None
    assert found.last_success is not None


def test_one_shard_does_not_speak_for_another(state: State) -> None:
    first, second = layout("local_directory", "handbook", 2)
    state.record(first, "documents", TROUBLE)
    for stage in ("documents", "chunks", "embeddings"):
        state.record(second, stage, None)
    assert state.outcome("local_directory", "handbook").error == TROUBLE[1]
    # With another number of shards that partition is no more, and its fault with it.
    (whole,) = layout("local_directory", "handbook", 1)
    state.record(whole, "documents", None)
    assert state.outcome("local_directory", "handbook").error is None
