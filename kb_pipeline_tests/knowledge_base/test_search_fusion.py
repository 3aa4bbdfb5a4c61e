"""Hybrid search: the fused scores, and that depth doesn't change them."""

from __future__ import annotations

import pytest

from kb_pipeline.knowledge_base.fusion import RRF_K, fuse
from kb_pipeline_tests.acceptance.world import WordEmbedder, World


def test_each_ranking_adds_the_reciprocal_of_its_rank() -> None:
    fused = fuse([["a", "b", "c"], ["b", "d"]])
    assert [chunk for chunk, _ in fused] == ["b", "a", "d", "c"]
    assert dict(fused)["b"] == pytest.approx(1 / (RRF_K + 2) + 1 / (RRF_K + 1))
    assert dict(fused)["c"] == pytest.approx(1 / (RRF_K + 3))


def test_equals_are_ordered_by_their_id() -> None:
    assert fuse([["b", "a"], ["a", "b"]]) == sorted(fuse([["a", "b"], ["b", "a"]]))
    assert fuse([[], []]) == []


def test_the_best_are_the_same_however_many_are_asked_for(world: World) -> None:
    # Nearness and words disagree: the words' best are the short texts, of which many say "rivers" once only.
    for number in range(180):
        world.write("alpha", f"{number}.md", "rivers " * (number % 7 + 1) + f"stone{number} " * (number % 11))
    world.run()
    release, embed = world.release(), WordEmbedder().embed_query
    everything = release.search("rivers run to stone7 and stone93", embed, k=300)
    assert len(everything) > 180
    for k in (1, 10, 99, 150):
        assert release.search("rivers run to stone7 and stone93", embed, k=k) == everything[:k]
