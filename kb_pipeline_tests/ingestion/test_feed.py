"""A listing brought up to date from a change feed is the listing that the source would give."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.ingestion import feed, listing
from kb_pipeline.ingestion.listed import ListingDigest
from kb_pipeline.sources.base import Item, ListingFailed
from kb_pipeline.sources.capabilities import Change, ChangePage
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests.sources.capable import Capable

Contents = Mapping[str, bytes]


@dataclass
class Listings:
    """Listings of one source with a feed, one after the other."""

    storage: Storage
    source: Any
    settings: str = "one"

    def take(self) -> listing.ListingInfo:
        """List, however it is done."""
        return listing.take(
            self.storage,
            "made_up",
            "c",
            self.source,
            orchestration=uuid.uuid4().hex,
            not_before=math.inf,
            wait=0.0,
            on_progress=lambda count: None,
            settings=self.settings,
        )

    def told(self) -> str | None:
        """The digest of the next listing, by the feed."""
        return listing.digest_by_feed(self.storage, "made_up", "c", self.source, self.settings)

    def items(self) -> list[Item]:
        """What was recorded."""
        return listing.items(listing.read(self.storage, Partition("made_up", "c"))[1])

    @property
    def whole(self) -> int:
        """How often everything was listed."""
        return int(self.source.calls["list"])


@pytest.fixture
def listings(tmp_path: Path) -> Listings:
    source = Capable()
    source.fill({"a": b"1", "b": b"2", "c": b"3"})
    return Listings(Storage.of_folder(tmp_path), source)


def digest(items: list[Item]) -> str:
    found = ListingDigest()
    for item in items:
        found.add(item)
    return found.value()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.text("abü\U0001f600", min_size=1, max_size=2), st.sampled_from([b"1", b"2"]), max_size=9),
            st.sampled_from(["", "", "", "expired", "settings"]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_after_any_changes_it_is_what_the_source_lists(steps: list[tuple[Contents, str]]) -> None:
    with TemporaryDirectory() as folder:
        source = Capable()
        found = Listings(Storage.of_folder(Path(folder)), source)
        for number, (content, event) in enumerate(steps):
            source.fill(content)
            if event == "expired":
                source.forget()
            elif event == "settings":
                found.settings = str(number)
            told = found.told()
            before = found.whole
            info = found.take()
            assert (found.whole == before) is (told is not None)
            assert told in (None, info.digest)
            now = list(source.list())
            assert found.items() == now
            assert (info.digest, info.items) == (digest(now), len(now))


def test_everything_is_listed_once_and_then_the_feed_is_asked(listings: Listings) -> None:
    first = listings.take()
    assert listings.told() == first.digest
    listings.source.fill({"a": b"1", "b": b"22", "d": b"4"})
    second = listings.take()
    assert [item.key for item in listings.items()] == ["a", "b", "d"]
    assert listings.whole == 1
    assert second.listed_at == first.listed_at
    assert second.digest != first.digest


@pytest.mark.parametrize("event", ["expired", "settings", "age", "too much", "another version's listing"])
def test_what_the_feed_cannot_vouch_for_is_listed_whole(
    listings: Listings, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings.take()
    listings.source.fill({"b": b"2", "c": b"33", "d": b"4", "e": b"5", "f": b"6"})
    if event == "expired":
        listings.source.forget()
    elif event == "settings":
        listings.settings = "others"
    elif event == "age":
        monkeypatch.setattr(listing, "FEED_SECONDS", 0.0)
    elif event == "too much":
        monkeypatch.setattr(feed, "MAX_CHANGES", 2)
    else:
        monkeypatch.setattr("kb_pipeline.storage.table.Table.columns", property(lambda self: ["key", "version"]))
    assert listings.told() is None
    listings.take()
    assert listings.whole == 2
    assert [item.key for item in listings.items()] == ["b", "c", "d", "e", "f"]


def test_a_feed_that_fails_is_no_reason_to_delete_or_to_list(listings: Listings, monkeypatch: pytest.MonkeyPatch) -> None:
    known = listings.take()

    def refuse(cursor: str | None) -> ChangePage:
        raise ListingFailed("the feed can't be had")

    monkeypatch.setattr(listings.source, "changes", refuse)
    with pytest.raises(ListingFailed, match="can't be had"):
        listings.take()
    assert listing.latest(listings.storage, "made_up", "c") == known
    assert list(listings.storage.staging.iterdir()) == []


def test_the_cursor_is_from_before_the_listing(listings: Listings, monkeypatch: pytest.MonkeyPatch) -> None:
    source = listings.source
    held = source.list

    def overtaken() -> Any:
        found = list(held())
        source.fill({"b": b"2", "c": b"3"})  # while it is listed, so that the listing doesn't see it
        return iter(found)

    monkeypatch.setattr(source, "list", overtaken)
    listings.take()
    assert [item.key for item in listings.items()] == ["a", "b", "c"]
    listings.take()
    assert [item.key for item in listings.items()] == ["b", "c"]
    assert source.calls["list"] == 1


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (ChangePage([Change("a", Item("b", "1", "b", "x:b"))], "9"), "told of 'a' with the item 'b'"),
        (ChangePage([Change("x", Item("x", 7, "x", "x:x"))], "9"), "listed 'x' with a value"),  # type: ignore[arg-type]
        (ChangePage([Change("\udc80", None)], "9"), "udc80"),
        (ChangePage([], "SAME", more=True), "doesn't move on"),
    ],
)
def test_what_a_feed_must_not_say_is_refused(
    listings: Listings, page: ChangePage, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = listings.take()
    monkeypatch.setattr(
        listings.source, "changes", lambda cursor: replace(page, cursor=cursor) if page.cursor == "SAME" else page
    )
    with pytest.raises(ListingFailed, match=message):
        listings.take()
    assert listing.latest(listings.storage, "made_up", "c") == known
