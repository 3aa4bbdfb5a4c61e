"""How good a ranking is, by judgements: nDCG and recall as trec_eval and BEIR compute them.

What belongs here: the measures. What doesn't: where rankings and judgements come from.

- nDCG@k: DCG@k ÷ the DCG@k of the best possible order; DCG@k = Σ over ranks i = 1 … k of gain(i) / log2(i + 1). The
  gain is the judgement itself, not 2^judgement - 1: trec_eval's ``ndcg_cut``, by which BEIR reports (Järvelin and
  Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002; the discount as in Burges et al. 2005).
- Recall@k: relevant documents among the first k ÷ all relevant documents; trec_eval's ``recall``.

A document without a judgement, or with one of 0 or less, is not relevant. Judged documents that no ranking can hold,
because the collection lacks them, count all the same. Means are over queries with at least one relevant document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2

Judgements = Mapping[str, float]
"""Document id -> judgement, for one query."""

Scores = dict[str, float]
"""Name of a measure -> its value."""


def ndcg(ranking: Sequence[str], judged: Judgements, k: int) -> float:
    """nDCG@k of document ids, best first, each once. 0 when nothing is relevant."""
    ideal = sorted((gain for gain in judged.values() if gain > 0), reverse=True)
    best = _dcg(ideal[:k])
    return _dcg([max(judged.get(each, 0.0), 0.0) for each in ranking[:k]]) / best if best else 0.0


def recall(ranking: Sequence[str], judged: Judgements, k: int) -> float:
    """Recall@k of document ids, best first, each once. 0 when nothing is relevant."""
    relevant = {each for each, gain in judged.items() if gain > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def evaluate(rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Judgements]) -> Scores:
    """Mean nDCG@10 and recall@100 over the judged queries; a query without a ranking counts 0.

    Raises ValueError when no query has a relevant document.
    """
    judged = {query: each for query, each in judgements.items() if any(gain > 0 for gain in each.values())}
    if not judged:
        raise ValueError("no query has a relevant document")
    return {
        "ndcg@10": sum(ndcg(rankings.get(query, ()), each, 10) for query, each in judged.items()) / len(judged),
        "recall@100": sum(recall(rankings.get(query, ()), each, 100) for query, each in judged.items()) / len(judged),
    }


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, start=1))
