"""What is stored is found again, once, whoever else writes: in a folder, and in a bucket of a server that speaks S3."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kb_pipeline.embedding import Vectors, VectorStore, VectorStoreError, text_key, vector_store
from kb_pipeline.embedding.vector_store import stores
from kb_pipeline.storage.lance import LanceLocation
from kb_pipeline_tests.servers import S3Server

DIMENSION = 4


def _key(n: int) -> str:
    return text_key(f"text {n}")


def _vector(n: int) -> list[float]:
    return [n, n + 0.5, -n, 1 / (n + 1)]


def _vectors(numbers: list[int]) -> Vectors:
    return np.array([_vector(n) for n in numbers], dtype=np.float32).reshape(-1, DIMENSION)


def _put(store: VectorStore, numbers: list[int]) -> None:
    store.append([_key(n) for n in numbers], _vectors(numbers))


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> LanceLocation:
    if request.param == "folder":
        return LanceLocation(str(tmp_path / "vectors"))
    server: S3Server = request.getfixturevalue("s3")
    return server.lance()


@pytest.fixture
def store(location: LanceLocation) -> VectorStore:
    return VectorStore(location, "0" * 32, DIMENSION)


def test_an_empty_store(store: VectorStore, location: LanceLocation, tmp_path: Path) -> None:
    assert store.has([_key(1)]) == set()
    assert store.missing([_key(2), _key(1), _key(2)]) == [_key(2), _key(1)]
    assert store.fetch([]).shape == (0, DIMENSION)
    assert store.retain([]) == store.count() == 0
    store.compact()
    store.append([], np.empty((0, DIMENSION), np.float32))
    assert location.tables() == [] == list(tmp_path.iterdir())
    with pytest.raises(KeyError, match=_key(1)):
        store.fetch([_key(1)])


def test_round_trip_in_the_order_asked_for(store: VectorStore) -> None:
    _put(store, list(range(100)))
    _put(store, list(range(100, 150)))
    asked = [149, 3, 3, 120, 0, 99]
    vectors = store.fetch([_key(n) for n in asked])
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, _vectors(asked))
    assert store.count() == 150
    with pytest.raises(KeyError, match=_key(777)):
        store.fetch([_key(1), _key(777)])


@settings(max_examples=10, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=4),
    asked=st.lists(st.integers(0, 40), max_size=12),
)
def test_has_and_missing_split_any_request(
    groups: list[list[int]], asked: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = VectorStore(LanceLocation(str(tmp_path_factory.mktemp("s"))), "1" * 32, DIMENSION)
    for group in groups:
        _put(store, group)
    stored = {n for group in groups for n in group}
    keys = [_key(n) for n in asked]
    assert store.has(keys) == {_key(n) for n in asked if n in stored}
    assert store.missing(keys) == list(dict.fromkeys(_key(n) for n in asked if n not in stored))
    present = [n for n in asked if n in stored]
    assert np.array_equal(store.fetch([_key(n) for n in present]), _vectors(present))


def test_a_scan_has_no_hidden_limit_and_small_files_are_gathered(store: VectorStore) -> None:
    for start in range(0, 3000, 100):
        _put(store, list(range(start, start + 100)))
    everything = list(range(3000))
    assert store.missing([_key(n) for n in everything]) == []
    assert np.array_equal(store.fetch([_key(n) for n in everything]), _vectors(everything))


def test_a_batch_larger_than_one_scan(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._SCAN_ROWS", 64)
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._TAKE_ROWS", 7)
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._DELETE_KEYS", 9)
    _put(store, list(range(300)))
    asked = list(range(299, -1, -3))
    assert np.array_equal(store.fetch([_key(n) for n in asked]), _vectors(asked))
    assert store.retain([_key(n) for n in asked]) == 200
    assert np.array_equal(store.fetch([_key(n) for n in asked]), _vectors(asked))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices from the first row on, used for any request, in small groups."""
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._INDEX_ROWS", 1)
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._ROWS_PER_LOOKUP", 0)
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._LOOKUP_KEYS", 3)


_NUMBERS = st.lists(st.integers(0, 12), max_size=6)
_STEPS = st.one_of(st.tuples(st.sampled_from(["append", "retain"]), _NUMBERS), st.just(("compact", [])))


