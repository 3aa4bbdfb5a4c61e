"""A listing is recorded completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kb_pipeline.ingestion import listing
from kb_pipeline.ledger.errors import LeaseHeld
from kb_pipeline.sources.base import Item, ListingFailed
from kb_pipeline.statuses import Status
from kb_pipeline.storage.partitions import Partition, layout
from kb_pipeline.storage.storage import Storage


class Listed:
    """A source that lists these items, and then may fail."""

    def __init__(self, *items: Item, error: Exception | None = None) -> None:
        self.items = items
        self.error = error
        self.times = 0

    def list(self) -> Iterator[Item]:
        self.times += 1
        yield from self.items
        if self.error is not None:
            raise self.error


def item(key: str, version: Any = "1", **facts: Any) -> Item:
    return Item(key=key, version=version, name=key, uri=f"made://{key}", **facts)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.of_folder(tmp_path)


def take(storage: Storage, source: Any, orchestration: str = "o1", not_before: float = 2.0**40) -> listing.ListingInfo:
    return listing.take(
        storage,
        "made_up",
        "c",
        source,
        orchestration=orchestration,
        not_before=not_before,
        wait=0.0,
        on_progress=lambda count: None,
    )


def test_a_listing_is_read_as_it_was_listed(storage: Storage) -> None:
    items = [
        item("a", excluded="hidden"),
        item("b", problem=Status.CORRUPT, problem_detail="bad"),
        item("ü", size=3, parent="b"),
    ]
    info = take(storage, Listed(*items))
    recorded, rows = listing.read(storage, Partition("made_up", "c"))
    assert (recorded, listing.items(rows)) == (info, items)
    assert (info.items, info.complete, info.orchestration) == (3, True, "o1")


@pytest.mark.parametrize("bad", [item("b", version=2), item("b\udc80"), item("b", size="3")], ids=["version", "key", "size"])
def test_an_item_that_cannot_be_recorded_is_named(storage: Storage, bad: Item) -> None:
    with pytest.raises(ListingFailed, match="listed 'b"):
        take(storage, Listed(item("a"), bad, item("c")))
    assert listing.latest(storage, "made_up", "c") is None


def test_the_shards_of_a_connection_share_its_listing_out(storage: Storage) -> None:
    items = [item(f"item {number:03d}") for number in range(300)]
    take(storage, Listed(*items))
    shares = [listing.items(listing.read(storage, each)[1]) for each in layout("made_up", "c", 3)]
    assert sorted(each.key for share in shares for each in share) == [each.key for each in items]
    assert all(shares)


@pytest.mark.parametrize(
    "source",
    [
        Listed(item("b"), item("a")),
        Listed(item("a"), item("a")),
        Listed(item("a"), item("b"), error=ListingFailed("the share went away")),
        Listed(item("a"), error=OSError("the disk went away")),
        Listed(error=ListingFailed("no such folder")),
    ],
    ids=["out of order", "twice", "failed midway", "error midway", "failed at once"],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_listing_that_cannot_be_believed_is_not_recorded(storage: Storage, source: Listed, before: bool) -> None:
    known = take(storage, Listed(item("x")), "o0") if before else None
    with pytest.raises((ListingFailed, OSError)):
        take(storage, source)
    assert listing.latest(storage, "made_up", "c") == known
    assert list(storage.staging.iterdir()) == []


@pytest.mark.parametrize("items", [("b", "a"), ("a", "a")])
def test_what_is_wrong_with_a_listing_names_connection_and_key(storage: Storage, items: tuple[str, str]) -> None:
    with pytest.raises(ListingFailed, match=r"'c'.*'a'"):
        take(storage, Listed(*map(item, items)))


def test_one_orchestration_lists_a_connection_once(storage: Storage) -> None:
    source = Listed(item("a"))
    assert take(storage, source) == take(storage, source)
    assert source.times == 1
    take(storage, source, "o2")
    assert source.times == 2


def test_a_listing_begun_after_the_orchestration_serves_it(storage: Storage) -> None:
    source = Listed(item("a"))
    first = take(storage, source, "the inventory")
    assert take(storage, source, "o1", not_before=first.started_at) == first
    assert take(storage, source, "o1", not_before=first.started_at + 0.001) != first


def test_a_listing_under_way_elsewhere_is_waited_for(storage: Storage) -> None:
    with (
        storage.ledger.leases.acquire("made_up/inventory/c", "another listing"),
        pytest.raises(LeaseHeld, match="another listing"),
    ):
        take(storage, Listed(item("a")))


def test_the_digest_tells_every_change_and_no_order() -> None:
    def digest(*items: Item) -> str:
        found = listing.ListingDigest()
        for each in items:
            found.add(each)
        return found.value()

    a, b = item("a"), item("b")
    assert digest(a, b) == digest(b, a)
    others = [(a,), (a, item("b", "2")), (a, item("b", excluded="hidden")), (a, item("c")), (a, b, b), ()]
    assert len({digest(*each) for each in [(a, b), *others]}) == len(others) + 1
    resumed = listing.ListingDigest(digest(a))
    resumed.add(b)
    assert resumed.value() == digest(a, b)
