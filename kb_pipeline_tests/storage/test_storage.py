"""Tables are immutable; which one is current changes at once or not at all. The same in a folder and in a bucket."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kb_pipeline.ledger.errors import LeaseLost
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.storage.bucket import Bucket
from kb_pipeline.storage.files import Files, Folder
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import LEDGER, STAGING, Staged, Storage, file_of, key_of

SCHEMA = pa.schema([pa.field("key", pa.string()), pa.field("text", pa.large_string())])
ALPHA = Partition("local_directory", "alpha")
DOCUMENTS = "local_directory/documents"


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    files: Files = Folder(tmp_path, tmp_path / STAGING)
    if request.param == "s3":
        files = Bucket(request.getfixturevalue("s3").location())
    ledger = Ledger.of_file(tmp_path / LEDGER)
    return Storage(files, lambda: ledger, tmp_path)


def stage(storage: Storage, *keys: str, fingerprint: str = "", partition: Partition = ALPHA, link: str = "") -> Staged:
    with storage.write(partition.key, SCHEMA) as writer:
        for key in keys:
            writer.row({"key": key})
        writer.describe(fingerprint or "-".join(keys), link)
    return storage.staged("documents", partition, writer, {"rows": len(keys)}, recipe="as always")


def publish(storage: Storage, *keys: str, fingerprint: str = "", partition: Partition = ALPHA) -> Staged:
    staged = stage(storage, *keys, fingerprint=fingerprint, partition=partition)
    with storage.ledger.leases.acquire(f"{DOCUMENTS}/{partition.key}", "a test") as lease:
        staged.publish(lease)
    return staged


def keys(storage: Storage, partition: Partition = ALPHA) -> list[str]:
    with storage.require("documents", partition) as table:
        found: list[str] = table.read(["key"]).column(0).to_pylist()
        return found


def kept(storage: Storage) -> set[str]:
    """Names of the files of tables."""
    return {each.key.removeprefix(f"{DOCUMENTS}/") for each in storage.files.list(DOCUMENTS)}


def asides(storage: Storage) -> list[Path]:
    return list(storage.staging.iterdir())


def test_a_table_becomes_current_when_it_is_published(storage: Storage) -> None:
    assert storage.open("documents", ALPHA) is None
    staged = stage(storage, "a", "b", link="made from")
    assert staged.changed
    assert storage.open("documents", ALPHA) is None
    with staged.open() as table:
        assert table.read(["key"]).column(0).to_pylist() == ["a", "b"]
    with storage.ledger.leases.acquire("t", "a test") as lease:
        staged.publish(lease)
    pointer = storage.pointer("documents", ALPHA)
    assert pointer == replace(staged.pointer, published_at=pointer.published_at if pointer else 0)
    assert (pointer.fingerprint, pointer.link, pointer.recipe, pointer.rows) == ("a-b", "made from", "as always", 2)
    assert abs(pointer.published_at - time.time()) < 60
    assert keys(storage) == ["a", "b"]
    assert kept(storage) == {"alpha/a-b.parquet"}
    assert asides(storage) == []
    with staged.open() as table:
        assert table.num_rows == 2


def test_a_crash_while_writing_leaves_the_old_table_and_nothing_aside(storage: Storage) -> None:
    publish(storage, "old")
    with pytest.raises(KeyboardInterrupt), storage.write("alpha", SCHEMA) as writer:  # noqa: PT012
        writer.row({"key": "new"})
        raise KeyboardInterrupt
    assert keys(storage) == ["old"]
    assert asides(storage) == []


def test_a_lost_lease_publishes_nothing_and_leaves_nothing_aside(storage: Storage) -> None:
    publish(storage, "old")
    lease = storage.ledger.leases.acquire("t", "a test")
    lease.release()
    with pytest.raises(LeaseLost):
        stage(storage, "new").publish(lease)
    assert keys(storage) == ["old"]
    assert asides(storage) == []


def test_a_disk_that_fills_up_leaves_the_old_table_and_raises_its_own_error(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(storage, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(OSError, match="No space left"):
        stage(storage, "new")
    assert keys(storage) == ["old"]
    assert asides(storage) == []


def test_a_publication_on_a_slow_disk_or_network_takes_nobody_elses_lease(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handing the table in takes several times as long as a lease lives; another holder works and publishes meanwhile."""
    ttl = 0.7
    mine, others = (Ledger.of_file(storage.local / LEDGER, lease_ttl=ttl) for _ in range(2))
    slow = Storage(storage.files, lambda: mine, storage.local)
    staged = stage(slow, "new")
    keep, begun, done = type(storage.files).keep, threading.Event(), threading.Event()

    def slowly(*arguments: Any, **options: Any) -> bool:
        begun.set()
        assert done.wait(30.0)
        return keep(*arguments, **options)

    monkeypatch.setattr(type(storage.files), "keep", slowly)
    with mine.leases.acquire("t", "a slow run") as lease, others.leases.acquire("u", "another run") as other:
        thread = threading.Thread(target=staged.publish, args=(lease,))
        thread.start()
        assert begun.wait(30.0)
        begin = time.monotonic()
        while time.monotonic() < begin + 3 * ttl:
            assert other.commit(lambda _: "published") == "published"
            thread.join(ttl / 10)
        assert storage.open("documents", ALPHA) is None
        done.set()
        thread.join(30.0)
    assert keys(storage) == ["new"]


