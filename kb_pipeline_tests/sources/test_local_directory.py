from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kb_pipeline.sources.base import Item, ItemUnreadable, ItemVanished, ListingFailed, SourceContext
from kb_pipeline.sources.local_directory import LocalDirectory, LocalDirectoryConfig, _time

DAY_NS = 86_400 * 10**9


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    return tmp_path / "docs"


def make(root: Path, clock: Callable[[], int] = lambda: 1 << 62, **config: Any) -> LocalDirectory:
    settings = LocalDirectoryConfig(name="c", type="local_directory", path=config.pop("path", root.name), **config)
    return LocalDirectory(settings, SourceContext(base=root.parent, storage=root.parent / ".kb"), clock=clock)


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def rules(source: LocalDirectory) -> dict[str, str | None]:
    items = list(source.list())
    assert [i.key for i in items] == sorted({i.key for i in items})
    return {item.key: item.excluded for item in items}


def read(source: LocalDirectory, item: Item) -> bytes:
    with source.read(item) as stream:
        return stream.read()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.lists(st.sampled_from(["a", "a-b", "a!", "a0", "b", "a b"]), min_size=1, max_size=3).map("/".join)))
def test_keys_ascend_over_folders(tmp_path: Path, paths: set[str]) -> None:
    root = tmp_path / "docs"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    files = {p for p in paths if not any(other.startswith(p + "/") for other in paths)}
    write(root, *files)
    assert rules(make(root)) == dict.fromkeys(files)


def test_rules_name_what_is_left_out(root: Path) -> None:
    write(root, "a.md", "a.txt", "x/b.md", "x/drafts/c.md", "x/drafts/y/d.md", ".git/config", ".env", "x/skip.md")
    source = make(root, include=["**/*.md"], exclude=["**/drafts/**", "**/skip.*"])
    assert rules(source) == {
        ".env": "hidden",
        ".git/": "hidden",
        "a.md": None,
        "a.txt": "include",
        "x/b.md": None,
        "x/drafts/": "exclude",
        "x/skip.md": "exclude",
    }


def test_hidden_takes_hidden_ones(root: Path) -> None:
    write(root, ".env", ".git/config")
    assert rules(make(root, hidden=True)) == {".env": None, ".git/config": None}


def test_the_storage_is_never_listed(root: Path) -> None:
    write(root.parent, ".kb/table.parquet", "docs/a")
    assert rules(make(root, path=".", hidden=True)) == {".kb/": "storage", "docs/a": None}


def test_links_inside_are_listed_and_links_out_are_not(root: Path) -> None:
    write(root, "a", "x/b")
    write(root.parent, "outside/secret")
    (root / "in").symlink_to("x/b")
    (root / "out").symlink_to("../outside/secret")
    (root / "outdir").symlink_to("../outside")
    (root / "indir").symlink_to("x")
    (root / "dangling").symlink_to("nothing")
    (root / "circle").symlink_to("circle")
    source = make(root)
    assert rules(source) == {
        "a": None,
        "circle": "link",
        "dangling": "link",
        "in": None,
        "indir/": "link",
        "out": "link",
        "outdir/": "link",
        "x/b": None,
    }
    linked = next(item for item in source.list() if item.key == "in")
    assert read(source, linked) == b"x/b"
    (root / "x/b").write_text("other")
    assert next(item for item in source.list() if item.key == "in").version != linked.version


def test_following_links_ends(root: Path) -> None:
    write(root.parent, "outside/o")
    write(root, "x/b")
    (root / "x/up").symlink_to("..")
    (root / "x/self").symlink_to(".")
    (root / "out").symlink_to("../outside")
    (root.parent / "outside/back").symlink_to("../docs")
    (root / "a").symlink_to("../outside/o")
    found = rules(make(root, follow_links=True))
    assert found == {"a": None, "out/back/": "link", "out/o": None, "x/b": None, "x/self/": "link", "x/up/": "link"}
    source = make(root, follow_links=True)
    assert {i.key: read(source, i) for i in source.list() if not i.excluded}["out/o"] == b"outside/o"


def test_folders_that_all_link_to_each_other_do_not_explode(root: Path) -> None:
    for a in range(12):
        (root / str(a)).mkdir()
        for b in range(12):
            (root / str(a) / f"to{b}").symlink_to(f"../{b}")
    assert len(rules(make(root, follow_links=True))) < 12**3 * 2


