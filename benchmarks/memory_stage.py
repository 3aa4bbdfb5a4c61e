"""One stage over the one connection of a kb.yaml, in this process: its peak memory, and that of its parser processes.

    python -m benchmarks.memory_stage KB_YAML documents|chunks

What belongs here: the way a run works off a partition, without Dagster and without a model.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from pathlib import Path

import psutil

from kb_pipeline import stages
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ingestion.work import Orchestration
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.settings.load import load
from kb_pipeline.tables import values

_SAMPLE_SECONDS = 0.02
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def peak_bytes(pid: int) -> int:
    """The most resident memory that a process had so far; 0 when it is gone."""
    with contextlib.suppress(OSError):
        # Not getrusage: that of a process includes what its parent had when it was started.
        if match := _PEAK.search(Path(f"/proc/{pid}/status").read_text(encoding="utf-8")):
            return int(match[1]) * 1024
    return 0


class _Children:
    """Watches the child processes: ``peak`` is the most that one of them had, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Children:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._over.wait(_SAMPLE_SECONDS):
            self.peak = max([self.peak, *(peak_bytes(each.pid) for each in own.children())])


def main() -> None:
    """The command line: one stage of the connection ``files``."""
    workspace = Workspace(load(Path(sys.argv[1])))
    stage = sys.argv[2]
    chain, orchestration = Chain(workspace), Orchestration("benchmark", time.time(), "benchmark")
    (partition,) = workspace.partitions("files")
    begin = time.perf_counter()
    with _Children() as children:
        staged = chain.make(stages.get(stage), partition, orchestration)
    with workspace.storage.require("documents", partition) as documents:
        statuses = values(documents.read(["status"])["status"].unique())
    answer = {
        "status": ", ".join(statuses),
        "seconds": round(time.perf_counter() - begin, 2),
        "peak_mb": round(peak_bytes(psutil.Process().pid) / 1e6, 1),
        "parser_mb": round(children.peak / 1e6, 1),
        "counts": dict(staged.counts),
    }
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
