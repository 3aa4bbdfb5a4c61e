"""What the embeddings of a change cost, and what they are after any: each chunk's own vector."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from kb_pipeline.embedding import VectorStore, text_key
from kb_pipeline.ingestion import embeddings
from kb_pipeline.storage import table
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.table import Table
from kb_pipeline_tests.acceptance.world import WordEmbedder, World

WORDS = [f"word{number}" for number in range(40)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose tables have groups of two rows, so that a change touches some and leaves others alone."""
    monkeypatch.setattr(embeddings, "_rows_at_once", lambda dimension: 2)
    monkeypatch.setattr(table, "ROW_GROUP_BYTES", 1)
    return World(tmp_path, WordEmbedder())


@pytest.fixture
def alpha(world: World) -> Partition:
    (alpha,) = world.partitions("alpha")
    return alpha


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each request names."""
    found: list[int] = []
    locate = VectorStore.locate

    def counted(self: VectorStore, keys: Iterable[str]) -> object:
        wanted = list(keys)
        found.append(len(wanted))
        return locate(self, wanted)

    monkeypatch.setattr(VectorStore, "locate", counted)
    return found


def ingest(world: World, alpha: Partition) -> list[str]:
    """Bring the partition in step; the texts that went through the model for it."""
    before = len(world.embedder.texts)
    world.ingest(alpha)
    with world.storage.require("chunks", alpha) as chunks:
        rows = chunks.read(["chunk_id", "prefix", "text"]).to_pylist()
    with world.storage.require("embeddings", alpha) as made:
        found = made.read().to_pylist()
    assert [each["chunk_id"] for each in found] == [each["chunk_id"] for each in rows]
    for row, each in zip(rows, found, strict=True):
        assert each["text_sha256"] == text_key(row["prefix"] + row["text"])
        assert np.array_equal(np.float32(each["vector"]), world.embedder.embed_query(row["prefix"] + row["text"]))
    return world.embedder.texts[before:]


def store(world: World) -> VectorStore:
    return VectorStore(world.storage.vectors_location, world.embedder.model_id, world.embedder.dimension)


def test_an_edit_asks_the_store_for_its_own_texts_only(world: World, alpha: Partition, asked: list[int]) -> None:
    for number in range(30):
        world.write("alpha", f"{number:02}.md", f"text {number}")
    assert len(ingest(world, alpha)) == 30
    asked.clear()
    world.write("alpha", "07.md", "another text")
    assert ingest(world, alpha) == ["another text"]
    assert asked
    assert max(asked) == 1


def test_only_the_groups_of_rows_that_changed_are_read_for_their_texts(
    world: World, alpha: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        world.write("alpha", f"{number:02}.md", f"text {number}")
    ingest(world, alpha)
    read: list[int] = []
    group_batches = Table.group_batches

    def noted(self: Table, group: int, columns: list[str] | None = None, rows: int = 4_096) -> object:
        if columns is not None and "text" in columns:
            read.append(group)
        return group_batches(self, group, columns, rows)

    monkeypatch.setattr(Table, "group_batches", noted)
    world.write("alpha", "07.md", "another text")
    world.documents(alpha)
    world.chunks(alpha)
    read.clear()
    world.embeddings(alpha)
    assert len(read) == 1


@pytest.mark.parametrize("seed", range(4))
def test_after_any_edits_every_chunk_has_its_own_vector(world: World, alpha: Partition, seed: int) -> None:
    """Edits, copies, renames and deletions: texts move within the table, come twice and go."""
    chance = random.Random(seed)
    texts: dict[str, str] = {}
    ever: set[str] = set()
    for _ in range(4):
        for _ in range(12):
            name = f"{chance.randrange(20):02}.md"
            action = chance.choice(["edit", "edit", "copy", "rename", "delete"])
            if action == "edit" or not texts:
                texts[name] = " ".join(chance.sample(WORDS, 3))
            elif action == "delete":
                texts.pop(name, None)
            else:
                other = chance.choice(sorted(texts))
                texts[name] = texts[other]
                if action == "rename" and other != name:
                    del texts[other]
        for path in (world.base / "alpha").iterdir():
            path.unlink()
        for name, text in texts.items():
            world.write("alpha", name, text)
        embedded = ingest(world, alpha)
        assert sorted(embedded) == sorted(set(texts.values()) - ever), "each text once, and never again"
        ever |= set(texts.values())


def test_a_store_that_was_removed_is_filled_again_from_the_last_table(world: World, alpha: Partition) -> None:
    texts = [f"text {number}" for number in range(9)]
    for number, text in enumerate(texts):
        world.write("alpha", f"{number}.md", text)
    ingest(world, alpha)
    store(world).retain([])
    world.write("alpha", "0.md", "another text")
    assert ingest(world, alpha) == ["another text"], "what the table holds isn't computed again"
    keys = [text_key(text) for text in [*texts, "another text"]]
    assert store(world).missing(keys) == []
    assert np.array_equal(store(world).fetch(keys[:1]), world.embedder.embed([texts[0]]))


def test_vectors_that_were_lost_are_put_back(world: World, alpha: Partition) -> None:
    for number in range(5):
        world.write("alpha", f"{number}.md", f"text {number}")
    ingest(world, alpha)
    store(world).retain([text_key(f"text {number}") for number in (0, 2, 4)])
    world.write("alpha", "new.md", "new text")
    assert ingest(world, alpha) == ["new text"]
    assert store(world).count() == 6


def test_a_lost_vector_that_nobody_noticed_is_computed_again_where_it_is_needed(world: World, alpha: Partition) -> None:
    world.write("alpha", "a.md", "one text")
    ingest(world, alpha)
    store(world).retain([])
    store(world).append([text_key("a stranger's")], world.embedder.embed(["a stranger's"]))
    beta = world.partitions("beta")[0]
    world.write("beta", "b.txt", "one text")
    assert ingest(world, beta) == ["one text"]
    world.write("alpha", "b.md", "two texts")
    assert ingest(world, alpha) == ["two texts"]


def test_another_models_table_gives_no_vectors(world: World, alpha: Partition) -> None:
    world.write("alpha", "a.md", "one text")
    ingest(world, alpha)
    world.embedder = type(world.embedder)(WordEmbedder("another"))
    assert ingest(world, alpha) == ["one text"]