def test_special_files_are_left_out(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert rules(make(root)) == {"pipe": "special"}


def test_a_pipe_in_place_of_a_file_does_not_hang(root: Path) -> None:
    write(root, "a")
    source = make(root)
    (item,) = source.list()
    (root / "a").unlink()
    os.mkfifo(root / "a")
    with pytest.raises(ItemVanished):
        read(source, item)


def test_names_that_are_no_unicode_are_listed_and_read(root: Path) -> None:
    names = [b"caf\xe9.txt", rb"caf\udce9.txt", b"\xff\xfe", rb"\\udc80", b"back\\slash"]
    for name in names:
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(name)
    source = make(root)
    items = list(source.list())
    assert sorted(read(source, item) for item in items) == sorted(names)
    assert len({item.key for item in items}) == len(names)
    for item in items:
        (item.key + item.name + item.uri).encode()


def test_a_name_may_be_a_folder_below_an_undecodable_one(root: Path) -> None:
    os.makedirs(os.path.join(os.fsencode(root), b"d\xff"))
    with open(os.path.join(os.fsencode(root), b"d\xff/f"), "wb") as file:
        file.write(b"x")
    source = make(root)
    (item,) = source.list()
    assert item.key == "d\\udcff/f"
    assert read(source, item) == b"x"


def test_a_young_file_is_read_again_until_it_is_old(root: Path) -> None:
    write(root, "a")
    written = (root / "a").stat().st_ctime_ns

    def version(now: int) -> str:
        return next(make(root, clock=lambda: now).list()).version

    young, later, old = version(written + 1_000_000), version(written + 19_000_000), version(written + DAY_NS)
    assert len({young, later, old}) == 3
    assert "racy" in young
    assert "racy" not in old
    assert version(written + 2 * DAY_NS) == old
    assert "racy" in version(written - DAY_NS)  # a clock set back proves nothing


def test_a_wrong_date_in_the_future_does_not_make_a_file_young(root: Path) -> None:
    write(root, "a")
    future = (root / "a").stat().st_ctime_ns + 3650 * DAY_NS
    os.utime(root / "a", ns=(future, future))
    now = (root / "a").stat().st_ctime_ns + DAY_NS
    assert "racy" not in next(make(root, clock=lambda: now).list()).version


def test_a_young_mtime_counts_where_ctime_is_old(root: Path) -> None:
    write(root, "a")
    now = (root / "a").stat().st_ctime_ns + DAY_NS
    os.utime(root / "a", ns=(now, now))
    assert "racy" in next(make(root, clock=lambda: now).list()).version


def test_same_size_and_restored_mtime_is_still_a_change(root: Path) -> None:
    write(root, "a")
    before = (root / "a").stat()
    (first,) = make(root).list()
    while (root / "a").stat().st_ctime_ns == before.st_ctime_ns:  # until the kernel's clock has ticked
        (root / "a").write_text("b")
        os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    (second,) = make(root).list()
    assert first.version != second.version


def test_strange_dates_do_not_stop_the_listing(root: Path) -> None:
    write(root, "a", "b")
    os.utime(root / "a", (0, 253402300800 * 2))  # file systems clamp what they can't hold
    os.utime(root / "b", (0, -1))
    assert [item.key for item in make(root).list()] == ["a", "b"]
    assert _time(253402300800 * 10**9) is None
    assert _time(-(10**9)) == datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_a_missing_root_fails(root: Path) -> None:
    root.rmdir()
    with pytest.raises(ListingFailed, match="doesn't exist"):
        list(make(root).list())


def test_a_root_that_is_a_file_fails(root: Path) -> None:
    write(root, "a")
    for call in (lambda: list(make(root, path="docs/a").list()), make(root, path="docs/a").probe):
        with pytest.raises(ListingFailed, match="not a folder"):
            call()


def test_a_folder_that_cannot_be_read_fails_and_says_how_to_leave_it_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, "a", "secret/b")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).rstrip("/").endswith("secret"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ListingFailed, match=r'secret.*Permission denied.*"secret/\*\*".*exclude'):
        list(make(root).list())
    assert rules(make(root, exclude=["secret/**"])) == {"a": None, "secret/": "exclude"}


