"""Life with the daemon: seconds from a changed file to a release that has it, the cost of idling, the size of the event log.

    python benchmarks/ui.py [--changes 10] [--runs 100] [--documents 1000] [--json]

One project with ``--documents`` small files, settings as ``kb init`` writes them. First ``--runs`` orchestrations, each
after an edit of one file, in one process (the Dagster runs are those of as many ``kb run``); then the rows of the event
log are counted. Then ``kb dev``: ``--changes`` changes in turn, each waited for; then a minute in which nothing changes.

What belongs here: the course of events and the figures. What doesn't: how the daemon is run (``daemon``).
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from benchmarks import daemon, results
from benchmarks.processes import BenchmarkFailed, KbProject
from kb_pipeline.environment import instance as open_instance
from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.orchestrator import Options, Orchestrator
from kb_pipeline.settings.load import load
from kb_pipeline.storage.storage import Storage

CHANGE_SECONDS = 300.0
"""How long a change is waited for."""
IDLE_SECONDS = 60.0
QUIET_SECONDS = 20.0
"""No run began or went on for so long: the daemon idles."""
ROWS_A_DOCUMENT = 0.5
"""Target: event rows ÷ documents, after all runs."""
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class Documents:
    """A folder of small Markdown files. ``texts``: file name -> its body now."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.texts: dict[str, str] = {}
        for number in range(count):
            self.write(f"note-{number:04}.md", f"Station {number} reported {number * 7} gauges, {number % 9} of them dry.")

    def write(self, name: str, body: str) -> None:
        """Drop or edit a file."""
        (self._folder / name).write_text(f"# Note\n\n{body}\n", encoding="utf-8")
        self.texts[name] = body

    def rename(self, old: str, new: str) -> None:
        (self._folder / old).rename(self._folder / new)
        self.texts[new] = self.texts.pop(old)

    def delete(self, name: str) -> None:
        (self._folder / name).unlink()
        del self.texts[name]

    def change(self, number: int) -> str:
        """Drop, edit, rename or delete a file, in turn; returns which."""
        kinds: list[tuple[str, Callable[[], None]]] = [
            ("drop", lambda: self.write(f"new-{number:04}.md", f"A lamp was lit at pier {number}.")),
            ("edit", lambda: self.write(f"new-{number - 1:04}.md", f"The lamp went out at pier {number}.")),
            ("rename", lambda: self.rename(f"new-{number - 2:04}.md", f"moved-{number:04}.md")),
            ("delete", lambda: self.delete(f"moved-{number - 1:04}.md")),
        ]
        kind, act = kinds[number % len(kinds)]
        act()
        return kind


class Current:
    """Looks whether the current release holds exactly the documents; reads a release once."""

    def __init__(self, storage: Path) -> None:
        self._storage = Storage.of_folder(storage)
        self._seen: str | None = None
        self._texts: dict[str, str] = {}

    def shows(self, documents: Documents) -> bool:
        record = Releases(self._storage).current()
        if record is not None and record.name != self._seen:
            self._texts = {}
            for row in Release(self._storage, record).to_arrow(["key", "text"]).to_pylist():
                self._texts[row["key"]] = self._texts.get(row["key"], "") + row["text"]
            self._seen = record.name
        return self._texts.keys() == documents.texts.keys() and all(
            body in self._texts[name] for name, body in documents.texts.items()
        )


@dataclass(frozen=True)
class EventLog:
    """Rows in all databases of the event log, Dagster runs that are still recorded, bytes of the history folder."""

    rows: int
    runs: int
    bytes: int


def event_log(home: Path, instance: dg.DagsterInstance) -> EventLog:
    """Measure the event log below a $DAGSTER_HOME."""
    rows = 0
    for path in (home / "history" / "runs").glob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            rows += database.execute("SELECT count(*) FROM event_logs").fetchone()[0]
    size = sum(path.stat().st_size for path in (home / "history").rglob("*") if path.is_file())
    return EventLog(rows, instance.get_runs_count(), size)


@dataclass
class Idle:
    """What a daemon costs to which nothing happens. ``ticks``: sensor -> median seconds of a tick."""

    cpu_per_minute: float = 0.0
    runs: int = 0
    ticks: dict[str, float] = field(default_factory=dict)


