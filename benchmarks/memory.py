"""Peak memory over large items: of the process that ingests, and of the parser process, beside what the profile allows.

    python benchmarks/memory.py [--json] [--megabytes N]

Each case is a folder with generated items. Each stage runs in a process of its own, without Dagster and without a
model (``memory_stage``). What such a process has over a small item is the baseline.

What belongs here: the items, and the bound. What doesn't: measuring one stage.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import results
from benchmarks.processes import measure
from kb_pipeline.parsing.pool import usable_cores
from kb_pipeline.settings.profiles import PROFILES
from kb_pipeline_tests.parsing.pdf_builder import build_pdf

ROOT = Path(__file__).parents[1]
PROFILE = PROFILES["balanced"]
WRITTEN, PARSED = 6, 2
"""How often a text may be there while its row is written, and for each parser process: see docs/operations.md."""

_MIB = 1 << 20
_TIMEOUT = 1800.0
_PAGES = 619
_TEXT = "the tide table of a harbour lists for each day of the year when the water is high and how high it is"


@dataclass(frozen=True)
class Case:
    """``make`` writes its items. ``limits``: what kb.yaml raises. ``chunks``: whether they are cut into chunks as well."""

    name: str
    make: Callable[[Path], None]
    limits: Mapping[str, int] = field(default_factory=dict)
    chunks: bool = True

    @property
    def bound(self) -> float:
        """MB that the ingesting process may take beyond the baseline."""
        largest = self.limits.get("max_item_bytes", PROFILE.max_item_bytes)
        processes = min(usable_cores(), PROFILE.max_concurrent_files)
        return (PROFILE.inflight_bytes + (WRITTEN + PARSED * processes) * largest) / 1e6

    @property
    def parser_bound(self) -> float:
        """MB that the parser process may take beyond what it maps when it is ready."""
        return self.limits.get("parse_memory_mib", PROFILE.parse_memory_mib) * _MIB / 1e6


def csv(size: int, files: int = 1) -> Callable[[Path], None]:
    """Tables of numbered readings, each of ``size`` bytes."""

    def make(folder: Path) -> None:
        numbers = random.Random(1)
        lines = [f"{i},station {numbers.randrange(10**4)},{numbers.random():.6f},2026-03-11\n" for i in range(50_000)]
        block = "".join(lines).encode()
        for number in range(files):
            with (folder / f"readings-{number}.csv").open("wb") as file:
                # Each differs, or one would be a copy of the other.
                file.write(f"{number}\n".encode())
                while (left := size - file.tell()) > 0:
                    file.write(block[:left])

    return make


def pdf(folder: Path) -> None:
    """As many pages of text as the longest PDF of a collection had on which this was first looked at."""
    words = random.Random(1)
    pages = ["\n".join(" ".join(words.choices(_TEXT.split(), k=14)) for _ in range(45)) for _ in range(_PAGES)]
    (folder / "handbook.pdf").write_bytes(build_pdf(pages))


def small(folder: Path) -> None:
    """What costs nothing beside the process itself."""
    (folder / "small.csv").write_text("a,b\n1,2\n", encoding="utf-8")


def cases(megabytes: int) -> list[Case]:
    """All of them. ``megabytes``: of the item that is larger than the profile allows."""
    size = megabytes * 10**6
    raised = {"max_item_bytes": size, "parse_memory_mib": 8 * size // _MIB}
    return [
        Case(f"PDF of {_PAGES} pages", pdf),
        Case("CSV just below the limit", csv(PROFILE.max_item_bytes)),
        Case("twelve of those", csv(PROFILE.max_item_bytes, files=12), chunks=False),
        Case("CSV above the limit", csv(size)),
        # Cutting it into chunks takes a quarter of an hour, and shows nothing that the others don't.
        Case("the same CSV, limits raised", csv(size), raised, chunks=False),
    ]


def run(case: Case, folder: Path) -> dict[str, dict[str, Any]]:
    """Stage -> what ``memory_stage`` said."""
    (folder / "files").mkdir(parents=True)
    case.make(folder / "files")
    source = {"name": "files", "type": "local_directory", "path": "./files"}
    content = {"storage": {"url": "./.kb"}, "profile": "balanced", "limits": dict(case.limits), "sources": [source]}
    (folder / "kb.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    found = {}
    for stage in ("documents", "chunks") if case.chunks else ("documents",):
        command = [sys.executable, "-m", "benchmarks.memory_stage", str(folder / "kb.yaml"), stage]
        found[stage] = measure(command, cwd=ROOT, timeout=_TIMEOUT).json
        results.say(f"{case.name}, {stage}: {found[stage]}")
    return found


def figures(baseline: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], tried: list[Case]) -> list[results.Figure]:
    """Peaks beside their bounds, and what became of the items."""
    shown = [
        results.Figure(f"baseline, {stage}", facts["peak_mb"], "MB", note="one small item")
        for stage, facts in baseline.items()
    ]
    for case in tried:
        stages = found[case.name]
        documents = stages["documents"]
        shown.append(results.Figure(f"{case.name}: {documents['status']}", documents["seconds"], "s"))
        bounds = {
            "documents": (documents["peak_mb"], baseline["documents"]["peak_mb"] + case.bound),
            "its parser process": (documents["parser_mb"], baseline["documents"]["parser_mb"] + case.parser_bound),
        }
        shown += [
            results.Figure(
                f"{case.name}: {name}", peak, "MB", round(bound, 1), "allowed", target=1.0, of_ratio=True
            )
            for name, (peak, bound) in bounds.items()
        ]  # fmt: skip
        if "chunks" in stages:
            note = f"{stages['chunks']['counts']['chunks']:,} chunks in {stages['chunks']['seconds']:g} s"
            shown.append(results.Figure(f"{case.name}: chunks", stages["chunks"]["peak_mb"], "MB", note=note))
    return shown


def _part(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[results.Figure]]:
    tried = cases(arguments.megabytes)
    with tempfile.TemporaryDirectory(prefix="kb-benchmark-") as folder:
        baseline = run(Case("small", small), Path(folder, "small"))
        found = {case.name: run(case, Path(folder, str(number))) for number, case in enumerate(tried)}
    return {"profile": "balanced", "baseline": baseline, "cases": found}, figures(baseline, found, tried)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500, help="size of the largest item (default: %(default)s)")
    results.main(parser, _part)
