"""What becomes of items: read only when needed, kept when the trouble will pass, dropped when it won't."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kb_pipeline.ingestion import chunks
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.sources.base import (
    Item,
    ItemCorrupt,
    ItemEncrypted,
    ItemUnreadable,
    ItemVanished,
    ListingFailed,
    SourceError,
)
from kb_pipeline.sources.capabilities import READ_MANY_ITEMS
from kb_pipeline.statuses import Status
from kb_pipeline.storage.partitions import Partition, layout
from kb_pipeline.storage.storage import Staged, Storage
from kb_pipeline_tests import current
from kb_pipeline_tests.ingestion.made import LIMITS, PARTITION, Made

TRANSIENT = [ItemUnreadable("the network is down"), ItemVanished("gone for a moment")]


@pytest.mark.parametrize("error", TRANSIENT)
def test_a_passing_failure_keeps_the_last_good_version_marked_stale_until_it_heals(made: Made, error: Exception) -> None:
    made.put("a.txt", b"first", "1")
    made.run()
    made.put("a.txt", error, "2")
    for _ in range(2):
        staged = made.run()
        row = made.row("a.txt")
        assert row["text"] == "first"
        assert row["stale"]
        assert (row["version"], row["content_version"]) == ("2", "1")
        assert Status(row["status"]).transient
        assert row["detail"] == str(error)
        assert staged.counts["quarantined"] == 1
        assert made.read_keys == ["a.txt"], "every run tries again"
    made.put("a.txt", b"second", "2")
    assert made.run().counts["indexed"] == 1
    row = made.row("a.txt")
    assert (row["text"], row["stale"], row["status"], row["detail"]) == ("second", False, "parsed", "")


def test_a_passing_failure_that_heals_to_the_old_bytes_is_no_longer_stale(made: Made) -> None:
    made.put("a.txt", b"first", "1")
    made.run()
    made.put("a.txt", ItemUnreadable("down"), "2")
    made.run()
    made.put("a.txt", b"first", "2")
    made.run()
    row = made.row("a.txt")
    assert (row["text"], row["stale"], row["status"], row["content_version"]) == ("first", False, "parsed", "2")


@pytest.mark.parametrize("error", TRANSIENT)
def test_an_item_that_was_never_read_has_nothing_to_fall_back_to(made: Made, error: Exception) -> None:
    made.put("a.txt", error, "1")
    made.run()
    row = made.row("a.txt")
    assert (row["text"], row["document_hash"], row["stale"]) == (None, None, False)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (ItemCorrupt("bad checksum"), Status.CORRUPT),
        (ItemEncrypted("locked"), Status.ENCRYPTED),
        (b"%PDF-1.7 and then nothing of the kind", Status.CORRUPT),
        (b"x" * 1_001, Status.TOO_LARGE),
    ],
)
def test_a_failure_of_the_content_drops_the_last_good_version(made: Made, data: bytes | Exception, status: Status) -> None:
    made.put("a.txt", b"first", "1")
    made.run()
    made.put("a.txt", data, "2", size=None)
    staged = made.run()
    row = made.row("a.txt")
    assert (row["status"], row["text"], row["document_hash"], row["stale"]) == (status, None, None, False)
    assert staged.counts["quarantined"] == 1
    assert made.run().counts["quarantined"] == 1, "still set aside"
    assert made.read_keys == [], "the same version is not read in vain"


def test_a_stale_item_whose_content_then_fails_is_dropped(made: Made) -> None:
    made.put("a.txt", b"first", "1")
    made.run()
    made.put("a.txt", ItemUnreadable("down"), "2")
    made.run()
    made.put("a.txt", ItemCorrupt("bad"), "2")
    made.run()
    row = made.row("a.txt")
    assert (row["status"], row["text"], row["stale"]) == ("corrupt", None, False)


def test_a_requested_retry_reads_a_quarantined_item_again(made: Made) -> None:
    made.put("a.txt", ItemCorrupt("bad"), "1")
    made.run()
    made.put("a.txt", b"mended", "1")
    made.run()
    assert made.row("a.txt")["status"] == "corrupt"
    made.run(retries=frozenset({"a.txt"}))
    assert made.row("a.txt")["text"] == "mended"


@pytest.mark.parametrize("size", [2_000, None])
def test_raising_the_limit_reads_again_what_was_too_large_and_nothing_else(made: Made, size: int | None) -> None:
    made.put("big.txt", b"word " * 400, "1", size=size)
    made.put("small.txt", b"small", "1")
    made.run()
    assert made.row("big.txt")["status"] == "too_large"
    made.limits = replace(LIMITS, max_item_bytes=5_000)
    made.run()
    assert made.read_keys == ["big.txt"]
    assert made.row("big.txt")["status"] == "parsed"


def test_lowering_the_limit_drops_what_is_too_large_now(made: Made) -> None:
    made.put("big.txt", b"word " * 100, "1")
    made.run()
    made.limits = replace(LIMITS, max_item_bytes=100)
    made.run()
    assert made.read_keys == []
    assert (made.row("big.txt")["status"], made.row("big.txt")["text"]) == ("too_large", None)


def test_an_item_a_rule_leaves_out_is_dropped_and_read_when_the_rule_goes(made: Made) -> None:
    made.put("a.txt", b"text", "1")
    made.run()
    made.put("a.txt", b"text", "1", excluded="exclude")
    staged = made.run()
    row = made.row("a.txt")
    assert (row["status"], row["rule"], row["text"]) == ("excluded", "exclude", None)
    assert (staged.counts["excluded"], staged.counts["deleted"], made.read_keys) == (1, 0, [])
    made.put("a.txt", b"text", "1", excluded="hidden")
    made.run()
    assert made.row("a.txt")["rule"] == "hidden"
    made.put("a.txt", b"text", "1")
    assert made.run().counts["indexed"] == 1
    assert made.row("a.txt")["text"] == "text"


def test_author_dates_and_language_of_a_document_are_columns(made: Made) -> None:
    front = b"---\ntitle: T\nauthor: Ada\ndate: 2024-03-01\nmodified: 2025-01-02\nlang: de_AT\n---\nText.\n"
    made.put("a.md", front, "1")
    made.run()
    row = made.row("a.md")
    found = [row[name] for name in ("title", "author", "created", "revised", "language")]
    assert found == ["T", "Ada", "2024-03-01", "2025-01-02", "de-AT"]


def test_content_without_a_parser_is_excluded_and_remembered(made: Made) -> None:
    made.put("a.png", b"\x89PNG pixels", "1")
    assert made.run().counts["excluded"] == 1
    assert (made.row("a.png")["status"], made.row("a.png")["rule"]) == ("excluded", "no_parser")
    made.run()
    assert made.read_keys == []


def test_another_address_changes_the_row_without_a_read(made: Made) -> None:
    made.put("a.txt", b"text", "1", uri="made://old")
    made.put("b.txt", b"other", "1")
    first = made.run()
    before = made.row("a.txt")
    made.put("a.txt", b"text", "1", uri="made://new")
    second = made.run()
    after = made.row("a.txt")
    assert made.read_keys == []
    assert (after["uri"], after["text"]) == ("made://new", "text")
    assert after["document_hash"] != before["document_hash"], "the chunks carry the address"
    assert second.fingerprint != first.fingerprint
    assert (second.counts["unchanged"], second.counts["indexed"]) == (2, 0)


def test_another_address_of_a_quarantined_item_is_recorded_too(made: Made) -> None:
    made.put("a.txt", ItemCorrupt("bad"), "1", uri="made://old")
    first = made.run()
    made.put("a.txt", ItemCorrupt("bad"), "1", uri="made://new")
    second = made.run()
    assert made.row("a.txt")["uri"] == "made://new"
    assert second.fingerprint != first.fingerprint, "manifests are kept by their fingerprint"


def test_another_name_under_the_same_version_is_read_again_since_names_choose_parsers(made: Made) -> None:
    made.put("id-1", b"# Title\n\ntext", "1", name="a.txt")
    made.run()
    assert made.row("id-1")["media_type"] == "text/plain"
    made.put("id-1", b"# Title\n\ntext", "1", name="a.md")
    made.run()
    assert made.row("id-1")["media_type"] == "text/markdown"


def test_new_times_on_old_bytes_are_recorded_without_parsing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.put("a.txt", b"text", "1")
    made.run()
    made.put("a.txt", b"text", "2")

    def refuse(*_: Any, **__: Any) -> Outcome:
        raise AssertionError("parsed again")

    monkeypatch.setattr("kb_pipeline_tests.ingestion.made.parse_item", refuse)
    made.run()
    assert (made.row("a.txt")["content_version"], made.row("a.txt")["text"]) == ("2", "text")


def test_an_unchanged_run_reads_nothing_and_changes_nothing(made: Made) -> None:
    made.put("a.txt", b"text", "1")
    made.put("b.txt", b"", "1")
    made.put("c.txt", ItemCorrupt("bad"), "1")
    made.put("d.png", b"\x89PNG pixels", "1")
    made.put("e.txt", b"text", "1", excluded="exclude")
    made.put("f.txt", b"text", "1", problem=Status.ENCRYPTED, problem_detail="locked")
    made.put("g.txt", b"x" * 2_000, "1")
    first = made.run()
    written = current.path(made.storage, "documents", PARTITION).stat().st_mtime_ns
    assert first.changed
    second = made.run()
    assert made.read_keys == []
    assert not second.changed
    assert second.fingerprint == first.fingerprint
    assert current.path(made.storage, "documents", PARTITION).stat().st_mtime_ns == written
    assert second.counts == {"listed": 7, "indexed": 0, "unchanged": 2, "quarantined": 3, "excluded": 2, "deleted": 0}
    assert first.counts == {"listed": 7, "indexed": 2, "unchanged": 0, "quarantined": 3, "excluded": 2, "deleted": 0}


def test_what_is_no_longer_listed_is_deleted_and_counted(made: Made) -> None:
    for key in ("a.txt", "b.txt"):
        made.put(key, b"text", "1")
    made.run()
    del made.items["a.txt"]
    assert made.run().counts["deleted"] == 1
    assert made.keys() == {"b.txt"}
    assert made.read_keys == []


def test_equal_documents_make_equal_fingerprints_whatever_the_way_there(made: Made, tmp_path: Path) -> None:
    made.put("a.txt", b"one", "1")
    made.run()
    made.put("b.txt", b"two", "1")
    made.put("a.txt", b"one!", "2")
    grown = made.run()
    other = Made(Storage.of_folder(tmp_path / "other"), made.bytes, made.items)
    assert other.run().fingerprint == grown.fingerprint


# ---------------------------------------------------------------------------------------------------- several at once


@dataclass
class MadeMany(Made):
    """A connection that delivers several items in one go.

    ``silent``: keys it says nothing of. ``asked``: how many each time. ``error``: raised after the first answer.
    """

    silent: frozenset[str] = frozenset()
    asked: list[int] = field(default_factory=list)
    error: Exception | None = None

    def read_many(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | Exception]]:
        self.asked.append(len(items))
        for item in reversed(items):
            if item.key not in self.silent:
                yield item, self.bytes[item.key]
                if self.error is not None:
                    raise self.error


@pytest.fixture
def many(made: Made) -> MadeMany:
    found = MadeMany(made.storage)
    for number in range(100):
        found.put(f"{number:03d}.txt", f"text {number}".encode(), "1")
    return found


def test_small_items_are_read_together_and_come_to_the_same(many: MadeMany, tmp_path: Path) -> None:
    for number, error in enumerate([*TRANSIENT, ItemCorrupt("bad"), ItemEncrypted("locked")]):
        many.put(f"{10 * number:03d}.txt", error, "1", size=7)
    many.put("050.txt", b"x" * 1_001, "1", size=7)
    many.put("060.txt", b"no size", "1", size=None)
    many.put("070.txt", b"large", "1", size=900_000)
    many.limits = replace(LIMITS, max_item_bytes=1_000_000, inflight_bytes=10_000_000)
    staged = many.run()
    assert many.asked
    assert many.read_keys == ["060.txt", "070.txt"]
    assert staged.counts["listed"] == staged.counts["indexed"] + staged.counts["quarantined"] == 100
    alone = Made(Storage.of_folder(tmp_path / "alone"), many.bytes, many.items, limits=many.limits)
    assert alone.run().fingerprint == staged.fingerprint
    assert max(many.asked) <= READ_MANY_ITEMS


def test_what_it_says_nothing_of_is_read_alone(many: MadeMany) -> None:
    many.silent = frozenset({"003.txt", "099.txt"})
    assert many.run().counts["indexed"] == 100
    assert many.read_keys == ["003.txt", "099.txt"]


def test_an_error_of_all_at_once_is_that_of_those_it_said_nothing_of(many: MadeMany) -> None:
    many.error = ItemUnreadable("hung up")
    counts = many.run().counts
    assert counts["indexed"] == len(many.asked), "one of each"
    assert counts["quarantined"] == 100 - len(many.asked)
    assert many.row("000.txt")["detail"] == "hung up"
    assert many.read_keys == []


@pytest.mark.parametrize("error", [ListingFailed("no more"), RuntimeError("a fault of its own")])
def test_an_error_that_is_about_no_item_fails_the_connection(many: MadeMany, error: Exception) -> None:
    many.error = error
    with pytest.raises(type(error), match=str(error)):
        many.run()


def test_an_answer_that_nobody_asked_for_is_refused(many: MadeMany, monkeypatch: pytest.MonkeyPatch) -> None:
    stray = replace(many.items["000.txt"], key="stray")
    monkeypatch.setattr(MadeMany, "read_many", lambda self, items: iter([(stray, b"x")]))
    with pytest.raises(SourceError, match="'stray', unasked"):
        many.run()


# ---------------------------------------------------------------------------------------------------- change of shards


def test_another_number_of_shards_reads_nothing_again(made: Made) -> None:
    for number in range(9):
        made.put(f"{number}.txt", b"text", "1")
    made.run()
    held: list[str] = []
    for partition in layout("made_up", "c", 3):
        staged = made.run(partition)
        assert made.read_keys == []
        assert staged.counts["unchanged"] == staged.counts["listed"]
        held += made.keys(partition)
    assert sorted(held) == [f"{number}.txt" for number in range(9)]


def test_a_change_of_shards_keeps_the_last_good_version_though_another_change_was_left_unfinished(made: Made) -> None:
    for number in range(9):
        made.put(f"{number}.txt", b"first", "1")
    made.run()
    made.run(Partition("made_up", "c", 1, 2))  # and its sibling never runs
    for number in range(9):
        made.put(f"{number}.txt", ItemUnreadable("down"), "2")
    for partition in layout("made_up", "c", 3):
        made.run(partition)
        for key in made.keys(partition):
            row = made.row(key, partition)
            assert (row["text"], row["stale"]) == ("first", True)


# ---------------------------------------------------------------------------------------------------- chunks


def test_chunks_of_untouched_documents_are_carried_over_not_cut_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from kb_pipeline.chunking.settings import Chunkers, ChunkerSettings
    from kb_pipeline_tests.acceptance.world import packaged_tokenizer

    cut_keys: list[str] = []
    cut = chunks.cut

    def noted(partition: Partition, row: Any, *rest: Any) -> Any:
        cut_keys.append(row["key"])
        return cut(partition, row, *rest)

    monkeypatch.setattr(chunks, "cut", noted)

    def run(tokens: int = 32) -> Staged:
        with made.storage.ledger.leases.acquire("chunks", "a test") as lease:
            staged = chunks.update(
                made.storage,
                PARTITION,
                packaged_tokenizer(),
                Chunkers(ChunkerSettings(tokens)),
                on_progress=lambda done, total, size=None: None,
            )
            staged.publish(lease)
        return staged

    for key in ("a.txt", "b.txt"):
        made.put(key, b"words of " + key.encode(), "1")
    made.run()
    run()
    assert sorted(cut_keys) == ["a.txt", "b.txt"]
    cut_keys.clear()
    assert not run().changed
    made.put("b.txt", b"other words", "2")
    made.run()
    run()
    assert cut_keys == ["b.txt"]
    cut_keys.clear()
    run(tokens=64)
    assert sorted(cut_keys) == ["a.txt", "b.txt"], "another recipe cuts everything"
