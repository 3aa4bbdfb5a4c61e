"""Searching a release: three modes, filters, and reading all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from kb_pipeline import tables
from kb_pipeline.knowledge_base.search import Filters, Hit, Mode, Release, SearchError
from kb_pipeline_tests.acceptance.world import WordEmbedder, World

MODES = list(get_args(Mode))
KEYS = ["it's/a.md", 'say "hi"/a.md', "100%/a.md", "100x/a.md", "a_b/a.md", "axb/a.md", "a\\b.md", "ü/a.md", "it''s/a.md"]


@pytest.fixture
def release(world: World) -> Release:
    for number, key in enumerate(KEYS):
        world.write("gamma", key, f"words about rivers number {number}")
    world.write("beta", "data.csv", "river,length\nNile,6650")
    world.write("beta", "page.md", "# Page\n\nrivers on a page")
    world.run()
    return world.release()


def find(release: Release, query: str, mode: Mode = "hybrid", k: int = 50, **filters: str) -> list[Hit]:
    return release.search(query, WordEmbedder().embed_query, k=k, mode=mode, filters=Filters(**filters))


@pytest.mark.parametrize("mode", MODES)
def test_the_best_hit_comes_first_and_knows_where_it_is_from(release: Release, mode: Mode) -> None:
    best, *others = find(release, "rivers run to the sea", mode)
    assert best.text == "rivers run to the sea"
    assert (best.source, best.connection, best.start, best.end) == ("local_directory", "alpha", 0, 21)
    assert best.uri.startswith("file://")
    assert best.uri.endswith("/alpha/a.md")
    scores = [best.score, *(hit.score for hit in others)]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 3])
def test_no_more_hits_than_asked_for(release: Release, mode: Mode, k: int) -> None:
    hits = find(release, "rivers", mode, k)
    assert len(hits) == k
    assert hits == find(release, "rivers", mode)[:k]


@pytest.mark.parametrize("mode", MODES)
def test_the_same_question_has_the_same_answer(release: Release, mode: Mode) -> None:
    assert find(release, "rivers", mode) == find(release, "rivers", mode)


def test_text_search_finds_words_and_only_those(release: Release) -> None:
    assert {hit.text for hit in find(release, "clouds", "text")} == {"# Clouds\n\nclouds pass over rivers and mountains"}
    assert find(release, "unheardof", "text") == []
    assert find(release, "unheardof", "vector") != []


def test_text_search_does_not_call_the_model(release: Release) -> None:
    def refuse(_: str) -> None:
        raise AssertionError("the model was called")

    assert release.search("clouds", refuse, mode="text")  # type: ignore[arg-type]


@pytest.mark.parametrize("query", ['"', "it's", "a AND", "(", "*", "rivers +", "%", "\\", "💧", "a" * 5_000])
@pytest.mark.parametrize("mode", MODES)
def test_no_query_breaks_the_search(release: Release, query: str, mode: Mode) -> None:
    assert isinstance(find(release, query, mode), list)


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_query_is_refused(release: Release, query: str) -> None:
    with pytest.raises(SearchError, match="empty"):
        find(release, query)


@pytest.mark.parametrize("mode", MODES)
def test_filters_admit_only_what_they_name(release: Release, mode: Mode) -> None:
    everything = find(release, "rivers", "vector")
    filters: list[tuple[str, Any]] = [("source", "local_zip"), ("connection", "gamma"), ("media_type", "text/markdown")]
    for name, value in filters:
        hits = find(release, "rivers", mode, **{name: value})
        assert hits
        if name != "media_type":
            assert {getattr(hit, name) for hit in hits} == {value}
        assert len(hits) < len(everything)
    assert find(release, "rivers", mode, connection="nobody") == []
    assert find(release, "rivers", mode, connection="alpha", source="local_zip") == []
    assert find(release, "rivers", mode, connection="x' OR '1' = '1") == []


def test_the_media_type_is_the_one_the_parser_found(release: Release) -> None:
    assert [hit.uri.rpartition("/")[2] for hit in find(release, "river", media_type="text/csv")] == ["data.csv"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("prefix", "keys"),
    [
        ("z.zip!/it's/", ["it's/a.md"]),
        ("z.zip!/it''s/", ["it''s/a.md"]),
        ('z.zip!/say "', ['say "hi"/a.md']),
        ("z.zip!/100%", ["100%/a.md"]),
        ("z.zip!/100", ["100%/a.md", "100x/a.md"]),
        ("z.zip!/a_b", ["a_b/a.md"]),
        ("z.zip!/a\\", ["a\\b.md"]),
        ("z.zip!/ü", ["ü/a.md"]),
        ("z.zip!/%", []),
        ("z.zip!/_", []),
        ("zip", []),
    ],
)
def test_a_path_prefix_means_exactly_its_characters(release: Release, mode: Mode, prefix: str, keys: list[str]) -> None:
    hits = find(release, "words about rivers", mode, path_prefix=prefix)
    assert {hit.text for hit in hits} == {f"words about rivers number {KEYS.index(key)}" for key in keys}


def test_a_filter_is_applied_before_the_best_are_taken(world: World) -> None:
    for number in range(30):
        world.write("alpha", f"{number}.md", f"mountains mountains {number}")
    world.run()
    for mode in MODES:
        hits = find(world.release(), "mountains", mode, k=1, connection="beta")
        assert [hit.connection for hit in hits] == ["beta"]


def test_a_release_reads_as_a_data_frame_with_every_column(world: World, folder: Path) -> None:
    for number in range(25):
        world.write("alpha", f"{number}.md", f"text {number}")
    world.run()
    frame = Release.open(folder / "kb").to_pandas()
    assert list(frame.columns) == tables.index(16).names
    assert len(frame) == 28
    assert frame["chunk_id"].is_monotonic_increasing
    assert world.release().to_arrow(["text"]).column_names == ["text"]


def test_new_texts_are_found_by_their_words_in_the_release_that_brings_them(world: World) -> None:
    world.run()
    world.write("alpha", "new.md", "volcanoes smoke")
    world.run()
    assert [hit.text for hit in find(world.release(), "volcanoes", "text")] == ["volcanoes smoke"]
    assert find(world.release("release-1"), "volcanoes", "text") == []
