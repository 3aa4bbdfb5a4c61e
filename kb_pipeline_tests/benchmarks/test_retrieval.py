"""The retrieval benchmark: its measures against values computed by hand, and a small collection from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from math import log2
from pathlib import Path

import numpy as np
import pytest

from benchmarks.processes import environment
from benchmarks.ranking import evaluate, ndcg, recall
from benchmarks.retrieval import Collection, compared, write

ROOT = Path(__file__).parents[2]
GRADED = {"a": 3.0, "b": 2.0, "c": 1.0, "no": 0.0, "wrong": -1.0}


def test_ndcg_has_linear_gains_and_a_logarithmic_discount() -> None:
    best = 3 + 2 / log2(3) + 1 / 2
    assert ndcg(["a", "b", "c"], GRADED, 10) == 1.0
    assert ndcg(["x", "c", "a"], GRADED, 10) == pytest.approx((1 / log2(3) + 3 / 2) / best)
    assert ndcg(["x", "c", "a"], GRADED, 2) == pytest.approx((1 / log2(3)) / (3 + 2 / log2(3)))


def test_what_is_judged_zero_or_less_is_not_relevant() -> None:
    assert ndcg(["no", "wrong", "x"], GRADED, 10) == 0.0
    assert ndcg(["wrong", "a"], GRADED, 10) == ndcg(["x", "a"], GRADED, 10)
    assert recall(["no", "wrong", "a"], GRADED, 100) == pytest.approx(1 / 3)


def test_recall_is_cut_and_counts_documents_that_no_ranking_can_hold() -> None:
    judged = {"a": 1.0, "b": 1.0, "gone": 2.0, "d": 1.0}
    assert recall(["x", "a", "b"], judged, 2) == 0.25
    assert recall(["x", "a", "b"], judged, 3) == 0.5
    assert ndcg(["a"], judged, 1) == 0.5


def test_means_are_over_queries_with_something_relevant() -> None:
    judgements = {"1": {"a": 1.0}, "2": {"b": 1.0}, "3": {"a": 0.0}}
    assert evaluate({"1": ["a"], "3": ["a"]}, judgements) == {"ndcg@10": 0.5, "recall@100": 0.5}
    with pytest.raises(ValueError, match="relevant"):
        evaluate({}, {"3": {"a": 0.0}})


def test_a_documents_score_is_that_of_its_best_chunk() -> None:
    matrix = np.array([[0.0, 1.0], [3.0, 0.1], [1.0, 1.0]], dtype=np.float32)
    ranker = compared(["a", "a", "b"], matrix, {"q": np.array([2.0, 0.0], dtype=np.float32)})
    assert ranker("q") == ["a", "b"]


def lines(path: Path, *rows: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    lines(
        folder / "corpus.jsonl",
        {"_id": "../etc/pension", "title": "Pensions", "text": "A pension is paid monthly after retirement."},
        {"_id": "tides:1?", "title": "", "text": "The moon raises the tides of the sea twice a day."},
        {"_id": "bread", "title": "Baking bread", "text": "Flour, water, salt and yeast; knead and bake."},
        {"_id": "empty", "title": "", "text": " "},
        {"_id": "ü", "title": "* Cycling |", "text": "A bicycle chain wants oil."},
    )
    lines(
        folder / "queries.jsonl",
        {"_id": "1", "text": "how often is the pension paid"},
        {"_id": "2", "text": "what makes the tides"},
        {"_id": "3", "text": "nobody judged this"},
        {"_id": "4", "text": "judged, and nothing is relevant"},
    )
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\t../etc/pension\t2\n1\tbread\t0\n2\ttides:1?\t1\n4\tbread\t0\n", encoding="utf-8"
    )
    return folder


def test_only_queries_with_something_relevant_are_kept(collection: Path) -> None:
    read = Collection.read(collection)
    assert list(read.queries) == ["1", "2"]
    assert read.judgements["1"] == {"../etc/pension": 2.0, "bread": 0.0}
    assert read.documents["bread"] == "Baking bread\n\nFlour, water, salt and yeast; knead and bake."


def test_documents_become_files_whatever_their_ids(tmp_path: Path) -> None:
    paths = write({"../a": "one", "b:?\0": "lone \ud800"}, tmp_path)
    assert sorted(paths.values()) == ["../a", "b:?\0"]
    assert {(tmp_path / path).read_text(encoding="utf-8") for path in paths} == {"one", "lone ?"}


def test_a_collection_from_end_to_end(collection: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.retrieval", str(collection), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert list(document["modes"]) == ["vector", "text", "hybrid"]
    perfect = {"ndcg@10": 1.0, "recall@100": 1.0}
    assert [*document["modes"].values(), document["exact"], document["truncated"]] == [perfect] * 5
    assert document["collection"] == {"name": "tiny", "documents": 5, "documents_found": 4, "chunks": 4, "queries": 2}
    assert {figure["verdict"] for figure in document["figures"]} == {"", "met"}
    assert document["machine"]["cores"] > 0
