"""Vectors found among a million: by the index on their keys, by a scan of all keys, as the store chooses; one vector more.

    python benchmarks/vector_store.py [--rows 1000000] [--json]

The vectors are random numbers, the keys those of made-up texts. Each figure is of a new process, once for its first request
("first"), once for the next ("again"); the files are in the system's memory either way.

What belongs here: what the store costs beside its own other way of looking. What doesn't: embedding (``ingest``), what a
whole run costs (``noop``).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from kb_pipeline.embedding import VectorStore, text_key, vector_store
from kb_pipeline.storage.lance import LanceLocation

DIMENSION = 384
WANTED = (1, 1_000, 100_000)
WAYS = {"chosen": vector_store._ROWS_PER_LOOKUP, "index": 0, "scan": 10**12}
"""Way of looking -> rows of the store for each key asked for, from which on the index is used."""
GROUP = 50_000
TARGETS = {1: 0.2, 1_000: 2.0, 100_000: 1.5}
"""Keys asked for -> how long the way that the store chooses may take, in scans. For few it must not read all keys; where
both ways take about as long, the index is slower once and quicker from then on."""
GROWTH = 1.0
"""Seconds for one vector more, with what the store does about it afterwards."""


def _store(folder: Path) -> VectorStore:
    return VectorStore(LanceLocation(str(folder)), "0" * 32, DIMENSION)


def _fill(folder: Path, rows: int) -> None:
    store = _store(folder)
    chance = np.random.default_rng(1)
    for start in range(0, rows, GROUP):
        keys = [text_key(f"text {number}") for number in range(start, min(start + GROUP, rows))]
        store.append(keys, chance.standard_normal((len(keys), DIMENSION), dtype=np.float32))
    store.compact(thorough=True)


def _timed(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return round(time.perf_counter() - begin, 4)


def _look(folder: Path, rows: int, wanted: int, way: str) -> tuple[float, float]:
    """Seconds of a first request of this process and of the next."""
    import lancedb  # noqa: F401 - its import isn't what is measured

    vector_store._ROWS_PER_LOOKUP = WAYS[way]
    store = _store(folder)
    chance = random.Random(wanted)
    first, again = ([text_key(f"text {n}") for n in chance.sample(range(rows), wanted)] for _ in range(2))
    return _timed(lambda: store.fetch(first)), _timed(lambda: store.fetch(again))


def _grow(folder: Path) -> float:
    import lancedb  # noqa: F401 - its import isn't what is measured

    store = _store(folder)

    def grow() -> None:
        store.append([text_key(f"new at {time.time_ns()}")], np.ones((1, DIMENSION), np.float32))
        store.compact()

    return _timed(grow)


def _part(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[results.Figure]]:
    found: dict[str, dict[str, tuple[float, float]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="kb-bench-") as root,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes,
    ):
        folder = Path(root) / "vectors"
        filled = _timed(lambda: processes.submit(_fill, folder, arguments.rows).result())
        results.say(f"{arguments.rows:,} vectors stored in {filled} s")
        for wanted in WANTED:
            found[str(wanted)] = {}
            for way in WAYS:
                tries = [
                    processes.submit(_look, folder, arguments.rows, wanted, way).result()
                    for _ in range(3 if wanted < 10_000 else 1)
                ]
                first, again = (min(each) for each in zip(*tries, strict=True))
                found[str(wanted)][way] = (first, again)
            results.say(f"{wanted:,}: {found[str(wanted)]}")
        grown = [processes.submit(_grow, folder).result() for _ in range(3)]
    return {"rows": arguments.rows, "seconds": found, "grown": grown}, _figures(found, grown)


def _figures(found: dict[str, dict[str, tuple[float, float]]], grown: list[float]) -> list[results.Figure]:
    figures = []
    for wanted in WANTED:
        ways = found[str(wanted)]
        name = "1 key" if wanted == 1 else f"{wanted:,} keys"
        for turn, when in enumerate(("first", "again")):
            chosen, index, scan = (ways[way][turn] for way in ("chosen", "index", "scan"))
            figures += [
                results.Figure(f"{name}, {when}", chosen, "s", scan, "by a scan", TARGETS[wanted], of_ratio=True),
                results.Figure(f"{name} by the index, {when}", index, "s", scan, "by a scan", of_ratio=True),
            ]
    return [*figures, results.Figure("one vector more, and compaction if it pays", min(grown), "s", target=GROWTH)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure how the vector store finds vectors.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors stored (default: 1000000)")
    results.main(parser, _part)