@pytest.mark.usefixtures("small")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(st.tuples(st.sampled_from(["append", "retain"]), _NUMBERS), st.just(("compact", []))), max_size=8
    ),
    asked=st.lists(st.integers(0, 15), max_size=12),
)
def test_an_index_finds_what_a_scan_finds_whatever_came_before(
    steps: list[tuple[str, list[int]]], asked: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows older than the index, younger ones, removed ones, and files that were merged."""
    store = VectorStore(LanceLocation(str(tmp_path_factory.mktemp("s"))), "1" * 32, DIMENSION)
    stored: set[int] = set()
    for step, numbers in steps:
        if step == "append":
            _put(store, numbers)
            stored.update(numbers)
        elif step == "retain":
            store.retain([_key(n) for n in numbers])
            stored.intersection_update(numbers)
        else:
            store.compact(thorough=True)
    assert store.has([_key(n) for n in asked]) == {_key(n) for n in asked if n in stored}
    present = [n for n in asked if n in stored]
    assert np.array_equal(store.fetch([_key(n) for n in present]), _vectors(present))


@pytest.mark.usefixtures("small")
def test_few_keys_are_found_without_reading_the_others(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(store, list(range(200)))
    store.compact(thorough=True)
    _put(store, [777])
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._ROWS_PER_LOOKUP", 25)
    scans: list[object] = []
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._keys", scans.append)
    asked = [777, 5, 199, 0, 131, 777]
    assert np.array_equal(store.fetch([_key(n) for n in asked]), _vectors(asked))
    assert store.missing([_key(3), _key(888)]) == [_key(888)]
    assert scans == []
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._keys", lambda table: scans.append(table) or [])
    store.has([_key(n) for n in range(9)])
    assert len(scans) == 1, "many keys are found by one scan"


def _files(store: VectorStore) -> int:
    return int(store._open().stats()["fragment_stats"]["num_fragments"])


def test_compaction_waits_until_it_is_worth_it(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._FILES", 4)
    files = []
    for n in range(12):
        _put(store, [n])
        store.compact()
        files.append(_files(store))
    assert files == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
    store.compact(thorough=True)
    assert _files(store) == 1


def test_the_index_follows_the_rows_in_proportion(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_pipeline.embedding.vector_store._INDEX_ROWS", 100)

    def unindexed() -> int | None:
        stats = store._open().index_stats("key_idx")
        return None if stats is None else int(stats.num_unindexed_rows)

    found = []
    for start, stop in ((0, 99), (99, 100), (100, 114), (114, 117)):
        _put(store, list(range(start, stop)))
        store.compact()
        found.append(unindexed())
    assert found == [None, 0, 14, 0]


def test_of_equal_keys_the_first_wins(store: VectorStore) -> None:
    store.append([_key(1), _key(2), _key(1)], _vectors([1, 2, 9]))
    store.append([_key(1)], _vectors([9]))
    assert store.count() == 3
    assert np.array_equal(store.fetch([_key(1)]), _vectors([1]))
    store.compact(thorough=True)
    assert np.array_equal(store.fetch([_key(1), _key(2)]), _vectors([1, 2]))


def test_retain_removes_the_rest(store: VectorStore) -> None:
    _put(store, list(range(20)))
    _put(store, [3, 4])
    assert store.retain({_key(n) for n in (3, 7, 99)}) == 19
    assert store.has([_key(n) for n in range(20)]) == {_key(3), _key(7)}
    store.compact(thorough=True)
    assert np.array_equal(store.fetch([_key(7), _key(3)]), _vectors([7, 3]))
    assert store.retain([_key(3), _key(7)]) == 0
    _put(store, [0])
    assert np.array_equal(store.fetch([_key(0)]), _vectors([0]))


def test_models_keep_apart(location: LanceLocation) -> None:
    one, other = VectorStore(location, "a" * 32, DIMENSION), VectorStore(location, "b" * 32, 2)
    _put(one, [1])
    assert other.missing([_key(1)]) == [_key(1)]
    other.append([_key(1)], np.array([[5, 6]], np.float32))
    assert np.array_equal(one.fetch([_key(1)]), _vectors([1]))
    assert [(each.dimension, each.count()) for each in stores(location)] == [(DIMENSION, 1), (2, 1)]


def test_a_wrong_shape_or_dimension_is_refused(store: VectorStore, location: LanceLocation) -> None:
    with pytest.raises(ValueError, match="shape"):
        store.append([_key(1)], np.zeros((1, DIMENSION + 1), np.float32))
    with pytest.raises(ValueError, match="shape"):
        store.append([_key(1)], np.zeros((2, DIMENSION), np.float32))
    _put(store, [1])
    with pytest.raises(VectorStoreError, match="vectors of 4 numbers"):
        VectorStore(location, "0" * 32, 8).has([_key(1)])


def test_the_schema_on_disk(store: VectorStore) -> None:
    _put(store, [1])
    table = store._open()
    assert table.schema.names == ["key", "vector"]
    assert table.schema.field("vector").type == pa.list_(pa.field("item", pa.float32()), DIMENSION)


def _write(location: LanceLocation, start: int, barrier: object) -> None:
    vector_store._INDEX_ROWS, vector_store._ROWS_PER_LOOKUP = 1, 0
    store = VectorStore(location, "c" * 32, DIMENSION)
    barrier.wait(60)  # type: ignore[attr-defined]
    for first in range(start, start + 50, 10):
        _put(store, list(range(first, first + 10)))
        store.compact(thorough=True)


@pytest.mark.usefixtures("small")
def test_two_processes_append_at_once(location: LanceLocation) -> None:
    """Both create the table, and its index, at the same moment; their keys overlap in 20 to 49."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    writers = [context.Process(target=_write, args=(location, start, barrier)) for start in (0, 20)]
    for writer in writers:
        writer.start()
    reader = VectorStore(location, "c" * 32, DIMENSION)
    barrier.wait(60)
    while any(writer.is_alive() for writer in writers):
        seen = reader.has([_key(n) for n in range(70)])
        reader.fetch(sorted(seen))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    everything = list(range(70))
    assert np.array_equal(reader.fetch([_key(n) for n in everything]), _vectors(everything))
    assert reader.count() == 100


def _rounds(location: LanceLocation) -> list[LanceLocation]:
    """Many rounds, for the moment in which one could overwrite what the other has just made is short."""
    return [dataclasses.replace(location, uri=f"{location.uri}/{each}") for each in range(15)]


def _create(location: LanceLocation, key: int, barrier: object) -> None:
    for each in _rounds(location):
        barrier.wait(60)  # type: ignore[attr-defined]
        _put(VectorStore(each, "c" * 32, DIMENSION), [key])


def test_what_two_processes_append_to_a_store_that_neither_found_is_all_there(location: LanceLocation) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [context.Process(target=_create, args=(location, key, barrier)) for key in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    for each in _rounds(location):
        assert VectorStore(each, "c" * 32, DIMENSION).has([_key(0), _key(1)]) == {_key(0), _key(1)}, each
        assert each.tables() == ["vectors_" + "c" * 32]
