"""Fusion: one ranking out of several. What doesn't belong here: where the rankings come from (``search``).

Method: Cormack, Clarke, Buettcher, "Reciprocal Rank Fusion outperforms Condorcet..." (SIGIR 2009), with their constant:
score = sum over rankings of 1 / (RRF_K + rank).
"""

from __future__ import annotations

from collections.abc import Sequence

RRF_K = 60
"""Larger: ranks count for more evenly; smaller: the first ones decide."""


def fuse(lists: Sequence[Sequence[str]]) -> list[tuple[str, float]]:
    """(Chunk id, score) of all in these rankings, best first."""
    scores: dict[str, float] = {}
    for found in lists:
        for rank, chunk in enumerate(found, start=1):
            scores[chunk] = scores.get(chunk, 0.0) + 1.0 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda each: (-each[1], each[0]))
