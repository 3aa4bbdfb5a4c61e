from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kb_pipeline.sources.base import ItemCorrupt, ItemVanished, ListingFailed, SourceContext, SourceError
from kb_pipeline.sources.upload import Upload, UploadConfig
from kb_pipeline.statuses import Status


@pytest.fixture
def inbox(tmp_path: Path) -> Upload:
    return Upload(UploadConfig(name="inbox", type="upload"), SourceContext(base=tmp_path, storage=tmp_path / ".kb"))


def put(tmp_path: Path, inbox: Upload, name: str, data: bytes) -> str:
    folder = tmp_path / "from"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return inbox.add(folder / name)


def content(inbox: Upload) -> dict[str, bytes]:
    found = {}
    for item in inbox.list():
        with inbox.read(item) as stream:
            found[item.key] = stream.read()
    return found


def test_add_says_what_it_did(tmp_path: Path, inbox: Upload) -> None:
    assert put(tmp_path, inbox, "a", b"1") == "added"
    assert put(tmp_path, inbox, "a", b"1") == "unchanged"
    assert put(tmp_path, inbox, "a", b"2") == "replaced"
    assert put(tmp_path, inbox, "b", b"2") == "added"
    assert content(inbox) == {"a": b"2", "b": b"2"}
    assert not list((inbox.root / "aside").iterdir())


def test_remove_and_collect(tmp_path: Path, inbox: Upload) -> None:
    assert inbox.remove("a") is False
    assert inbox.collect() == 0
    put(tmp_path, inbox, "a", b"same")
    put(tmp_path, inbox, "b", b"same")
    assert inbox.remove("a") is True
    assert inbox.remove("a") is False
    assert inbox.collect() == 0
    assert content(inbox) == {"b": b"same"}
    inbox.remove("b")
    assert inbox.collect() == 1
    assert not list(inbox.root.glob("blobs/*/*"))


def test_collect_takes_what_a_crash_left_and_nothing_younger(tmp_path: Path, inbox: Upload) -> None:
    put(tmp_path, inbox, "a", b"1")
    for name in ("old", "young"):
        (inbox.root / "aside" / name).write_bytes(b"half")
    os.utime(inbox.root / "aside" / "old", (0, 0))
    assert inbox.collect() == 1
    assert [p.name for p in (inbox.root / "aside").iterdir()] == ["young"]


@pytest.mark.parametrize("name", ["a\nb.txt", "\U0001f600.md", "é" * 100, "A" * 255, "%2f", "..", " ", ".hidden", "a%"])
def test_any_name_works(tmp_path: Path, inbox: Upload, name: str) -> None:
    if name == "..":
        name = "..."
    assert put(tmp_path, inbox, name, b"x") == "added"
    assert put(tmp_path, inbox, name, b"x") == "unchanged"
    assert content(inbox) == {name: b"x"}
    assert inbox.remove(name)


def test_names_that_differ_in_case_or_only_in_their_end_stay_apart(tmp_path: Path, inbox: Upload) -> None:
    names = ["a.txt", "A.txt", "é" * 100 + "1", "é" * 100 + "2"]
    for name in names:
        put(tmp_path, inbox, name, name.encode())
    assert content(inbox) == {name: name.encode() for name in names}
    files = [p.name for p in (inbox.root / "entries").iterdir()]
    assert len({f.lower() for f in files}) == 4


def test_a_name_that_is_no_unicode(tmp_path: Path, inbox: Upload) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9"), "wb") as file:
        file.write(b"x")
    assert inbox.add(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9")))) == "added"
    assert content(inbox) == {"caf\\udce9": b"x"}


def test_what_cannot_be_uploaded(tmp_path: Path, inbox: Upload) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe"):
        with pytest.raises(SourceError):
            inbox.add(path)
    assert content(inbox) == {}


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, inbox: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, inbox, "a", b"1")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            put(tmp_path, inbox, "a", b"2")
    assert content(inbox) == {"a": b"1"}
    assert not list((inbox.root / "aside").iterdir())


def test_a_crash_before_the_entry_leaves_the_old_file(
    tmp_path: Path, inbox: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, inbox, "a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(json, "dump", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            put(tmp_path, inbox, "a", b"2")
    assert content(inbox) == {"a": b"1"}
    assert inbox.collect() == 1


def test_bytes_that_are_gone_or_changed(tmp_path: Path, inbox: Upload) -> None:
    put(tmp_path, inbox, "a", b"1")
    (item,) = inbox.list()
    (blob,) = inbox.root.glob("blobs/*/*")
    blob.write_bytes(b"2")
    with pytest.raises(ItemCorrupt), inbox.read(item) as stream:
        stream.read()
    blob.write_bytes(b"")
    with pytest.raises(ItemCorrupt), inbox.read(item) as stream:
        stream.read()
    blob.unlink()
    with pytest.raises(ItemVanished), inbox.read(item) as stream:
        stream.read()
    assert put(tmp_path, inbox, "a", b"1") == "replaced"
    assert content(inbox) == {"a": b"1"}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"name": "a"}',
        b'{"name": "a", "sha256": "../../x", "size": 1, "uploaded_at": "2026-01-01T00:00:00+00:00"}',
        b'{"name": "other", "sha256": "' + b"0" * 64 + b'", "size": 1, "uploaded_at": "2026-01-01T00:00:00+00:00"}',
    ],
)
def test_a_damaged_entry_is_one_bad_item(tmp_path: Path, inbox: Upload, damage: bytes) -> None:
    put(tmp_path, inbox, "a", b"1")
    put(tmp_path, inbox, "b", b"2")
    (inbox.root / "entries" / "a.json").write_bytes(damage)
    items = {item.key: item.problem for item in inbox.list()}
    assert items == {"a": Status.CORRUPT, "b": None}
    with pytest.raises(ListingFailed):
        inbox.collect()
    put(tmp_path, inbox, "a", b"1")
    assert content(inbox) == {"a": b"1", "b": b"2"}


def test_an_entry_under_a_foreign_name_does_not_hide_a_sound_one(tmp_path: Path, inbox: Upload) -> None:
    put(tmp_path, inbox, "A", b"1")
    (inbox.root / "entries" / "A.json").write_text("{}")
    items = {item.key: item.problem for item in inbox.list()}
    assert items == {"A": None, "entries/A.json": Status.CORRUPT}


def test_an_inbox_that_cannot_be_read_fails(tmp_path: Path, inbox: Upload) -> None:
    inbox.root.mkdir(parents=True)
    (inbox.root / "entries").write_text("a file")
    with pytest.raises(ListingFailed):
        list(inbox.list())
