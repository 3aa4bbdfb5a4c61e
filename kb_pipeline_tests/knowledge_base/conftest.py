"""A world with a stand-in for the model: these tests are about the index and the releases, not about vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kb_pipeline_tests.acceptance.world import WordEmbedder, World, quick_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder."""
    with quick_folder() as found:
        yield found


@pytest.fixture
def world(folder: Path) -> World:
    """Three documents in three connections, not ingested yet."""
    world = World(folder, WordEmbedder())
    world.write("alpha", "a.md", "rivers run to the sea")
    world.write("beta", "b.txt", "mountains stand where they are")
    world.write("gamma", "sub/c.md", "# Clouds\n\nclouds pass over rivers and mountains")
    return world
