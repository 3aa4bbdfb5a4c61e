from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kb_pipeline.sources import local_zip
from kb_pipeline.sources.base import Item, ItemCorrupt, ItemUnreadable, ItemVanished, ListingFailed, SourceContext
from kb_pipeline.sources.local_zip import LocalZip, LocalZipConfig
from kb_pipeline.statuses import Status


def make(base: Path, path: str = "*.zip", **config: Any) -> LocalZip:
    return LocalZip(
        LocalZipConfig(name="c", type="local_zip", path=path, **config), SourceContext(base=base, storage=base / ".kb")
    )


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return path


def listed(source: LocalZip) -> dict[str, Item]:
    items = list(source.list())
    assert [i.key for i in items] == sorted({i.key for i in items})
    return {item.key: item for item in items}


def read(source: LocalZip, item: Item) -> bytes:
    with source.read(item) as stream:
        return stream.read()


def patch(path: Path, old: bytes, new: bytes, count: int = -1) -> None:
    data = path.read_bytes()
    assert old in data
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new, count))


def test_members_have_keys_parents_and_addresses(tmp_path: Path) -> None:
    archive(tmp_path / "in/x y.zip", {"d/ü.txt": b"1", "d/": b""})
    (item,) = listed(make(tmp_path, "**/*.zip")).values()
    assert item.key == "in/x y.zip!/d/ü.txt"
    assert item.parent == "in/x y.zip"
    assert item.name == "ü.txt"
    assert item.uri == f"zip://{tmp_path}/in/x%20y.zip!/d/%C3%BC.txt"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_is_read(tmp_path: Path, method: int) -> None:
    members = {"a": os.urandom(200_000), "b": b"text " * 100_000, "c": b""}
    archive(tmp_path / "a.zip", members, method)
    source = make(tmp_path)
    assert {i.name: read(source, i) for i in source.list()} == members


def test_only_the_patterns_folder_is_looked_at(tmp_path: Path) -> None:
    for path in ("a.zip", "b/c.zip", ".h.zip", "b/.h/c.zip"):
        archive(tmp_path / path, {"m": b"1"})
    (tmp_path / "a.txt").write_text("no archive")
    assert list(listed(make(tmp_path))) == ["a.zip!/m"]
    assert list(listed(make(tmp_path, "*/*.zip"))) == ["b/c.zip!/m"]
    assert list(listed(make(tmp_path, "**/*.zip"))) == ["a.zip!/m", "b/c.zip!/m"]
    assert list(listed(make(tmp_path, "b/c.zip"))) == ["c.zip!/m"]


def test_a_literal_name_with_brackets(tmp_path: Path) -> None:
    archive(tmp_path / "a[1].zip", {"m": b"1"})
    archive(tmp_path / "a1.zip", {"m": b"1"})
    assert list(listed(make(tmp_path, "a[1].zip"))) == ["a[1].zip!/m"]


def test_keys_of_archives_with_similar_names_ascend(tmp_path: Path) -> None:
    for name in ("a", "a b", "a!", "a-", "a b c", "a\t"):
        archive(tmp_path / name, {"m": b"1", "\x01": b"", "z": b"2"})
    (tmp_path / "a ").write_text("no archive")
    (tmp_path / "a !").write_text("no archive")
    assert len(listed(make(tmp_path, "a*"))) == 6 * 3 + 2