def idle(process: psutil.Process, instance: dg.DagsterInstance) -> Idle:
    """Wait until the daemon idles, then watch it."""
    quiet_since = time.time()

    def quiet() -> bool:
        nonlocal quiet_since
        if instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED), limit=1):
            quiet_since = time.time()
        return time.time() - quiet_since > QUIET_SECONDS

    daemon.wait("the daemon is idle", quiet, CHANGE_SECONDS)
    before, begin, known = daemon.cpu_seconds(process), time.time(), {run.run_id for run in instance.get_runs()}
    time.sleep(IDLE_SECONDS)
    minutes = (time.time() - begin) / 60
    return Idle(
        round((daemon.cpu_seconds(process) - before) / minutes, 2),
        len({run.run_id for run in instance.get_runs()} - known),
        {name: round(statistics.median(ticks), 4) for name, ticks in daemon.skipped_ticks(instance, begin).items() if ticks},
    )


def live(project: KbProject, documents: Documents, instance: dg.DagsterInstance, changes: int) -> tuple[list[Any], Idle]:
    """Changes under a running daemon, one after the other; then idling. Returns (kind, seconds) of each, and the idling."""
    current, seconds = Current(project.storage), []
    with daemon.running(project, project.root / "dev.log") as process:
        for number in range(changes):
            kind = documents.change(number)
            taken = daemon.wait(f"{kind} {number}", lambda: current.shows(documents), CHANGE_SECONDS)
            seconds.append((kind, round(taken, 2)))
            results.say(f"{kind}: {taken:.1f} s")
        return seconds, idle(process, instance)


def orchestrate(orchestrator: Orchestrator, documents: Documents, runs: int) -> None:
    """As many orchestrations, each after an edit of one file. Raises BenchmarkFailed when one fails."""
    names = sorted(documents.texts)
    for number in range(runs):
        documents.write(names[number % len(names)], f"Edited before run {number}.")
        report = orchestrator.run(Options())
        if report.status != "completed" or report.totals.indexed not in (1, len(names)):
            raise BenchmarkFailed(f"run {number}: {report.as_dict()}")
        if number % 10 == 9:
            results.say(f"{number + 1} of {runs} runs")


def part(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[results.Figure]]:
    """Measure and judge."""
    for variable in ("DAGSTER_HOME", "KB_CONFIG"):
        os.environ.pop(variable, None)
    with tempfile.TemporaryDirectory(prefix="kb-bench-ui-") as folder:
        root = Path(folder)
        documents = Documents(root / "docs", arguments.documents)
        project = KbProject(root, [{"name": "docs", "type": "local_directory", "path": "./docs"}])
        settings = load(root / "kb.yaml")
        with open_instance(settings, results.say) as instance:
            orchestrate(Orchestrator(settings, instance), documents, arguments.runs)
            log = event_log(project.storage / "dagster", instance)
            results.say(f"{log.rows} event rows of {log.runs} Dagster runs, {log.bytes / 1e6:.1f} MB")
            seconds, idling = live(project, documents, instance, arguments.changes)
    own = {
        "documents": arguments.documents,
        "changes": [{"kind": kind, "seconds": taken} for kind, taken in seconds],
        "event_log": {"orchestrations": arguments.runs, "rows": log.rows, "dagster_runs": log.runs, "bytes": log.bytes},
    }
    return own, _figures(arguments, [taken for _, taken in seconds], idling, log)


def _figures(arguments: argparse.Namespace, seconds: list[float], idling: Idle, log: EventLog) -> list[results.Figure]:
    of = f"{len(seconds)} changes"
    enough = round(log.rows / ROWS_A_DOCUMENT)
    return [
        results.Figure("change to searchable, median", statistics.median(seconds), "s", target=60, note=of),
        results.Figure("change to searchable, worst", max(seconds), "s", note=of),
        *(
            results.Figure(f"idle tick of {name}, median", round(1000 * taken, 1), "ms")
            for name, taken in sorted(idling.ticks.items())
        ),
        results.Figure("CPU of an idle kb dev", idling.cpu_per_minute, "s a minute", note="all its processes"),
        results.Figure("runs started while idle", idling.runs, "", target=0),
        results.Figure(
            f"event rows a document, {arguments.runs} runs",
            round(log.rows / arguments.documents, 3),
            "",
            target=ROWS_A_DOCUMENT,
            note=f"{log.rows} rows; on target from {enough} documents",
        ),
        results.Figure(f"run history on disk, {arguments.runs} runs", round(log.bytes / 1e6, 2), "MB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=10, help="changes under a running daemon (default 10)")
    parser.add_argument("--runs", type=int, default=100, help="orchestrations before the event log is counted (default 100)")
    parser.add_argument("--documents", type=int, default=1000, help="files in the folder (default 1000)")
    results.main(parser, part)


if __name__ == "__main__":
    main()
