"""Items found inside items: files of messages and members of their archives, accounted for like any other."""

from __future__ import annotations

import hashlib
import tracemalloc
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.ingestion import inside
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.parsing.parse import parse_item
from kb_pipeline.sources.base import ItemUnreadable
from kb_pipeline.statuses import Status
from kb_pipeline.storage.partitions import layout
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests import current
from kb_pipeline_tests.ingestion.made import LIMITS, PARTITION, Made

Files = Sequence[tuple[str, bytes]]


def message(body: str, files: Files = ()) -> bytes:
    """A message with files. Messages among them (``.eml``) are attached as messages."""
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "a@example.org", "b@example.org", body
    made.set_content(body)
    for name, data in files:
        made.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    if files:
        made.set_boundary(hashlib.sha256(repr((body, files)).encode()).hexdigest())
    return made.as_bytes()


def archive(members: Mapping[str, bytes]) -> bytes:
    """A ZIP file."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def roomy(made: Made) -> Made:
    """A connection whose items may be larger than those of most tests."""
    made.limits = replace(LIMITS, max_item_bytes=100_000)
    return made


def rows(made: Made) -> list[dict[str, Any]]:
    """The published rows, listed ones first."""
    published = current.rows(made.storage, "documents", PARTITION)
    return sorted(published, key=lambda row: (row["within"] or "", row["key"]))


def statuses(made: Made) -> dict[str, str]:
    return {row["key"]: row["status"] for row in rows(made)}


def parsed_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the items that are parsed from now on."""
    names: list[str] = []

    def parse(name: str, data: bytes, *, inside: bool = False, media_type: str | None = None) -> Outcome:
        names.append(name)
        return parse_item(name, data, inside=inside, media_type=media_type)

    monkeypatch.setattr("kb_pipeline_tests.ingestion.made.parse_item", parse)
    return names


def test_files_of_messages_are_items_with_a_parent_on_every_level(roomy: Made) -> None:
    inner = message("forwarded", [("terms.txt", b"the terms")])
    files = archive({"notes/plan.md": b"# Plan", "picture.png": b"\x89PNG\r\n"})
    roomy.put("post.eml", message("hello", [("fares.csv", b"a,b\n1,2\n"), ("old.eml", inner), ("files.zip", files)]), "1")
    roomy.put("plain.md", b"# Plain", "1")
    assert roomy.run().counts == {
        "listed": 8, "indexed": 6, "unchanged": 0, "quarantined": 0, "excluded": 2, "deleted": 0,
    }  # fmt: skip
    found = {row["key"]: (row["parent"], row["within"], row["status"], row["rule"]) for row in rows(roomy)}
    assert found == {
        "plain.md": (None, None, "parsed", None),
        "post.eml": (None, None, "parsed", None),
        "post.eml!/fares.csv": ("post.eml", "post.eml", "parsed", None),
        "post.eml!/old.eml": ("post.eml", "post.eml", "parsed", None),
        "post.eml!/old.eml!/terms.txt": ("post.eml!/old.eml", "post.eml", "parsed", None),
        "post.eml!/files.zip": ("post.eml", "post.eml", "excluded", "archive"),
        "post.eml!/files.zip!/notes/plan.md": ("post.eml!/files.zip", "post.eml", "parsed", None),
        "post.eml!/files.zip!/picture.png": ("post.eml!/files.zip", "post.eml", "excluded", "no_parser"),
    }
    assert roomy.row("post.eml!/files.zip!/notes/plan.md")["name"] == "plan.md"
    assert roomy.row("post.eml!/files.zip!/notes/plan.md")["uri"] == "made://post.eml!/files.zip!/notes/plan.md"
    assert roomy.accounted_for().sentence == "c: all 2 listed items, and 6 items found inside them are accounted for"


def test_an_unchanged_message_is_not_opened_again(roomy: Made) -> None:
    roomy.put("post.eml", message("hello", [("a.txt", b"a"), ("b.bin", b"\0\1")]), "1")
    first = roomy.run()
    again = roomy.run()
    assert roomy.read_keys == []
    assert not again.changed
    assert again.fingerprint == first.fingerprint
    assert again.counts == {"listed": 3, "indexed": 0, "unchanged": 2, "quarantined": 0, "excluded": 1, "deleted": 0}


