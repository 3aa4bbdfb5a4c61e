"""Tables are replaced whole or not at all."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from kb_pipeline import tables
from kb_pipeline.ledger.errors import LeaseLost
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.table import Staged, Storage, Table, replace, write_json

SCHEMA = pa.schema([pa.field("key", pa.string()), pa.field("text", pa.large_string())])


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def write(storage: Storage, target: Path, *keys: str) -> None:
    with storage.stage(target, SCHEMA) as writer:
        for key in keys:
            writer.row({"key": key})
    replace(writer.path, target)


def keys(path: Path) -> list[str]:
    with Table(path) as table:
        return tables.values(table.read(["key"]).column(0))


def test_a_crash_while_writing_leaves_the_old_table_and_nothing_aside(storage: Storage, tmp_path: Path) -> None:
    target = tmp_path / "t.parquet"
    write(storage, target, "old")
    with pytest.raises(KeyboardInterrupt), storage.stage(target, SCHEMA) as writer:  # noqa: PT012
        writer.row({"key": "new"})
        raise KeyboardInterrupt
    assert keys(target) == ["old"]
    assert list(storage.staging_path.iterdir()) == []


def test_a_table_is_invisible_until_it_is_published(storage: Storage, tmp_path: Path) -> None:
    target = tmp_path / "t.parquet"
    with storage.stage(target, SCHEMA) as writer:
        writer.row({"key": "new"})
    assert Table.open(target) is None
    with Ledger.of_file(storage.ledger_path).leases.acquire("t", "a test") as lease:
        Staged(target, writer.path, "f", {}).publish(lease)
    assert keys(target) == ["new"]
    assert list(storage.staging_path.iterdir()) == []


def test_a_lost_lease_publishes_nothing_and_leaves_nothing_aside(storage: Storage, tmp_path: Path) -> None:
    target = tmp_path / "t.parquet"
    write(storage, target, "old")
    with storage.stage(target, SCHEMA) as writer:
        writer.row({"key": "new"})
    lease = Ledger.of_file(storage.ledger_path).leases.acquire("t", "a test")
    lease.release()
    with pytest.raises(LeaseLost):
        Staged(target, writer.path, "f", {}).publish(lease)
    assert keys(target) == ["old"]
    assert list(storage.staging_path.iterdir()) == []


def test_a_publication_on_a_slow_disk_takes_nobody_elses_lease(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Syncing the table takes several times as long as a lease lives; another holder works and publishes meanwhile."""
    target, ttl = tmp_path / "t.parquet", 0.7
    with storage.stage(target, SCHEMA) as writer:
        writer.row({"key": "new"})
    mine = Ledger.of_file(storage.ledger_path, lease_ttl=ttl).leases
    others = Ledger.of_file(storage.ledger_path, lease_ttl=ttl).leases
    syncing, synced = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        syncing.set()
        assert synced.wait(30.0)

    monkeypatch.setattr(os, "fsync", slow)
    with mine.acquire("t", "a slow run") as lease, others.acquire("u", "another run") as other:
        thread = threading.Thread(target=Staged(target, writer.path, "f", {}).publish, args=(lease,))
        thread.start()
        assert syncing.wait(30.0)
        begin = time.monotonic()
        while time.monotonic() < begin + 3 * ttl:
            assert other.commit(lambda _: "published") == "published"
            thread.join(ttl / 10)
        assert Table.open(target) is None
        synced.set()
        thread.join(30.0)
    assert keys(target) == ["new"]


def test_a_disk_that_fills_up_leaves_the_old_table_and_raises_its_own_error(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "t.parquet"
    write(storage, target, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(OSError, match="No space left"), storage.stage(target, SCHEMA) as writer:
        writer.row({"key": "new"})
    assert keys(target) == ["old"]
    assert list(storage.staging_path.iterdir()) == []


def test_a_reader_of_the_old_table_reads_on_while_it_is_replaced(storage: Storage, tmp_path: Path) -> None:
    target = tmp_path / "t.parquet"
    write(storage, target, *(f"old {n}" for n in range(100)))
    with Table(target) as table:
        batches = table.batches(rows=10)
        first = next(batches)["key"].to_pylist()
        write(storage, target, "new")
        rest = [key for batch in batches for key in batch["key"].to_pylist()]
    assert first + rest == [f"old {n}" for n in range(100)]
    assert keys(target) == ["new"]


def test_rows_are_written_in_groups_bounded_by_bytes(storage: Storage, tmp_path: Path) -> None:
    target = tmp_path / "t.parquet"
    with storage.stage(target, SCHEMA) as writer:
        for number in range(5):
            writer.row({"key": str(number), "text": f"{number}" * (9 << 20)})
    replace(writer.path, target)
    import pyarrow.parquet as pq

    assert pq.ParquetFile(target).num_row_groups == 5
    with Table(target) as table:
        assert [batch.num_rows for batch in table.bounded_batches(rows=64)] == [1] * 5
    assert keys(target) == ["0", "1", "2", "3", "4"]


def test_a_json_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    with pytest.raises(TypeError):
        write_json(target, {"new": object()})
    assert "old" in target.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_partitions_are_found_on_disk_and_strangers_are_not(storage: Storage) -> None:
    mine = [Partition("local_zip", "z"), Partition("upload", "inbox", 2, 3)]
    for partition in mine:
        write(storage, storage.table_path("documents", partition), "a")
    storage.table_path("documents", mine[0]).with_name("Not A Key.parquet").touch()
    storage.table_path("documents", mine[0]).with_name("z.txt").touch()
    assert storage.partitions("documents") == mine
    assert storage.partitions("documents", "upload") == mine[1:]
    assert storage.partitions("chunks") == []
    assert storage.layouts("documents", "upload", "inbox") == {3: [mine[1]]}
