"""What every source type promises, checked on each of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kb_pipeline.settings.secrets import SecretEnv
from kb_pipeline.sources.base import Item, ItemVanished, ListingFailed, Source, SourceConfig, SourceContext
from kb_pipeline.sources.capabilities import CAPABILITIES, Access, Changes, CursorExpired, ReadMany, capabilities
from kb_pipeline.sources.guard import guarded
from kb_pipeline.sources.local_directory import LocalDirectory, LocalDirectoryConfig
from kb_pipeline.sources.registry import build
from kb_pipeline.sources.upload import Upload, UploadConfig
from kb_pipeline_tests.sources.capable import Capable

CONTENT = {"b.txt": b"bee", "a-b.txt": b"dash", "a.txt": b"", "ü 100%#?.txt": b"u" * 3_000_000, "\U0001f600\n.md": b"s"}


@dataclass
class World:
    """A source, and a way to set what is in it. ``young`` builds the source as if everything were just written."""

    source: Source
    fill: Callable[[dict[str, bytes]], None]
    empty_is_failure: bool


def _local_directory(base: Path, context: SourceContext) -> World:
    config = LocalDirectoryConfig(name="c", type="local_directory", path="docs")
    docs = base / "docs"

    def fill(content: dict[str, bytes]) -> None:
        docs.mkdir(exist_ok=True)
        for old in docs.iterdir():
            if old.name not in content:
                old.unlink()
        for name, data in content.items():
            if not (docs / name).exists() or (docs / name).read_bytes() != data:
                (docs / name).write_bytes(data)

    # A clock far ahead: nothing on disk is young, as on the day after. The margin has its own tests.
    return World(LocalDirectory(config, context, clock=lambda: 1 << 62), fill, True)


def _local_zip(base: Path, context: SourceContext) -> World:
    from kb_pipeline.sources.local_zip import LocalZipConfig

    config = LocalZipConfig(name="c", type="local_zip", path="zips/*.zip")

    def fill(content: dict[str, bytes]) -> None:
        (base / "zips").mkdir(exist_ok=True)
        with zipfile.ZipFile(base / "zips" / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)

    return World(build(config, context), fill, True)


def _upload(base: Path, context: SourceContext) -> World:
    source = Upload(UploadConfig(name="c", type="upload"), context)

    def fill(content: dict[str, bytes]) -> None:
        for item in list(source.list()):
            if item.key not in content:
                source.remove(item.key)
        for name, data in content.items():
            (base / "in").mkdir(exist_ok=True)
            (base / "in" / name).write_bytes(data)
            source.add(base / "in" / name)

    return World(source, fill, False)


def _capable(base: Path, context: SourceContext) -> World:
    source = Capable()
    return World(source, source.fill, False)


class _SecretConfig(SourceConfig):
    token: SecretEnv


def _guarded(base: Path, context: SourceContext) -> World:
    source = Capable()
    config = _SecretConfig(name="c", type="capable", token=SecretEnv(env="TOKEN"))
    return World(guarded(source, config, context), source.fill, False)


WORLDS: dict[Callable[[Path, SourceContext], World], tuple[type, ...]] = {
    _local_directory: (),
    _local_zip: (),
    _upload: (),
    _capable: CAPABILITIES,
    _guarded: CAPABILITIES,
}
"""Every source type, with what it can do beside listing, reading and probing."""


def _world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    made: World = request.param(tmp_path, SourceContext(base=tmp_path, storage=tmp_path / ".kb"))
    return made


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return _world(request, tmp_path)


def with_capability(capability: type) -> pytest.MarkDecorator:
    """The test runs over every source that has it."""
    return pytest.mark.parametrize("capable", [make for make, has in WORLDS.items() if capability in has], indirect=True)


@pytest.fixture
def capable(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return _world(request, tmp_path)


def _read(source: Source, item: Item) -> bytes:
    with source.read(item) as stream:
        return stream.read()


def test_is_a_source(world: World) -> None:
    assert isinstance(world.source, Source)


def test_lists_unique_keys_in_ascending_order(world: World) -> None:
    world.fill(CONTENT)
    keys = [item.key for item in world.source.list()]
    assert len(keys) == len(CONTENT)
    assert keys == sorted(set(keys))


def test_reads_the_bytes(world: World) -> None:
    world.fill(CONTENT)
    assert {item.name: _read(world.source, item) for item in world.source.list()} == CONTENT
    assert {item.name: item.size for item in world.source.list()} == {n: len(d) for n, d in CONTENT.items()}


def test_reads_in_small_steps_and_stops_early(world: World) -> None:
    world.fill({"a": b"0123456789" * 200_000})
    (item,) = world.source.list()
    with world.source.read(item) as stream:
        assert stream.read(3) == b"012"
        assert stream.read(7) == b"3456789"
    with world.source.read(item) as stream:
        assert b"".join(iter(lambda: stream.read(77_777), b"")) == b"0123456789" * 200_000
        assert stream.read(1) == b""


def test_a_second_listing_without_change_is_equal(world: World) -> None:
    world.fill(CONTENT)
    assert list(world.source.list()) == list(world.source.list())


def test_a_change_gives_another_version_and_leaves_the_others(world: World) -> None:
    world.fill({"a": b"one", "b": b"two"})
    before = {item.name: item.version for item in world.source.list()}
    world.fill({"a": b"six", "b": b"two"})
    after = {item.name: item.version for item in world.source.list()}
    assert before["a"] != after["a"]
    assert before["b"] == after["b"]


def test_what_is_gone_is_not_listed_and_vanishes_on_reading(world: World) -> None:
    world.fill({"a": b"one", "b": b"two"})
    a, _ = world.source.list()
    world.fill({"b": b"two"})
    assert [item.name for item in world.source.list()] == ["b"]
    if isinstance(world.source, Upload):
        world.source.collect()
    with pytest.raises(ItemVanished), world.source.read(a):
        pass


def test_keys_names_and_addresses_are_valid_text(world: World) -> None:
    world.fill(CONTENT)
    for item in world.source.list():
        for text in (item.key, item.name, item.uri, item.version):
            text.encode()
        assert item.uri.isascii()


def test_nothing_there_yet(world: World) -> None:
    if world.empty_is_failure:
        with pytest.raises(ListingFailed, match="doesn't exist"):
            list(world.source.list())
    else:
        assert list(world.source.list()) == []


def test_probe_changes_nothing(world: World, tmp_path: Path) -> None:
    world.fill(CONTENT)
    before = sorted(tmp_path.rglob("*"))
    assert "\n" not in world.source.probe()
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------------------------------------------- capabilities


@pytest.mark.parametrize(("make", "has"), WORLDS.items())
def test_what_a_source_can_do_is_told_rightly(
    make: Callable[[Path, SourceContext], World], has: tuple[type, ...], tmp_path: Path
) -> None:
    assert capabilities(make(tmp_path, SourceContext(tmp_path, tmp_path)).source) == has


def _since(source: Changes, cursor: str) -> tuple[dict[str, Item | None], str]:
    """What became of each key since a cursor, and the next cursor."""
    found: dict[str, Item | None] = {}
    while True:
        page = source.changes(cursor)
        found |= {change.key: change.item for change in page.changes}
        assert not page.more or page.cursor != cursor
        cursor = page.cursor
        if not page.more:
            return found, cursor


@with_capability(Changes)
def test_a_feed_tells_what_the_next_listing_holds(capable: World) -> None:
    source = capable.source
    assert isinstance(source, Changes)
    before = source.changes(None).cursor
    assert _since(source, before)[0] == {}
    contents = [
        {"a": b"one", "b": b"two", "c": b"three", "d": b"four", "ü": b"five"},
        {"a": b"one", "b": b"six", "d": b"four", "e": b"seven"},
        {},
        {"a": b"one"},
    ]
    listed: dict[str, Item] = {}
    cursor = before
    for content in contents:
        capable.fill(content)
        changed, cursor = _since(source, cursor)
        for key, item in changed.items():
            listed.pop(key, None)
            if item is not None:
                assert item.key == key
                listed[key] = item
        assert [listed[key] for key in sorted(listed)] == list(source.list())
    # Told again from an earlier cursor, it comes to the same.
    assert {key for key, item in _since(source, before)[0].items() if item is not None} == {"a"}


@with_capability(Changes)
def test_a_feed_that_does_not_reach_back_says_so(capable: World) -> None:
    source = capable.source
    assert isinstance(source, Changes)
    cursor = source.changes(None).cursor
    (source if isinstance(source, Capable) else source._source).forget()  # type: ignore[attr-defined]
    with pytest.raises(CursorExpired):
        source.changes(cursor)
    assert _since(source, source.changes(None).cursor)[0] == {}


@with_capability(ReadMany)
def test_many_read_at_once_are_as_each_read_alone(capable: World) -> None:
    source = capable.source
    assert isinstance(source, ReadMany)
    capable.fill(CONTENT)
    items = list(source.list())
    gone = items[0]
    capable.fill({name: data for name, data in CONTENT.items() if name != gone.name})
    answers = {item.key: answer for item, answer in source.read_many(items)}
    for item in items:
        answer = answers.pop(item.key)
        if isinstance(answer, Exception):
            with pytest.raises(type(answer), match=str(answer)), source.read(item):
                pass
        else:
            assert answer == _read(source, item)
    assert not answers
    assert list(source.read_many([])) == []


@with_capability(Access)
def test_who_may_read_is_said_in_principals(capable: World) -> None:
    source = capable.source
    assert isinstance(source, Access)
    capable.fill({"a": b"one", "b": b"two"})
    items = list(source.list())
    for item in items:
        for principal in source.access(item):
            kind, colon, name = principal.partition(":")
            assert (kind, colon, name) == ("anyone", "", "") or (kind in {"user", "group", "domain"} and name)
    capable.fill({})
    with pytest.raises(ItemVanished):
        source.access(items[0])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.sampled_from("aB! -#~é."), min_size=1, max_size=4).filter(lambda n: not n.startswith(".")),
        st.binary(max_size=20),
        max_size=6,
    )
)
def test_any_content_comes_back(world: World, content: dict[str, bytes]) -> None:
    world.fill(content)
    items = list(world.source.list())
    assert [i.key for i in items] == sorted({i.key for i in items})
    assert {item.name: _read(world.source, item) for item in items} == content