def test_no_match_is_an_empty_listing_but_a_missing_file_or_folder_fails(tmp_path: Path) -> None:
    assert listed(make(tmp_path)) == {}
    for path in ("missing.zip", "missing/*.zip"):
        with pytest.raises(ListingFailed, match="doesn't exist"):
            list(make(tmp_path, path).list())


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06", b"PK\x03\x04" + b"\0" * 100, b"\0" * 70_000])
def test_what_is_no_archive_is_one_corrupt_item(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    items = listed(make(tmp_path))
    assert [(k, i.problem, i.parent) for k, i in items.items()] == [("a.zip", Status.CORRUPT, None)]
    with pytest.raises(ItemCorrupt):
        read(make(tmp_path), items["a.zip"])


def test_a_cut_off_archive_is_corrupt(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": os.urandom(5000)})
    path.write_bytes(path.read_bytes()[:-30])
    assert listed(make(tmp_path))["a.zip"].problem is Status.CORRUPT


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.integers(0, 400))
def test_damage_never_escapes(tmp_path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("dir/a.txt", b"hello " * 20)
        opened.writestr("b.bin", bytes(range(40)))
        opened.writestr(zipfile.ZipInfo("c.lz"), b"lzma " * 9, zipfile.ZIP_LZMA)
    data = bytearray(buffer.getvalue())
    for at, value in changes:
        data[at % len(data)] = value
    (tmp_path / "a.zip").write_bytes(data[: len(data) - cut] if cut % 7 == 0 else data)
    source = make(tmp_path)
    for item in listed(source).values():
        if item.problem is None and item.excluded is None:
            with suppress(ItemCorrupt, ItemVanished, ItemUnreadable):
                assert len(read(source, item)) == item.size


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "C:/x", "c:x", "..\\x", "\\x", "a\\..\\x", "a/..", "\\\\host\\x"]
)
def test_unsafe_paths_are_corrupt_items(tmp_path: Path, name: str) -> None:
    archive(tmp_path / "a.zip", {name: b"1", "good": b"2"})
    items = listed(make(tmp_path))
    assert items["a.zip!/" + name].problem is Status.CORRUPT
    assert items["a.zip!/" + name].problem_detail == "unsafe member path"
    assert items["a.zip!/good"].problem is None


def test_a_nul_in_a_name_is_unsafe(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"goodX.txt": b"1", "good": b"2"})
    patch(path, b"goodX.txt", b"good\0.txt")
    items = listed(make(tmp_path))
    assert items["a.zip!/good\\0.txt"].problem is Status.CORRUPT
    assert items["a.zip!/good"].problem is None


