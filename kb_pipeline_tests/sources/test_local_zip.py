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

from kb_pipeline.sources import local_zip, zip_members
from kb_pipeline.sources.base import (
    Item,
    ItemCorrupt,
    ItemEncrypted,
    ItemUnreadable,
    ItemVanished,
    ListingFailed,
    SourceContext,
)
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


def test_too_many_members(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", {str(i): b"" for i in range(4)})
    archive(tmp_path / "b.zip", {str(i): b"" for i in range(3)})
    path = archive(tmp_path / "c.zip", {str(i): b"" for i in range(4)})
    data = bytearray(path.read_bytes())
    data[-14:-10] = struct.pack("<HH", 2, 2)  # an end record that lies
    path.write_bytes(data)
    items = listed(make(tmp_path, max_members=3))
    assert items["a.zip"].problem is Status.TOO_LARGE
    assert items["a.zip"].problem_detail == "4 members are more than max_members, 3"
    assert items["c.zip"].problem is Status.TOO_LARGE
    assert len(items) == 5


@pytest.mark.parametrize("extra", [False, True])
def test_members_that_overlap_are_corrupt_and_the_others_are_read(tmp_path: Path, extra: bool) -> None:
    path = archive(tmp_path / "a.zip", {"good": b"fine", "m": os.urandom(5000)})
    with zipfile.ZipFile(path) as opened:
        header = opened.getinfo("m").header_offset
    data = path.read_bytes()
    start, end = data.rfind(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")
    directory = data[data.find(b"PK\x01\x02") : end]
    quoted = data[start:end]
    # As D. Fifield's zip bomb (WOOT 2019): a second entry whose local header quotes the first one's, in its extra field.
    local = bytearray(data[header : header + 31])
    if extra:
        local[28:30] = struct.pack("<H", 31)
    second = bytearray(quoted.replace(b"m", b"n"))
    second[42:46] = struct.pack("<L", header)
    first = bytearray(quoted)
    first[42:46] = struct.pack("<L", header + 31)
    body = data[:header] + bytes(local).replace(b"m", b"n") + data[header : data.find(b"PK\x01\x02")]
    entries = directory[: -len(quoted)] + bytes(second) + bytes(first)
    path.write_bytes(body + entries + b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 3, 3, len(entries), len(body), 0))
    source = make(tmp_path)
    items = listed(source)
    assert {k: i.problem for k, i in items.items() if i.problem} == dict.fromkeys(["a.zip!/m", "a.zip!/n"], Status.CORRUPT)
    assert "overlap" in items["a.zip!/m"].problem_detail
    assert read(source, items["a.zip!/good"]) == b"fine"


def test_many_entries_of_the_same_bytes_are_corrupt(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": os.urandom(5000)})
    data = path.read_bytes()
    start, end = data.rfind(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")
    many = data[start:end] * 5
    path.write_bytes(data[:start] + many + b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 5, 5, len(many), start, 0))
    items = listed(make(tmp_path))
    assert [item.problem for item in items.values()] == [Status.CORRUPT] * 5


def test_a_local_header_that_reaches_into_the_next_member_is_corrupt(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": b"one", "n": b"two"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[28:30] = struct.pack("<H", 5)  # an extra field that isn't there
    path.write_bytes(data)
    source = make(tmp_path)
    items = listed(source)
    with pytest.raises(ItemCorrupt, match="overlap"):
        read(source, items["a.zip!/m"])
    assert read(source, items["a.zip!/n"]) == b"two"


def entry(name: bytes, *, method: int = 0, unpacked: int = 4, packed: int = 4) -> bytes:
    """An archive of one member with 4 bytes and a directory that says anything, in zip64."""
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 0, method, 0, 0, 0, 4, 4, len(name), 0) + name + b"data"
    extra = struct.pack("<HHQQ", 1, 16, unpacked, packed)
    sizes = (0, 0xFFFFFFFF, 0xFFFFFFFF)
    head = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, method, 0, 0, *sizes, len(name), 20, 0, 0, 0, 0, 0)
    directory = head + name + extra
    end = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 1, 1, len(directory), len(local), 0)
    return local + directory + end


