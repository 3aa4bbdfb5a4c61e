"""Ids must never change silently: every id in every storage depends on these values."""

from __future__ import annotations

import hashlib

import pytest

from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition, layout, parse_key


def test_document_ids_are_what_they_always_were() -> None:
    assert identity.document_id("local_directory", "handbook", "a/b.md") == "de8ff9a040566da0a5e5e4436af92cb3"
    assert identity.document_id("local_zip", "archive", "z.zip!/ü 100%.md") == "fa9f3f66f13cf646a0e168b9dc81933f"


def test_chunk_ids_are_what_they_always_were() -> None:
    sha256 = hashlib.sha256(b"some text").hexdigest()
    assert identity.chunk_id("d" * 32, sha256, 0) == "5a72ccd3aa0a0a83044128a58696c597"
    assert identity.chunk_id("d" * 32, sha256, 1) == "4535fe8ef15efb32ff2f98aeb9701f78"


def test_parts_of_an_id_do_not_run_into_each_other() -> None:
    assert identity.digest("a", "bc") != identity.digest("ab", "c")
    assert identity.digest("1") != identity.digest(1)
    assert identity.digest(None) != identity.digest("None")


def test_a_table_fingerprint_depends_on_rows_and_context_but_not_on_their_order() -> None:
    assert identity.table_fingerprint(["a", "b"], "x") == identity.table_fingerprint(["b", "a"], "x")
    assert identity.table_fingerprint(["a", "b"], "x") != identity.table_fingerprint(["a", "b"], "y")
    assert identity.table_fingerprint(["a", "a"], "x") != identity.table_fingerprint(["a"], "x")
    assert identity.table_fingerprint(["ab"], "x") != identity.table_fingerprint(["a", "b"], "x")


@pytest.mark.parametrize(
    ("key", "shard_of_2", "shard_of_8", "shard_of_999"),
    [("a.md", 2, 6, 600), ("sub/d.md", 1, 7, 116), ("z.zip!/ü.txt", 1, 1, 905), ("", 1, 5, 224)],
)
def test_the_shard_of_a_key_is_what_it_always_was(key: str, shard_of_2: int, shard_of_8: int, shard_of_999: int) -> None:
    for shards, expected in ((2, shard_of_2), (8, shard_of_8), (999, shard_of_999)):
        holders = [each.shard for each in layout("upload", "inbox", shards) if each.holds(key)]
        assert holders == [expected]


def test_one_shard_holds_everything_under_the_plain_name() -> None:
    (only,) = layout("upload", "inbox", 1)
    assert only.key == "inbox"
    assert only.holds("anything")


@pytest.mark.parametrize("partition", [Partition("t", "a"), Partition("t", "a-b_c", 3, 8), Partition("t", "0", 999, 999)])
def test_a_key_names_its_partition(partition: Partition) -> None:
    assert parse_key("t", partition.key) == partition


@pytest.mark.parametrize(
    "key",
    ["", "A", "a.b", "a.1-of-2", "a.000-of-002", "a.003-of-002", "a.001-of-000", "a.001-of-001", "a\n", "-a", "a" * 64],
)
def test_what_is_no_partition_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is not a partition key"):
        parse_key("t", key)
