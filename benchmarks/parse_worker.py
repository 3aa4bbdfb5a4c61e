"""Our parsers over one file after the other, as ``peers/parsers/worker.py`` does it for others.

    python -m benchmarks.parse_worker

What belongs here: the way a run of the pipeline parses an item, limits of the balanced profile included.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kb_pipeline
from kb_pipeline.parsing.child import Limits
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.parsing.pool import ParserPool
from kb_pipeline.settings.profiles import PROFILES


@contextmanager
def sandbox() -> Iterator[Callable[[str, bytes], Outcome]]:
    """(name, bytes) -> outcome. The one place that knows how the parser processes are used: one, as each peer has one."""
    limits = PROFILES["balanced"]
    with ParserPool(Limits(limits.parse_seconds, limits.parse_memory_mib), size=1) as pool:
        yield pool.parse


def main() -> None:
    """The loop."""
    with sandbox() as parse:
        print(json.dumps({"version": kb_pipeline.__version__}), flush=True)
        for line in sys.stdin:
            path = Path(line.rstrip("\n"))
            begin = time.perf_counter()
            outcome = parse(path.name, path.read_bytes())
            seconds = time.perf_counter() - begin
            characters = len(outcome.document.text) if outcome.document else 0
            answer = {"status": outcome.status.value, "characters": characters, "seconds": seconds}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