def test_claims_beyond_every_bound_stay_with_their_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(entry(b"m", unpacked=(1 << 64) - 1))
    (tmp_path / "b.zip").write_bytes(entry(b"m", packed=(1 << 64) - 1))
    archive(tmp_path / "c.zip", {"m": b"fine"})
    items = listed(make(tmp_path))
    assert {k: i.problem for k, i in items.items()} == {
        "a.zip!/m": Status.TOO_LARGE,
        "b.zip!/m": Status.CORRUPT,
        "c.zip!/m": None,
    }
    assert items["a.zip!/m"].size is None


@pytest.mark.parametrize("method", [6, 9, 93, 98])
def test_a_method_nobody_unpacks_is_named_in_the_listing(tmp_path: Path, method: int) -> None:
    (tmp_path / "a.zip").write_bytes(entry(b"m", method=method))
    (item,) = listed(make(tmp_path)).values()
    assert item.problem is Status.UNSUPPORTED
    assert item.problem_detail.startswith(f"compression method {method} is not supported")


def test_all_members_together_are_bounded(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", {str(i): os.urandom(1000) for i in range(5)})
    archive(tmp_path / "b.zip", {"m": b"1"})
    items = listed(make(tmp_path, max_unpacked_bytes=4999))
    assert items["a.zip"].problem is Status.TOO_LARGE
    assert "5,000 bytes together; max_unpacked_bytes is 4,999" in items["a.zip"].problem_detail
    assert items["b.zip!/m"].problem is None
    assert len(listed(make(tmp_path, max_unpacked_bytes=5000))) == 6
    # What is left out takes nothing of the bound.
    assert len(listed(make(tmp_path, max_unpacked_bytes=4999, exclude=["0"]))) == 6


def test_many_small_bombs_are_one_bomb(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", {str(i): bytes(8 << 20) for i in range(9)})
    items = listed(make(tmp_path))
    assert [(k, i.problem) for k, i in items.items()] == [("a.zip", Status.TOO_LARGE)]
    assert "max_ratio is 200" in items["a.zip"].problem_detail
    assert len(listed(make(tmp_path, max_ratio=1500))) == 9


def test_what_a_bound_set_aside_has_another_version_than_what_is_read(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", {"m": bytes(20 << 20)})
    refused = listed(make(tmp_path))["a.zip!/m"]
    taken = listed(make(tmp_path, max_ratio=2000))["a.zip!/m"]
    assert (refused.problem, taken.problem) == (Status.TOO_LARGE, None)
    assert refused.version != taken.version
    with pytest.raises(ItemCorrupt, match="max_ratio"):
        read(make(tmp_path), refused)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return buffer.getvalue()


def test_members_of_an_archive_in_an_archive(tmp_path: Path) -> None:
    inner = zipped({"d/x.txt": b"x" * 300_000, "y.md": b"y"})
    archive(tmp_path / "a.zip", {"in/B.ZIP": inner, "in/B.ZIP x": b"z", "top.txt": b"t"})
    source = make(tmp_path)
    items = listed(source)
    assert {k: (i.excluded, i.parent, i.name) for k, i in items.items()} == {
        "a.zip!/in/B.ZIP": ("archive", "a.zip", "B.ZIP"),
        "a.zip!/in/B.ZIP x": (None, "a.zip", "B.ZIP x"),
        "a.zip!/in/B.ZIP!/d/x.txt": (None, "a.zip!/in/B.ZIP", "x.txt"),
        "a.zip!/in/B.ZIP!/y.md": (None, "a.zip!/in/B.ZIP", "y.md"),
        "a.zip!/top.txt": (None, "a.zip", "top.txt"),
    }
    assert items["a.zip!/in/B.ZIP!/y.md"].uri == f"zip://{tmp_path}/a.zip!/in/B.ZIP!/y.md"
    # Another process reads what this one listed.
    source = make(tmp_path)
    assert read(source, items["a.zip!/in/B.ZIP!/d/x.txt"]) == b"x" * 300_000
    assert read(source, items["a.zip!/in/B.ZIP!/y.md"]) == b"y"
    assert read(source, items["a.zip!/top.txt"]) == b"t"


def test_patterns_see_the_whole_path_and_look_into_archives(tmp_path: Path) -> None:
    inner = zipped({"x.txt": b"1", "y.md": b"2"})
    archive(tmp_path / "a.zip", {"in/b.zip": inner, "no/b.zip": inner})
    items = listed(make(tmp_path, include=["**/*.md"], exclude=["no/**"]))
    assert {k.removeprefix("a.zip!/"): i.excluded for k, i in items.items()} == {
        "in/b.zip": "archive",
        "in/b.zip!/x.txt": "include",
        "in/b.zip!/y.md": None,
        "no/b.zip": "exclude",
    }


def test_depth(tmp_path: Path) -> None:
    three = zipped({"c.zip": zipped({"deep.txt": b"deep"}, zipfile.ZIP_STORED)})
    archive(tmp_path / "a.zip", {"b.zip": three})
    assert {k: i.excluded for k, i in listed(make(tmp_path, max_depth=1)).items()} == {"a.zip!/b.zip": "depth"}
    assert {k: i.excluded for k, i in listed(make(tmp_path)).items()} == {
        "a.zip!/b.zip": "archive",
        "a.zip!/b.zip!/c.zip": "depth",
    }
    source = make(tmp_path, max_depth=3)
    assert read(source, listed(source)["a.zip!/b.zip!/c.zip!/deep.txt"]) == b"deep"


def test_a_bad_archive_in_an_archive_costs_only_itself(tmp_path: Path) -> None:
    inner = zipped({str(i): os.urandom(100) for i in range(5)})
    archive(tmp_path / "a.zip", {"b.zip": inner, "c.zip": b"no archive", "d.zip": inner[:-30], "good": b"fine"})
    problems: dict[Status | None, dict[str, Any]] = {Status.TOO_LARGE: {"max_members": 8}, None: {"max_members": 9}}
    for status, bound in problems.items():
        items = listed(make(tmp_path, **bound))
        assert items["a.zip!/b.zip"].problem is status
        assert items["a.zip!/c.zip"].problem is Status.CORRUPT
        assert items["a.zip!/d.zip"].problem is Status.CORRUPT
        assert read(make(tmp_path, **bound), items["a.zip!/good"]) == b"fine"
    bounds: list[dict[str, Any]] = [{"max_nested_bytes": len(inner) - 1}, {"max_unpacked_bytes": 2 * len(inner) + 450}]
    for bound in bounds:
        items = listed(make(tmp_path, **bound))
        assert items["a.zip!/b.zip"].problem is Status.TOO_LARGE
        assert next(iter(bound)) in items["a.zip!/b.zip"].problem_detail
        assert items["a.zip!/good"].problem is None


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_keys_of_members_and_inner_members_never_meet(tmp_path: Path) -> None:
    inner = zipped({"x": b"inner"})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for name, data in [("b.zip", inner), ("b.zip", inner), ("b.zip!/x", b"1"), ("b.zip!/x#2", b"2")]:
            opened.writestr(name, data)
    source = make(tmp_path)
    found = {k.removeprefix("a.zip!/"): read(source, i) for k, i in listed(source).items() if i.excluded is None}
    assert found == {"b.zip!/x": b"1", "b.zip!/x#2": b"2", "b.zip!/x#3": b"inner", "b.zip#2!/x": b"inner"}


def test_a_folder_named_like_an_archive_in_an_archive(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip!/b.zip", {"m": b"in a folder"})
    archive(tmp_path / "a.zip", {"b.zip": zipped({"n": b"in an archive"})})
    source = make(tmp_path, "**/*.zip")
    found = {k: read(source, i) for k, i in listed(source).items() if i.excluded is None}
    assert found == {"a.zip!/b.zip!/m": b"in a folder", "a.zip!/b.zip!/n": b"in an archive"}


def test_inner_members_read_by_many_threads_leave_no_files_open(tmp_path: Path) -> None:
    inner = {f"{n}.zip": zipped({str(i): f"{n}-{i}".encode() * 9000 for i in range(8)}) for n in range(4)}
    archive(tmp_path / "a.zip", inner)
    source = make(tmp_path)
    items = [item for item in source.list() if item.excluded is None]
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: read(source, item), items * 2))
    assert found == [
        f"{(item.parent or '')[len('a.zip!/') : -len('.zip')]}-{item.name}".encode() * 9000 for item in items * 2
    ]
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_an_unchanged_archive_is_looked_into_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []
    enter = zip_members._Walk.enter

    def spy(self: Any, file: Any, holder: str, *rest: Any) -> None:
        entered.append(holder)
        enter(self, file, holder, *rest)

    monkeypatch.setattr(zip_members._Walk, "enter", spy)
    path = archive(tmp_path / "a.zip", {"b.zip": zipped({"m": b"one", "n.md": b""})})
    first = listed(make(tmp_path))
    assert listed(make(tmp_path)) == first
    assert entered == ["", "b.zip"] * 2  # it is too young to be sure of
    monkeypatch.setattr(local_zip, "_YOUNG_NS", 0)
    for _ in range(3):
        assert listed(make(tmp_path)) == first
    assert entered == ["", "b.zip"] * 3
    assert listed(make(tmp_path, include=["**/*.md"]))["a.zip!/b.zip!/m"].excluded == "include"
    assert len(listed(make(tmp_path, max_depth=1))) == 1
    archive(path, {"b.zip": zipped({"m": b"two"})})
    assert listed(make(tmp_path))["a.zip!/b.zip!/m"].version != first["a.zip!/b.zip!/m"].version
    monkeypatch.setattr(local_zip, "_KEPT_MEMBERS", 1)
    archive(path, {"b.zip": zipped({"m": b"three"})})
    assert [len(listed(make(tmp_path))) for _ in range(2)] == [2, 2]
    assert local_zip._LOOKED_INTO._archives == {}


def test_what_a_reader_held_is_gone_with_it(tmp_path: Path) -> None:
    import gc
    import tracemalloc

    members = {str(i): b"abc" * 1000 for i in range(8)}  # LZMA takes 8 MiB to unpack each
    archive(tmp_path / "a.zip", {"b.zip": zipped(members, zipfile.ZIP_LZMA)})
    source = make(tmp_path)
    items = [item for item in source.list() if item.excluded is None]
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for item in items:
            assert read(source, item) == b"abc" * 1000
        assert tracemalloc.get_traced_memory()[0] < 4 << 20
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("before", [0, 70_000])
@pytest.mark.parametrize("after", [0, 1000])
def test_bytes_around_an_archive_change_nothing(tmp_path: Path, before: int, after: int) -> None:
    path = archive(tmp_path / "a.zip", {"m": b"one", "n": b"two" * 1000})
    path.write_bytes(b"\xff" * before + path.read_bytes() + b"\xff" * after)
    source = make(tmp_path)
    assert [read(source, item) for item in source.list()] == [b"one", b"two" * 1000]


def test_a_directory_that_is_cut_short_is_corrupt(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"m": b"one", "n": b"two"})
    data = path.read_bytes()
    end = data.rfind(b"PK\x05\x06")
    path.write_bytes(data[: end - 20] + data[end:])
    archive(tmp_path / "b.zip", {"m": b"fine"})
    items = listed(make(tmp_path))
    assert {k: i.problem for k, i in items.items()} == {"a.zip": Status.CORRUPT, "b.zip!/m": None}


def test_a_changed_archive_around_an_archive_has_vanished(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"b.zip": zipped({"m": b"one"})})
    source = make(tmp_path)
    item = listed(source)["a.zip!/b.zip!/m"]
    assert read(source, item) == b"one"
    archive(path, {"b.zip": zipped({"m": b"two"})})
    with pytest.raises(ItemVanished):
        read(source, item)
    path.unlink()
    with pytest.raises(ItemVanished):
        read(source, item)


def test_an_encrypted_archive_in_an_archive_needs_a_password(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"b.zip": zipped({"m": b"1"})})
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    (item,) = listed(make(tmp_path)).values()
    assert item.problem is Status.ENCRYPTED
    with pytest.raises(ItemEncrypted):
        read(make(tmp_path), item)


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
