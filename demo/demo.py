"""The demo: ingest the demo knowledge base end to end, compare the report with what is stored, and search it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KB = [str(Path(sys.executable).with_name("kb")), "--config", str(HERE / "kb.yaml")]
QUESTIONS = [
    "how is the datum of the gauge checked?",
    "amplitude and phase of the M2 constituent by least squares",
    "how many days of travel can be claimed?",
]


def kb(*arguments: str) -> None:
    """Run a kb command with the terminal attached."""
    print(f"\n$ kb {' '.join(arguments)}", flush=True)
    subprocess.run([*KB, *arguments], check=True)


def kb_json(*arguments: str) -> Any:
    """Run a kb command and read its JSON report; its progress stays visible on stderr."""
    print(f"\n$ kb {' '.join(arguments)} --json", flush=True)
    done = subprocess.run([*KB, *arguments, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def main() -> int:
    """Upload, run, compare, search."""
    kb("upload", *(str(path) for path in sorted((HERE / "uploads").iterdir())))
    report = kb_json("run")
    columns = ["listed", "indexed", "unchanged", "quarantined", "excluded", "deleted", "chunks", "embedded", "reused"]
    print(f"{'':<12}" + "".join(f"{name:>12}" for name in columns))
    for name, counts in [*report["sources"].items(), ("total", report["totals"])]:
        print(f"{name:<12}" + "".join(f"{counts[column]:>12}" for column in columns))
    print(f"{report['status']} in {report['seconds']:.1f} s, published {report['release']}")

    run, stored = report["totals"], kb_json("status")["totals"]
    in_run = {name: run[name] for name in ("listed", "quarantined", "excluded", "chunks")}
    in_run["indexed"] = run["indexed"] + run["unchanged"]
    if any(stored[name] != number for name, number in in_run.items()):
        print(f"the report says {in_run}, but kb status says {stored}", file=sys.stderr)
        return 1
    print("the report's totals equal those of kb status: " + ", ".join(f"{k} {v}" for k, v in stored.items()))
    for question in QUESTIONS:
        kb("search", question, "-k", "3")
    print("\nNext: `make dev` opens the Dagster UI on this knowledge base at http://127.0.0.1:3000")
    return 0


if __name__ == "__main__":
    sys.exit(main())