def test_only_new_files_of_an_edited_message_are_parsed(roomy: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy.put("post.eml", message("hello", [("a.txt", b"a"), ("b.txt", b"b"), ("c.txt", b"c")]), "1")
    roomy.run()
    roomy.put("post.eml", message("hello", [("b.txt", b"b"), ("c.txt", b"C"), ("d.txt", b"d")]), "2")
    parsed = parsed_names(monkeypatch)
    counts = roomy.run().counts
    assert sorted(parsed) == ["c.txt", "d.txt", "post.eml"]
    assert counts == {"listed": 4, "indexed": 4, "unchanged": 0, "quarantined": 0, "excluded": 0, "deleted": 1}
    assert statuses(roomy).keys() == {"post.eml", "post.eml!/b.txt", "post.eml!/c.txt", "post.eml!/d.txt"}
    assert {row["version"] for row in rows(roomy)} == {row["content_version"] for row in rows(roomy)} == {"2"}
    assert roomy.accounted_for().passed


def test_what_is_inside_goes_with_what_holds_it(roomy: Made) -> None:
    roomy.put("post.eml", message("hello", [("a.txt", b"a"), ("more.eml", message("m", [("b.txt", b"b")]))]), "1")
    roomy.put("plain.md", b"# Plain", "1")
    roomy.run()
    del roomy.items["post.eml"]
    assert roomy.run().counts["deleted"] == 4
    assert statuses(roomy) == {"plain.md": "parsed"}


def test_a_message_whose_content_fails_takes_what_was_inside_along(roomy: Made) -> None:
    roomy.put("post.eml", message("hello", [("a.txt", b"a")]), "1")
    roomy.run()
    roomy.put("post.eml", b"no message at all", "2")
    assert roomy.run().counts["deleted"] == 1
    assert statuses(roomy) == {"post.eml": "corrupt"}


def test_a_passing_failure_keeps_what_is_inside_until_it_heals(roomy: Made) -> None:
    mail = message("hello", [("a.txt", b"a"), ("b.bin", b"\0\1")])
    roomy.put("post.eml", mail, "1")
    before = roomy.run()
    roomy.put("post.eml", ItemUnreadable("the network is down"), "1", size=len(mail))
    roomy.items["post.eml"] = replace(roomy.items["post.eml"], version="2")
    assert roomy.run().counts == {"listed": 3, "indexed": 0, "unchanged": 1, "quarantined": 1, "excluded": 1, "deleted": 0}
    assert [row["stale"] for row in rows(roomy)] == [True, True, True]
    assert roomy.accounted_for().passed
    roomy.put("post.eml", mail, "1")
    assert roomy.run().fingerprint == before.fingerprint


def test_new_times_on_the_same_message_are_recorded_inside_without_parsing(
    roomy: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mail = message("hello", [("a.txt", b"a"), ("files.zip", archive({"b.txt": b"b"}))])
    roomy.put("post.eml", mail, "1")
    roomy.run()
    parsed = parsed_names(monkeypatch)
    roomy.put("post.eml", mail, "2", uri="made://elsewhere")
    touched = roomy.run()
    assert parsed == []
    clean = Made(Storage.of_folder(tmp_path / "clean"), roomy.bytes, roomy.items, limits=roomy.limits)
    assert clean.run().fingerprint == touched.fingerprint


def test_another_address_of_a_message_is_recorded_inside_without_a_read(roomy: Made) -> None:
    roomy.put("post.eml", message("hello", [("a.txt", b"a")]), "1")
    roomy.run()
    roomy.items["post.eml"] = replace(roomy.items["post.eml"], uri="made://moved")
    roomy.run()
    assert roomy.read_keys == []
    assert roomy.row("post.eml!/a.txt")["uri"] == "made://moved!/a.txt"


def test_a_retry_of_something_inside_opens_the_message_again(roomy: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy.put("post.eml", message("hello", [("a.txt", b"a"), ("bad.pdf", b"%PDF-1.7 no more")]), "1")
    roomy.run()
    assert statuses(roomy)["post.eml!/bad.pdf"] == "corrupt"
    parsed = parsed_names(monkeypatch)
    roomy.run(retries=frozenset({"post.eml!/bad.pdf"}))
    assert sorted(parsed) == ["bad.pdf", "post.eml"]


def test_raising_the_limit_opens_a_message_again_for_what_was_too_large(roomy: Made) -> None:
    roomy.limits = replace(LIMITS, max_item_bytes=4_000)
    data = BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("big.txt", b"word " * 1_000)
    roomy.put("post.eml", message("hello", [("packed.zip", data.getvalue())]), "1")
    roomy.run()
    assert statuses(roomy)["post.eml!/packed.zip!/big.txt"] == "too_large"
    roomy.limits = replace(roomy.limits, max_item_bytes=10_000)
    roomy.run()
    assert statuses(roomy)["post.eml!/packed.zip!/big.txt"] == "parsed"


def test_files_of_one_name_and_a_listed_key_that_reads_the_same_are_told_apart(roomy: Made) -> None:
    roomy.put("post.eml", message("hello", [("a.txt", b"one"), ("a.txt", b"two")]), "1")
    roomy.put("post.eml!/a.txt", b"listed", "1")
    roomy.run()
    assert sorted(row["text"] for row in rows(roomy) if row["key"].startswith("post.eml!/a.txt")) == ["listed", "one", "two"]
    assert len({row["document_id"] for row in rows(roomy)}) == 4
    assert roomy.accounted_for().passed
    del roomy.items["post.eml!/a.txt"]
    roomy.run()
    assert sorted(row["text"] for row in rows(roomy) if row["within"]) == ["one", "two"]


def test_messages_in_messages_without_end_are_opened_to_a_depth(roomy: Made) -> None:
    deep = b"the end"
    for _ in range(inside.MAX_DEPTH + 2):
        deep = message("outer", [("inner.eml" if b"Subject" in deep else "inner.txt", deep)])
    roomy.put("post.eml", deep, "1")
    roomy.run()
    by_depth = {key.count("!/"): status for key, status in statuses(roomy).items()}
    assert by_depth == {**dict.fromkeys(range(inside.MAX_DEPTH + 1), "parsed"), inside.MAX_DEPTH + 1: "too_large"}


def test_what_would_bring_more_than_the_bounds_is_not_opened(roomy: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    many = archive({f"{i}.txt": b"text" for i in range(5)})
    monkeypatch.setattr(inside, "MAX_ITEMS", 6)
    roomy.put("post.eml", message("hello", [("many.zip", many), ("more.zip", many), ("a.txt", b"a")]), "1")
    roomy.run()
    assert statuses(roomy)["post.eml!/many.zip"] == statuses(roomy)["post.eml!/more.zip"] == "too_large"
    assert statuses(roomy)["post.eml!/a.txt"] == "parsed"
    monkeypatch.setattr(inside, "MAX_ITEMS", 100)
    monkeypatch.setattr(inside, "MAX_BYTES", len(many) + 10)
    roomy.put("post.eml", message("hello again", [("many.zip", many)]), "2")
    roomy.run()
    assert statuses(roomy) == {"post.eml": "parsed", "post.eml!/many.zip": "too_large"}
    assert roomy.row("post.eml!/many.zip")["detail"].startswith("With what is in it, post.eml would hold")
    assert roomy.accounted_for().passed


def test_archives_inside_are_opened_one_after_the_other(made: Made) -> None:
    """However many there are, the bytes of few are in memory."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for i in range(3):
            opened.writestr(f"{i}.txt", b"some words " * 90_000)
    made.limits = replace(LIMITS, max_item_bytes=2_000_000, inflight_bytes=2_000_000)
    made.put("post.eml", message("hello", [(f"{i}.zip", packed.getvalue()) for i in range(20)]), "1")
    tracemalloc.start()
    try:
        assert made.run().counts["indexed"] == 61
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def test_members_that_archives_leave_out_are_left_out_here_too(roomy: Made) -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        for name in ("a.txt", "__MACOSX/._a.txt", ".env", "line\nend\x1b[31m.txt"):
            opened.writestr(name, b"text")
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("a.txt", b"another")
    roomy.put("post.eml", message("hello", [("files.zip", packed.getvalue())]), "1")
    roomy.run()
    found = {row["key"].removeprefix("post.eml!/files.zip!/"): row["rule"] or row["text"] for row in rows(roomy)[2:]}
    assert found == {
        "a.txt": "text",
        "a.txt#2": "another",
        "__MACOSX/._a.txt": "hidden",
        ".env": "hidden",
        "link.txt": "link",
        "line_end_[31m.txt": "text",
    }
    assert roomy.accounted_for().passed
    assert not roomy.run().changed


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("a.tar.gz", b"\x1f\x8b\x08\0\0", Status.UNSUPPORTED),
        ("a.7z", b"7z\xbc\xaf'\x1c", Status.UNSUPPORTED),
        ("a.zip", b"PK\x03\x04 and no more", Status.CORRUPT),
        ("../../etc/passwd.zip", archive({"../../outside.txt": b"x"}), Status.CORRUPT),
    ],
)
def test_archives_that_cannot_be_opened_are_set_aside_with_a_reason(
    roomy: Made, name: str, data: bytes, status: Status
) -> None:
    roomy.put("post.eml", message("hello", [(name, data)]), "1")
    roomy.run()
    (row,) = [row for row in rows(roomy) if row["within"]]
    assert row["status"] == status
    assert row["detail"]


def test_another_number_of_shards_takes_what_is_inside_along(roomy: Made) -> None:
    for i in range(6):
        roomy.put(f"{i}.eml", message(f"hello {i}", [("a.txt", b"a"), ("b.txt", b"b")]), "1")
    roomy.run()
    total = 0
    for partition in layout("made_up", "c", 3):
        counts = roomy.run(partition).counts
        assert roomy.read_keys == []
        assert counts["listed"] == counts["unchanged"]
        total += counts["listed"]
    assert total == 18


NAMES, CONTENTS = st.sampled_from(["a.txt", "b.md", "c.bin", "d.pdf"]), st.sampled_from([b"x", b"y", b"\0"])
FILES = st.lists(st.tuples(NAMES, CONTENTS), max_size=3)
MESSAGES = st.recursive(
    st.builds(message, st.sampled_from(["one", "two"]), FILES),
    lambda inner: st.builds(
        message, st.just("outer"), st.lists(st.tuples(st.sampled_from(["i.eml", "j.eml"]), inner), max_size=2)
    ),
    max_leaves=3,
)
EDITS = st.lists(
    st.tuples(st.sampled_from(["k.eml", "l.eml"]), st.one_of(st.none(), MESSAGES, st.just(ItemUnreadable("later")))),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(EDITS, st.lists(st.tuples(st.sampled_from(["k.eml", "l.eml"]), MESSAGES), max_size=2))
def test_after_any_edits_the_manifest_equals_a_rebuild(
    edits: list[tuple[str, bytes | Exception | None]], last: list[tuple[str, bytes]]
) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        limits = replace(LIMITS, max_item_bytes=100_000)
        made = Made(Storage.of_folder(root / "made"), limits=limits)
        for version, (key, data) in enumerate([*edits, ("k.eml", b""), *last]):
            if data is None:
                made.items.pop(key, None)
            else:
                made.put(key, data, str(version))
            counts = made.run().counts
            rest = ("indexed", "unchanged", "quarantined", "excluded")
            assert counts["listed"] == sum(int(counts[name]) for name in rest)
            assert made.accounted_for().passed
        for version, (key, data) in enumerate(made.bytes.items()):
            if isinstance(data, Exception) and key in made.items:
                made.put(key, b"settled", f"settled {version}")
        settled = made.run()
        rebuilt = Made(Storage.of_folder(root / "new"), made.bytes, made.items, [], limits)
        assert rebuilt.run().fingerprint == settled.fingerprint