def test_backslashes_between_folders_are_read_as_folders(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", {"dir\\a.txt": b"1", "dir\\": b""})
    source = make(tmp_path, include=["dir/*.txt"])
    (item,) = listed(source).values()
    assert (item.name, item.excluded, read(source, item)) == ("a.txt", None, b"1")


def test_rules(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.zip",
        {"a.md": b"", "a.txt": b"", ".DS_Store": b"", "d/.x/y.md": b"", "__MACOSX/._a": b"", "o/b.md": b""},
    )
    with zipfile.ZipFile(path, "a") as opened:
        link = zipfile.ZipInfo("link.md")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
    assert {
        k.removeprefix("a.zip!/"): i.excluded
        for k, i in listed(make(tmp_path, include=["**/*.md"], exclude=["o/**"])).items()
    } == {
        ".DS_Store": "hidden",
        "__MACOSX/._a": "hidden",
        "a.md": None,
        "a.txt": "include",
        "d/.x/y.md": "hidden",
        "link.md": "link",
        "o/b.md": "exclude",
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_the_same_name_are_all_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for name, data in [("a", "1"), ("a", "2"), ("a#2", "x"), ("a", "3")]:
            opened.writestr(name, data)
    source = make(tmp_path)
    assert {k.removeprefix("a.zip!/"): read(source, i) for k, i in listed(source).items()} == {
        "a": b"1",
        "a#2": b"x",
        "a#3": b"2",
        "a#4": b"3",
    }


def test_encrypted_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": b"1"})
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert listed(make(tmp_path))["a.zip!/m"].problem is Status.ENCRYPTED


def test_a_bomb_is_too_large_and_dense_text_is_not(tmp_path: Path) -> None:
    text = "\n".join(str(i) for i in range(1_500_000)).encode()
    archive(tmp_path / "a.zip", {"bomb": bytes(20 << 20), "small": bytes(1 << 20), "text": text})
    items = listed(make(tmp_path))
    assert items["a.zip!/bomb"].problem is Status.TOO_LARGE
    assert items["a.zip!/small"].problem is None
    assert items["a.zip!/text"].problem is None


def test_more_than_declared_is_corrupt(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": b"x" * 5000})
    patch(path, struct.pack("<L", 5000), struct.pack("<L", 40))
    source = make(tmp_path)
    item = listed(source)["a.zip!/m"]
    assert item.size == 40
    with pytest.raises(ItemCorrupt, match="more than the declared 40"):
        read(source, item)


def test_less_than_declared_and_wrong_checksums_are_corrupt(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": b"x" * 5000}, zipfile.ZIP_STORED)
    good = path.read_bytes()
    source = make(tmp_path)
    patch(path, b"xxx", b"xyx", 1)
    with pytest.raises(ItemCorrupt, match="checksum"):
        read(source, listed(source)["a.zip!/m"])
    path.write_bytes(good)
    at = good.rfind(b"PK\x01\x02") + 24
    path.write_bytes(good[:at] + struct.pack("<L", 6000) + good[at + 4 :])
    with pytest.raises(ItemCorrupt, match="missing"):
        read(source, listed(source)["a.zip!/m"])


def test_reading_a_bomb_that_lies_holds_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = archive(tmp_path / "a.zip", {"m": bytes(64 << 20)}, zipfile.ZIP_BZIP2)
    patch(path, struct.pack("<L", 64 << 20), struct.pack("<L", 1000))
    source = make(tmp_path)
    item = listed(source)["a.zip!/m"]
    tracemalloc.start()
    with pytest.raises(ItemCorrupt):
        read(source, item)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_zip, "MAX_MEMBERS", 3)
    archive(tmp_path / "a.zip", {str(i): b"" for i in range(4)})
    archive(tmp_path / "b.zip", {str(i): b"" for i in range(3)})
    path = archive(tmp_path / "c.zip", {str(i): b"" for i in range(4)})
    data = bytearray(path.read_bytes())
    data[-14:-10] = struct.pack("<HH", 2, 2)  # an end record that lies
    path.write_bytes(data)
    items = listed(make(tmp_path))
    assert items["a.zip"].problem is Status.TOO_LARGE
    assert items["c.zip"].problem is Status.TOO_LARGE
    assert len(items) == 5


def test_members_that_share_bytes_are_a_bomb(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": os.urandom(5000)})
    data = path.read_bytes()
    start = data.rfind(b"PK\x01\x02")
    end = data.rfind(b"PK\x05\x06")
    record = data[start:end]
    many = record * 5
    path.write_bytes(data[:start] + many + b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 5, 5, len(many), start, 0))
    assert listed(make(tmp_path))["a.zip"].problem is Status.TOO_LARGE


def test_an_archive_with_bytes_in_front_and_a_zip64_one(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": b"payload"})
    path.write_bytes(b"#!/bin/sh\n" * 50 + path.read_bytes())
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as opened, opened.open("m", "w", force_zip64=True) as member:
        member.write(b"payload")
    source = make(tmp_path)
    assert [read(source, item) for item in listed(source).values()] == [b"payload", b"payload"]


def test_a_real_zip64_directory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for i in range(65_600):
            opened.writestr(f"{i:05}", b"")
    assert sum(1 for _ in make(tmp_path).list()) == 65_600


def test_an_archive_that_cannot_be_read_fails_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path / "a.zip", {"m": b"1"})
    opened = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("a.zip"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ListingFailed, match="Permission denied"):
        list(make(tmp_path).list())


def test_a_member_that_changed_since_the_listing_has_vanished(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": b"one"})
    source = make(tmp_path)
    item = listed(source)["a.zip!/m"]
    assert read(source, item) == b"one"
    archive(path, {"m": b"two"})
    with pytest.raises(ItemVanished):
        read(source, item)
    path.write_bytes(b"no archive any more")
    with pytest.raises(ItemVanished):
        read(source, item)
    path.unlink()
    with pytest.raises(ItemVanished):
        read(source, item)


def test_an_archive_rewritten_while_it_is_read_is_not_called_corrupt(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": os.urandom(4 << 20)}, zipfile.ZIP_STORED)
    source = make(tmp_path)
    item = listed(source)["a.zip!/m"]
    with source.read(item) as stream:
        stream.read(10)
        with path.open("r+b") as file:
            file.write(bytes(5 << 20))
        with pytest.raises(ItemUnreadable, match="changed"):
            stream.read()


def test_a_link_out_of_the_folder_is_named(tmp_path: Path) -> None:
    archive(tmp_path / "outside/a.zip", {"m": b"1"})
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.zip").symlink_to("../outside/a.zip")
    assert {k: i.excluded for k, i in listed(make(tmp_path, "in/*.zip")).items()} == {"a.zip": "link"}


def test_an_archive_that_goes_away_while_listing_fails(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        archive(tmp_path / name, {"m": b"1"})
    listing = make(tmp_path).list()
    assert next(listing).key == "a.zip!/m"
    (tmp_path / "b.zip").unlink()
    with pytest.raises(ListingFailed, match="went away"):
        list(listing)


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        archive(tmp_path / name, {str(i): f"{name}{i}".encode() * 5000 for i in range(20)})
    source = make(tmp_path)
    items = list(source.list())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: read(source, item), items))
    assert found == [f"{item.parent}{item.name}".encode() * 5000 for item in items]