def test_a_reader_of_the_old_table_reads_on_while_another_becomes_current(storage: Storage) -> None:
    publish(storage, *(f"old {n}" for n in range(100)), fingerprint="old")
    with storage.require("documents", ALPHA) as table:
        batches = table.batches(rows=10)
        first = next(batches)["key"].to_pylist()
        publish(storage, "new")
        rest = [key for batch in batches for key in batch["key"].to_pylist()]
    assert first + rest == [f"old {n}" for n in range(100)]
    assert keys(storage) == ["new"]


def test_what_was_superseded_is_removed_when_nobody_can_be_reading_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(storage, "a")
    publish(storage, "b")
    publish(storage, "c")
    assert storage.remove_superseded() == 0, "a reader may have found them a moment ago"
    assert kept(storage) == {"alpha/a.parquet", "alpha/b.parquet", "alpha/c.parquet"}
    monkeypatch.setattr(type(storage.files), "grace", 0.0)
    assert storage.remove_superseded() == 2
    assert kept(storage) == {"alpha/c.parquet"}
    assert storage.remove_superseded() == 0
    assert keys(storage) == ["c"]


def test_what_this_process_reads_stays(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(storage.files), "grace", 0.0)
    publish(storage, "a")
    with storage.require("documents", ALPHA) as table:
        publish(storage, "b")
        assert storage.remove_superseded() == 0
        assert table.read(["key"]).column(0).to_pylist() == ["a"]
    assert storage.remove_superseded() == 1
    assert kept(storage) == {"alpha/b.parquet"}


def test_what_became_current_again_stays(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(storage.files), "grace", 0.0)
    for each in "aba":
        publish(storage, each)
    assert storage.remove_superseded() == 1
    assert keys(storage) == ["a"]
    assert kept(storage) == {"alpha/a.parquet"}


def test_what_somebody_is_writing_waits(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(storage.files), "grace", 0.0)
    publish(storage, "a")
    publish(storage, "b")
    with storage.ledger.leases.acquire(f"{DOCUMENTS}/alpha", "a run"):
        assert storage.remove_superseded() == 0
    assert storage.remove_superseded() == 1


def test_equal_content_in_other_bytes_is_the_same_table(storage: Storage) -> None:
    """Two files of one fingerprint are harmless: the first stays, whoever reads it."""
    publish(storage, "x", "y", fingerprint="same")
    first = storage.files.get(key_of(DOCUMENTS, "alpha", "same"))
    publish(storage, "other")
    with storage.write("alpha", SCHEMA) as writer:
        for key in ("y", "x"):
            writer.row({"key": key})
        writer.describe("same")
    assert writer.path.read_bytes() != first
    with storage.ledger.leases.acquire("t", "a test") as lease:
        storage.staged("documents", ALPHA, writer, {}).publish(lease)
    assert storage.files.get(key_of(DOCUMENTS, "alpha", "same")) == first
    assert keys(storage) == ["x", "y"]


def test_a_table_whose_file_is_lost_has_to_be_made_anew(storage: Storage) -> None:
    staged = publish(storage, "a")
    storage.files.delete([file_of(staged.pointer)])
    assert storage.open("documents", ALPHA) is None
    assert storage.current("documents", ALPHA) is None
    with pytest.raises(FileNotFoundError, match="kb materialize local_directory/documents --partition alpha"):
        storage.require("documents", ALPHA)
    publish(storage, "a")
    assert keys(storage) == ["a"]


def test_a_dropped_table_is_gone_at_once(storage: Storage) -> None:
    publish(storage, "a")
    publish(storage, "b")
    with storage.ledger.leases.acquire("t", "a test") as lease:
        storage.drop(lease, "documents", ALPHA)
        storage.drop(lease, "documents", ALPHA)
    assert storage.pointer("documents", ALPHA) is None
    assert kept(storage) == set()
    assert storage.pointers.superseded() == []


def test_partitions_are_those_that_have_a_table(storage: Storage) -> None:
    mine = [Partition("local_zip", "z"), Partition("upload", "inbox", 2, 3)]
    for partition in mine:
        publish(storage, "a", partition=partition)
    assert storage.partitions("documents") == mine
    assert storage.partitions("documents", "upload") == mine[1:]
    assert storage.partitions("chunks") == []
    assert storage.layouts("documents", "upload", "inbox") == {3: [mine[1]]}
    at = storage.published_at("documents", mine)
    assert abs(at - time.time()) < 60
    assert storage.published_at("documents", mine[:1]) < at
    assert storage.published_at("chunks", mine) == 0.0


def test_rows_are_written_in_groups_bounded_by_bytes_and_read_in_whole_batches(storage: Storage) -> None:
    with storage.write("alpha", SCHEMA) as writer:
        for number in range(5):
            writer.row({"key": str(number), "text": f"{number}" * (9 << 20)})
        writer.describe("large")
    assert pq.ParquetFile(writer.path).num_row_groups == 5
    with storage.ledger.leases.acquire("t", "a test") as lease:
        storage.staged("documents", ALPHA, writer, {}).publish(lease)
    with storage.require("documents", ALPHA) as table:
        assert [batch.num_rows for batch in table.bounded_batches(rows=64)] == [1] * 5
        assert [batch.num_rows for batch in table.batches(["key"], rows=2)] == [2, 2, 1]
        assert [key for batch in table.batches(["key"], rows=2) for key in batch["key"].to_pylist()] == list("01234")
    assert keys(storage) == list("01234")
