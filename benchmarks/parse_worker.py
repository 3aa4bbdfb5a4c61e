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
from kb_pipeline.parsing.isolation import IsolatedParser
from kb_pipeline.parsing.parse import Outcome, parse_item
from kb_pipeline.settings.profiles import PROFILES


@contextmanager
def sandbox() -> Iterator[Callable[[str, bytes], Outcome]]:
    """(name, bytes) -> outcome. The one place that knows how the parser process is used."""
    limits = PROFILES["balanced"]
    with IsolatedParser(seconds=limits.parse_seconds, address_space_mib=limits.parse_memory_mib) as isolated:
        yield lambda name, data: parse_item(name, data, isolated=isolated)


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
