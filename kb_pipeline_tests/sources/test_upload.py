from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kb_pipeline.sources.base import ItemCorrupt, ItemVanished, ListingFailed, SourceContext, SourceError
from kb_pipeline.sources.upload import Upload, UploadConfig
from kb_pipeline.statuses import Status
from kb_pipeline.storage.bucket import Bucket
from kb_pipeline.storage.files import Files, FilesUnavailable, Folder


@pytest.fixture(params=["folder", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "folder":
        return Folder(tmp_path / ".kb", tmp_path / ".kb" / "staging")
    return Bucket(request.getfixturevalue("s3").location())


@pytest.fixture
def inbox(tmp_path: Path, files: Files) -> Upload:
    context = SourceContext(base=tmp_path, storage=tmp_path / ".kb", remote=files)
    return Upload(UploadConfig(name="inbox", type="upload"), context)


def put(tmp_path: Path, inbox: Upload, name: str, data: bytes) -> str:
    folder = tmp_path / "from"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return inbox.add(folder / name)


def kept(files: Files, below: str) -> list[str]:
    """Names of the files in a folder of the inbox."""
    return sorted(each.key.removeprefix(f"uploads/inbox/{below}/") for each in files.list(f"uploads/inbox/{below}"))


def staged(tmp_path: Path) -> list[Path]:
    return list((tmp_path / ".kb" / "staging").iterdir())


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
    assert staged(tmp_path) == []


def test_remove_and_collect(tmp_path: Path, inbox: Upload, files: Files) -> None:
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
    assert kept(files, "blobs") == []


@pytest.mark.parametrize("name", ["a\nb.txt", "\U0001f600.md", "é" * 100, "A" * 255, "%2f", "..", " ", ".hidden", "a%"])
def test_any_name_works(tmp_path: Path, inbox: Upload, name: str) -> None:
    if name == "..":
        name = "..."
    assert put(tmp_path, inbox, name, b"x") == "added"
    assert put(tmp_path, inbox, name, b"x") == "unchanged"
    assert content(inbox) == {name: b"x"}
    assert inbox.remove(name)


def test_names_that_differ_in_case_or_only_in_their_end_stay_apart(tmp_path: Path, inbox: Upload, files: Files) -> None:
    names = ["a.txt", "A.txt", "é" * 100 + "1", "é" * 100 + "2"]
    for name in names:
        put(tmp_path, inbox, name, name.encode())
    assert content(inbox) == {name: name.encode() for name in names}
    assert len({name.lower() for name in kept(files, "entries")}) == 4


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


@pytest.mark.parametrize("step", ["keep", "put"])
def test_a_storage_that_takes_nothing_leaves_the_old_file(
    tmp_path: Path, inbox: Upload, files: Files, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    put(tmp_path, inbox, "a", b"1")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(files), step, full)
        with pytest.raises(OSError, match="No space"):
            put(tmp_path, inbox, "a", b"2")
    assert content(inbox) == {"a": b"1"}
    assert staged(tmp_path) == []
    # A bucket takes small bytes by the same way as an entry: there they were refused before it came to the entry.
    assert inbox.collect() == (1 if step == "put" and isinstance(files, Folder) else 0)


def test_bytes_that_are_gone_or_changed(tmp_path: Path, inbox: Upload, files: Files) -> None:
    put(tmp_path, inbox, "a", b"1")
    (item,) = inbox.list()
    (name,) = kept(files, "blobs")
    blob = f"uploads/inbox/blobs/{name}"
    files.put(blob, b"2")
    with pytest.raises(ItemCorrupt), inbox.read(item) as stream:
        stream.read()
    files.put(blob, b"")
    with pytest.raises(ItemCorrupt), inbox.read(item) as stream:
        stream.read()
    files.delete([blob])
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
def test_a_damaged_entry_is_one_bad_item(tmp_path: Path, inbox: Upload, files: Files, damage: bytes) -> None:
    put(tmp_path, inbox, "a", b"1")
    put(tmp_path, inbox, "b", b"2")
    files.put("uploads/inbox/entries/a.json", damage)
    items = {item.key: item.problem for item in inbox.list()}
    assert items == {"a": Status.CORRUPT, "b": None}
    with pytest.raises(ListingFailed):
        inbox.collect()
    put(tmp_path, inbox, "a", b"1")
    assert content(inbox) == {"a": b"1", "b": b"2"}


def test_an_entry_under_a_foreign_name_does_not_hide_a_sound_one(tmp_path: Path, inbox: Upload, files: Files) -> None:
    put(tmp_path, inbox, "A", b"1")
    files.put("uploads/inbox/entries/A.json", b"{}")
    items = {item.key: item.problem for item in inbox.list()}
    assert items == {"A": None, "entries/A.json": Status.CORRUPT}


def test_an_inbox_that_cannot_be_read_fails(inbox: Upload, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> None:
        raise FilesUnavailable("the server can't be reached")

    monkeypatch.setattr(type(files), "list", unreachable)
    with pytest.raises(ListingFailed, match=r"inbox .*entries can't be read: the server can't be reached"):
        list(inbox.list())


def test_an_inbox_whose_folder_is_none_fails(tmp_path: Path) -> None:
    inbox = Upload(UploadConfig(name="inbox", type="upload"), SourceContext(base=tmp_path, storage=tmp_path / ".kb"))
    (tmp_path / ".kb/uploads/inbox").mkdir(parents=True)
    (tmp_path / ".kb/uploads/inbox/entries").write_text("a file")
    with pytest.raises(ListingFailed, match="Not a directory"):
        list(inbox.list())


def test_adding_removing_and_collecting_are_done_alone(tmp_path: Path, files: Files) -> None:
    names = []

    @contextmanager
    def alone(name: str) -> Iterator[None]:
        names.append(name)
        yield

    context = SourceContext(tmp_path, tmp_path / ".kb", files, alone)
    inbox = Upload(UploadConfig(name="scans", type="upload"), context)
    put(tmp_path, inbox, "a", b"1")
    inbox.remove("a")
    inbox.collect()
    assert names == ["uploads/scans"] * 3
