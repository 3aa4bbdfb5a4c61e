"""A run over files that didn't change: seconds, memory and reads at 1,000, 10,000 and 100,000 files; one edit among 10,000.

    python benchmarks/noop.py [--files 1000 10000 100000] [--json]

The files are generated: short notes, of which many are alike, so that the first run isn't all embedding. The connection
is a folder whose connector writes down every read, installed like one of a third party.

What belongs here: what an unchanged run costs. What doesn't: how fast files come in (``ingest``).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.processes import KbProject, Measurement
from kb_pipeline.ingestion import listing
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests.acceptance.project import install_connectors

DISTINCT = 2_000
"""Different texts among the files, however many those are."""
EDITED_AMONG = 10_000
RUNS = 3
"""Unchanged runs of each size; the fastest counts, because only others' work makes one slower."""
MEMORY_MB = 1_000.0


@dataclass(frozen=True)
class Unchanged:
    """Unchanged runs over ``files`` files. Seconds of the whole process, of its listing, of the rest; ``all`` of them."""

    files: int
    seconds: float
    listing: float
    rest: float
    peak_mb: float
    reads: int
    embedded: int
    all: list[float]


class Notes:
    """A project over generated files."""

    def __init__(self, root: Path, files: int) -> None:
        self._files = files
        self._folder = root / "notes"
        for number in range(files):
            if number % 1_000 == 0:
                (self._folder / f"{number // 1_000:03d}").mkdir(parents=True)
            self._path(number).write_text(_note(number % DISTINCT), encoding="utf-8")
        source = {"name": "notes", "type": "journalled", "path": "notes", "journal": "reads"}
        self._project = KbProject(root, [source])
        self._environment = install_connectors(root / "site")

    def run(self) -> Measurement:
        """``kb run``; every file must be accounted for."""
        measured = self._project.kb("run", "--json", extra=self._environment)
        totals = measured.json["totals"]
        if totals["listed"] != self._files or totals["indexed"] + totals["unchanged"] != self._files:
            raise RuntimeError(f"{self._files} files, but the report says {totals}")
        return measured

    def reads(self) -> int:
        """Items read since the last call."""
        journal = self._project.root / "reads"
        count = len(journal.read_text(encoding="utf-8").splitlines()) if journal.exists() else 0
        journal.unlink(missing_ok=True)
        return count

    def listing_seconds(self) -> float:
        """What the listing of the last run took, by that run's own record."""
        info = listing.latest(Storage.of_folder(self._project.storage), "journalled", "notes")
        if info is None:
            raise RuntimeError("the run recorded no listing")
        return info.finished_at - info.started_at

    def edit(self, number: int) -> None:
        """Change one file."""
        with self._path(number).open("a", encoding="utf-8") as file:
            file.write(f"\nEdited: the bearing of pump {number} was replaced.\n")

    def unchanged(self) -> Unchanged:
        """Run a few times over files that stay as they are."""
        self.reads()
        measured, listings = [], []
        for _ in range(RUNS):
            measured.append(self.run())
            listings.append(self.listing_seconds())
        best = min(range(RUNS), key=lambda index: measured[index].seconds)
        seconds, listing = measured[best].seconds, round(listings[best], 3)
        return Unchanged(
            files=self._files,
            seconds=seconds,
            listing=listing,
            rest=round(seconds - listing, 3),
            peak_mb=max(each.peak_mb for each in measured),
            reads=self.reads(),
            embedded=sum(each.json["totals"]["embedded"] for each in measured),
            all=[each.seconds for each in measured],
        )

    def _path(self, number: int) -> Path:
        return self._folder / f"{number // 1_000:03d}" / f"note-{number:06d}.md"


def _note(kind: int) -> str:
    return f"# Pump {kind}\n\nPump {kind} of station {kind % 37} was serviced in week {kind % 52}; its seal held.\n"


def _part(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[results.Figure]]:
    found: list[Unchanged] = []
    edited: dict[str, Any] = {}
    for files in sorted(arguments.files):
        with tempfile.TemporaryDirectory(prefix="kb-bench-") as folder:
            notes = Notes(Path(folder), files)
            first = notes.run()
            results.say(f"{files} files, first run: {first.seconds} s, {first.peak_mb} MB")
            found.append(notes.unchanged())
            results.say(f"{found[-1]}")
            if files == EDITED_AMONG:
                notes.edit(files // 2)
                run = notes.run()
                edited = {
                    "seconds": run.seconds,
                    "peak_mb": run.peak_mb,
                    "reads": notes.reads(),
                    "embedded": run.json["totals"]["embedded"],
                }
                results.say(f"one edited: {edited}")
    return {"unchanged": [asdict(each) for each in found], "edited": edited}, _figures(found, edited)


def _figures(found: list[Unchanged], edited: dict[str, Any]) -> list[results.Figure]:
    figures = []
    least = found[0]
    for each in found:
        name = f"{each.files:,} files"
        figures += [
            results.Figure(f"unchanged, {name}", each.seconds, "s"),
            results.Figure(f"listing of {name}", each.listing, "s"),
            results.Figure(f"all but the listing, {name}", each.rest, "s", least.rest, f"at {least.files:,} files"),
            results.Figure(f"peak memory, {name}", each.peak_mb, "MB", target=MEMORY_MB),
            results.Figure(f"reads, {name}", each.reads, "", target=0),
            results.Figure(f"texts embedded, {name}", each.embedded, "", target=0),
        ]
    if edited:
        figures += [
            results.Figure(f"one edited among {EDITED_AMONG:,}", edited["seconds"], "s"),
            results.Figure(f"reads, one edited among {EDITED_AMONG:,}", edited["reads"], "", target=1),
            results.Figure(f"texts embedded, one edited among {EDITED_AMONG:,}", edited["embedded"], "", target=1),
        ]
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure runs over files that didn't change.")
    parser.add_argument(
        "--files", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="sizes (default: 1000 10000 100000)"
    )
    results.main(parser, _part)
