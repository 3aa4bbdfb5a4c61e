"""A searcher asks a release with the release's own model, or not at all, and loads no more than a query needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kb_pipeline.embedding.base import Embedder
from kb_pipeline.embedding.errors import ModelNotFound
from kb_pipeline.knowledge_base.releases import NoRelease
from kb_pipeline.knowledge_base.search import Filters, SearchError
from kb_pipeline.knowledge_base.searcher import OtherModel, Searcher
from kb_pipeline_tests.acceptance.world import WordEmbedder, World

HEAVY = ("dagster", "torch", "sentence_transformers", "transformers")


def loads(code: str, *modules: str) -> list[str]:
    """Which of some modules a new interpreter has loaded after running ``code``."""
    report = f"\nimport sys\nprint(*(name for name in {modules!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ)
    )
    return done.stdout.split("\n")[-2].split()


def test_every_mode_and_filter_is_the_releases_own(world: World) -> None:
    world.run()
    searcher = Searcher.open(world.storage, embedder=lambda: world.embedder)
    for mode in ("hybrid", "vector", "text"):
        hits = searcher.search("rivers run to the sea", k=1, mode=mode)
        assert [hit.text for hit in hits] == ["rivers run to the sea"]
    hits = searcher.search("rivers", filters=Filters(connection="gamma"))
    assert {hit.connection for hit in hits} == {"gamma"}
    with pytest.raises(SearchError, match="empty"):
        searcher.search(" ")


def test_a_folder_and_the_name_of_a_release_are_enough(world: World) -> None:
    world.run()
    world.write("alpha", "a.md", "deserts wait")
    world.run()
    for name, found in (("current", "deserts wait"), ("release-1", "rivers run to the sea")):
        searcher = Searcher.open(world.storage.local, name)
        assert searcher.search(found, k=1, mode="text")[0].text == found
    with pytest.raises(NoRelease, match="release-2"):
        Searcher.open(world.storage.local, "release-9")


def test_another_model_is_refused_and_words_still_work(world: World) -> None:
    world.run()
    searcher = Searcher.open(world.storage, embedder=lambda: WordEmbedder("another model"))
    for mode in ("hybrid", "vector"):
        with pytest.raises(OtherModel, match=r"release-1 was made with the model a test's model .*kb run.*--mode text"):
            searcher.search("rivers", mode=mode)
    assert searcher.search("rivers", mode="text")


def test_by_default_the_releases_model_is_looked_for(world: World) -> None:
    world.run()
    searcher = Searcher.open(world.storage)
    with pytest.raises(ModelNotFound, match="a test's model"):
        searcher.search("rivers")
    assert searcher.search("rivers", mode="text")


def test_the_embedder_is_asked_for_once_and_only_for_vectors(world: World) -> None:
    world.run()
    asked: list[Embedder] = []

    def load() -> Embedder:
        asked.append(world.embedder)
        return world.embedder

    searcher = Searcher.open(world.storage, embedder=load)
    searcher.search("rivers", mode="text")
    assert asked == []
    searcher.search("rivers")
    searcher.search("mountains", mode="vector")
    assert len(asked) == 1


def test_importing_it_loads_no_model_no_database_and_no_dagster() -> None:
    assert loads("import kb_pipeline.knowledge_base.searcher", *HEAVY, "lancedb", "pandas") == []


def test_a_search_by_words_loads_no_model(world: World, folder: Path) -> None:
    world.run()
    code = f"""
from pathlib import Path
from kb_pipeline.knowledge_base.searcher import Searcher
assert Searcher.open(Path({str(folder / "kb")!r})).search("rivers", mode="text")
"""
    assert loads(code, *HEAVY, "lancedb") == ["lancedb"]
