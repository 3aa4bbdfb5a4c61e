"""What the sandbox costs: throughput of parsing in the pool beside parsing in this process, start and size of a process.

    python -m benchmarks.sandbox FOLDER [--json]

Each round parses every *.md file under FOLDER in both ways, one after the other in turns, so that a machine whose cores
others use too treats both alike; the figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.results import Figure, main, say
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.network import allowed
from kb_pipeline.parsing.pool import ParserPool, usable_cores
from kb_pipeline.parsing.registry import HEAD_BYTES, choose

Item = tuple[str, bytes]
_STARTS = 9
_LARGE_BYTES = 32 << 20


def in_process(items: Sequence[Item]) -> list[Document]:
    """The reference: a loop over the registry's parsers."""
    documents = []
    for name, data in items:
        parser = choose(name, data[:HEAD_BYTES])
        assert parser is not None, name
        documents.append(parser.parse(data, name))
    return documents


def in_pool(pool: ParserPool, items: Sequence[Item]) -> list[Document]:
    """The same through the pool, with as many items in flight as there are."""
    outcomes = [future.result() for future in [pool.submit(name, data) for name, data in items]]
    return [outcome.document for outcome in outcomes if outcome.document is not None]


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Figure]]:
    """All figures."""
    files = sorted(arguments.folder.rglob("*.md"))
    if not files:
        raise SystemExit(f"no *.md under {arguments.folder}")
    items = [(path.name, path.read_bytes()) for path in files] * arguments.copies
    size = sum(len(data) for _, data in items)
    say(f"{len(items)} items, {size / 1e6:.1f} MB a round, {arguments.rounds} rounds")
    with ParserPool() as pool:
        if in_pool(pool, items) != in_process(items):
            raise SystemExit("the pool returned other documents than the parsers")
        children = [psutil.Process(pid) for pid in pool.pids()]
        plain, pooled, plain_cpu, pooled_cpu = [], [], 0.0, 0.0
        for _ in range(arguments.rounds):
            begun = processor_seconds([])
            plain.append(seconds(lambda: in_process(items)))
            plain_cpu += processor_seconds([]) - begun
            begun = processor_seconds(children)
            pooled.append(seconds(lambda: in_pool(pool, items)))
            pooled_cpu += processor_seconds(children) - begun
        resident = max(psutil.Process(pid).memory_info().rss for pid in pool.pids())
        processes = len(pool.pids())
    # Each round's two halves met the same neighbours: the ratio is taken within it.
    ratio = statistics.median(mine / theirs for mine, theirs in zip(plain, pooled, strict=True))
    reference = size / 1e6 / statistics.median(plain)
    large = ("large.txt", (b"A line of plain text.\n" * (_LARGE_BYTES // 22))[:_LARGE_BYTES])
    with ParserPool(size=1) as one:
        first = [seconds(lambda: one.parse("a.txt", b"x"))]
        large_plain = statistics.median(seconds(lambda: in_process([large])) for _ in range(5))
        large_pooled = statistics.median(seconds(lambda: in_pool(one, [large])) for _ in range(5))
    for _ in range(_STARTS - 1):
        with ParserPool(size=1) as one:
            first.append(seconds(lambda: one.parse("a.txt", b"x")))
    own = {"items": len(items), "bytes": size, "cores": usable_cores(), "processes": processes, "network": allowed()}
    return own, [
        Figure(
            "parsing in the pool", round(reference * ratio, 2), "MB/s", round(reference, 2), "in process",
            target=0.9, better="higher", of_ratio=True,
        ),
        Figure(
            "processor time of the pool", round(pooled_cpu, 2), "s", round(plain_cpu, 2), "in process",
            note="all processes; spread over the cores",
        ),
        Figure("a large item in the pool", round(large_pooled, 3), "s", round(large_plain, 3), "in process", note="32 MiB"),
        Figure("start of a process and its first item", round(statistics.median(first), 3), "s"),
        Figure("resident memory of a process", round(resident / 1e6, 1), "MB"),
    ]  # fmt: skip


def processor_seconds(children: Sequence[psutil.Process]) -> float:
    """The processor time that this process and its parser processes have taken so far."""
    return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)


def seconds(work: Callable[[], object]) -> float:
    """The wall-clock time of a piece of work."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the *.md files are")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--copies", type=int, default=3, help="how often a round holds each file")
    main(parser, measure)
