"""A storage of an earlier version is taken over once, whole, and wherever the first attempt was cut short."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kb_pipeline import stages, tables
from kb_pipeline.ledger.pointers import Pointers
from kb_pipeline.storage import takeover
from kb_pipeline.storage.storage import LEDGER, Storage, file_of, partition_of
from kb_pipeline.storage.takeover import take_over
from kb_pipeline_tests.acceptance.world import WordEmbedder, World


def old_layout(storage: Storage) -> dict[str, str]:
    """Turn a storage into what the version before kept: tables replaced in place, all facts in their own metadata.

    Returns the fingerprint of every table by its old name.
    """
    made = {}
    for pointer in storage.pointers.all():
        new = storage.local / file_of(pointer)
        old = new.parent.with_suffix(new.parent.suffix + ".parquet")
        table = pq.read_table(new)
        facts = {tables.FINGERPRINT: pointer.fingerprint, tables.SOURCE_FINGERPRINT: pointer.link}
        facts[tables.RECIPE] = pointer.recipe
        if pointer.asset.endswith(stages.INVENTORY):
            facts = {tables.LISTING_INFO: pointer.recipe}
        pq.write_table(table.replace_schema_metadata(facts), old)
        os.utime(old, (pointer.published_at, pointer.published_at))
        made[str(old.relative_to(storage.local))] = pointer.fingerprint
        shutil.rmtree(new.parent)
    storage.ledger.close()
    for name in (LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm"):
        (storage.local / name).unlink(missing_ok=True)
    return made


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A storage of an earlier version with a release of three connections."""
    world = World(tmp_path, WordEmbedder())
    world.write("alpha", "a.md", "rivers run")
    world.write("beta", "b.txt", "mountains stand")
    world.write("gamma", "c.md", "deserts wait")
    world.reshard("beta", 2)
    world.run()
    old_layout(world.storage)
    world.faults.read.clear()
    return world


def test_nothing_is_read_or_embedded_anew_and_the_release_stays(world: World, caplog: pytest.LogCaptureFixture) -> None:
    before, texts = world.rows(), len(world.embedder.texts)
    old = sorted(path.relative_to(world.storage.local) for path in world.storage.local.glob("*/*/*.parquet"))
    assert len(old) == 3 * 5 + 4
    with caplog.at_level(logging.WARNING):
        result = world.run()
    assert "19 tables of an earlier version in " in caplog.text
    assert not result.published
    assert world.faults.read == []
    assert len(world.embedder.texts) == texts
    assert world.rows() == before
    assert list(world.storage.local.glob("*/*/*.parquet")) == []
    caplog.clear()
    assert world.run().release == result.release
    assert caplog.text == ""


def test_what_was_taken_over_goes_on_like_any_other(world: World) -> None:
    world.run()
    world.write("alpha", "a.md", "rivers run, and run")
    world.write("alpha", "new.md", "rivers run")
    texts = len(world.embedder.texts)
    assert world.run().published
    assert world.embedder.texts[texts:] == ["rivers run, and run"]
    assert sorted(row["key"] for row in world.rows()) == ["a.md", "b.txt", "new.md", "z.zip!/c.md"]


class Cut(Exception):
    """The process ends here."""


@pytest.mark.parametrize("step", ["_name", "move", "unlink"])
@pytest.mark.parametrize("after", [0, 1, 7])
def test_cut_short_anywhere_it_is_done_by_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, after: int
) -> None:
    before = world.rows()
    texts = len(world.embedder.texts)
    left = iter(range(after))

    def cut(original: object) -> object:
        def call(*arguments: object, **options: object) -> object:
            if next(left, None) is None:
                raise Cut
            return original(*arguments, **options)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patch:
        where = {"_name": takeover, "move": Pointers, "unlink": Path}[step]
        patch.setattr(where, step, cut(getattr(where, step)))
        with pytest.raises(Cut):
            world.run()
    world.faults.read.clear()
    assert not world.run().published
    assert world.faults.read == []
    assert len(world.embedder.texts) == texts
    assert world.rows() == before


def test_what_is_newer_stays_and_what_an_earlier_version_wrote_since_is_taken(tmp_path: Path) -> None:
    storage = Storage.of_folder(tmp_path)
    old = tmp_path / "local_directory/chunks/alpha.parquet"
    old.parent.mkdir(parents=True)

    def write(fingerprint: str, at: float) -> None:
        facts = {tables.FINGERPRINT: fingerprint, tables.SOURCE_FINGERPRINT: "d", tables.RECIPE: "{}"}
        pq.write_table(tables.CHUNKS.empty_table().replace_schema_metadata(facts), old)
        os.utime(old, (at, at))

    def current() -> str:
        (pointer,) = storage.pointers.all()
        assert partition_of(pointer).key == "alpha"
        return pointer.fingerprint

    with storage.ledger as ledger:
        for fingerprint, at, expected in [("one", 1_000.0, "one"), ("late", 500.0, "one"), ("two", 2_000.0, "two")]:
            write(fingerprint, at)
            take_over(storage, ledger)
            assert current() == expected
            assert not old.exists()


@pytest.mark.parametrize("content", [b"", b"no table"])
def test_a_damaged_table_is_kept_aside_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    storage = Storage.of_folder(tmp_path)
    path = tmp_path / "local_directory/documents/alpha.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with storage.ledger as ledger:
        assert take_over(storage, ledger) == 0
    assert path.with_name("alpha.parquet.damaged").read_bytes() == content
    assert "alpha.parquet can't be read" in caplog.text


def test_a_strangers_files_are_left_alone(tmp_path: Path) -> None:
    storage = Storage.of_folder(tmp_path)
    for name in ["local_directory/documents/Not A Key.parquet", "local_directory/notes/alpha.parquet", "x.parquet"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with storage.ledger as ledger:
        assert take_over(storage, ledger) == 0
    assert len(list(tmp_path.rglob("*.parquet"))) == 3


def test_a_file_system_without_links_gets_copies(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("kb_pipeline.storage.takeover.os.link", refused)
    assert not world.run().published
    assert list(world.storage.staging.iterdir()) == []