def _consume(items: Iterator[Item], until: str) -> None:
    for item in items:
        if item.key == until:
            return


def test_a_folder_deleted_during_the_walk_is_gone(root: Path) -> None:
    write(root, "a", "b/c", "d")
    listing = make(root).list()
    _consume(listing, "a")
    shutil.rmtree(root / "b")
    assert [item.key for item in listing] == ["d"]


def test_a_root_deleted_during_the_walk_fails(root: Path) -> None:
    write(root, "a", "b")
    listing = make(root).list()
    _consume(listing, "a")
    shutil.rmtree(root)
    with pytest.raises(ListingFailed):
        list(listing)


@pytest.mark.parametrize("last", ["a", "b"])
def test_a_root_replaced_during_the_walk_fails(root: Path, last: str) -> None:
    write(root, "a", "b")
    listing = make(root).list()
    _consume(listing, last)
    root.rename(root.parent / "old")  # what unmounting a drive looks like
    root.mkdir()
    with pytest.raises(ListingFailed, match="replaced"):
        list(listing)


def test_a_folder_replaced_during_the_walk_fails(root: Path) -> None:
    write(root, "x/a", "x/b")
    listing = make(root).list()
    _consume(listing, "x/a")
    (root / "x").rename(root.parent / "old")
    (root / "x").mkdir()
    with pytest.raises(ListingFailed, match="replaced"):
        list(listing)


def test_a_folder_that_becomes_a_file_fails(root: Path) -> None:
    write(root, "a", "b/c")
    listing = make(root).list()
    _consume(listing, "a")
    shutil.rmtree(root / "b")
    write(root, "b")
    with pytest.raises(ListingFailed, match="changed"):
        list(listing)


def test_a_link_swapped_in_after_listing_is_not_followed(root: Path) -> None:
    write(root.parent, "outside/f")
    write(root, "a", "x/f")
    source = make(root)
    a, f = source.list()
    (root / "a").unlink()
    (root / "a").symlink_to(root.parent / "outside/f")
    shutil.rmtree(root / "x")
    (root / "x").symlink_to(root.parent / "outside")
    for item in (a, f):
        with pytest.raises(ItemUnreadable, match="leaves"):
            read(source, item)


@pytest.mark.parametrize("swapped", ["x", "x/f"])
def test_a_link_swapped_in_while_opening_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch, swapped: str) -> None:
    write(root.parent, "outside/f")
    write(root, "x/f")
    source = make(root)
    (item,) = source.list()
    realpath = os.path.realpath

    def swap(path: str, *, strict: bool = False) -> str:
        result = realpath(path, strict=strict)
        if strict and (root / swapped).exists():
            (root / swapped).rename(root.parent / "old")
            (root / swapped).symlink_to(root.parent / "outside" / swapped[2:])
        return result

    monkeypatch.setattr(os.path, "realpath", swap)
    with pytest.raises((ItemUnreadable, ItemVanished)):
        read(source, item)
    assert (root / swapped).is_symlink()


def test_errors_of_opening_and_reading_are_transient(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "a")
    source = make(root)
    (item,) = source.list()

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", fail)
        with pytest.raises(ItemUnreadable, match="Input/output"), source.read(item) as stream:
            stream.read()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(ItemUnreadable, match="Input/output"):
            read(source, item)


def test_descriptors_are_closed_and_the_readers_own_errors_pass(root: Path) -> None:
    write(root, "a")
    source = make(root)
    (item,) = source.list()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        with pytest.raises(OSError, match="mine"), source.read(item):
            raise OSError("mine")
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)


def test_a_very_deep_tree(root: Path) -> None:
    deep = "/".join([str(root), *["d"] * 1200])
    os.makedirs(deep[: len(deep) // 2 + 1].rstrip("/"))  # makedirs recurses: in two steps
    os.makedirs(deep)
    with open(f"{deep}/f", "w") as file:
        file.write("x")
    try:
        assert len(rules(make(root))) == 1
    finally:  # pytest's own clean-up recurses, and would fail in later runs
        subprocess.run(["rm", "-rf", str(root)], check=True)


@pytest.mark.parametrize("bad", [{"include": []}, {"include": ["/abs"]}, {"exclude": ["a/../b"]}, {"path": ""}])
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LocalDirectoryConfig(**{"name": "c", "type": "local_directory", "path": "x", **bad})
