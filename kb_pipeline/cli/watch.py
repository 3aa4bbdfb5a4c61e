"""``kb watch``: what runs, live, whoever started it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from kb_pipeline.cli.context import told, workspace_of
from kb_pipeline.cli.output import say, show_json_line
from kb_pipeline.cli.progress import LOOK_SECONDS, Display, display
from kb_pipeline.environment import instance as open_instance
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.monitoring.progress import ProgressEvent

if TYPE_CHECKING:
    from kb_pipeline.defs.runs import RunWatch, SeenRun

_RUNS_SECONDS = 1.0
"""Seconds between two looks at Dagster's runs."""
_DAEMON_SECONDS = 15.0
"""What the daemon may take between a change, a run and the release after it, beside its intervals in kb.yaml."""


@click.command()
@click.option(
    "--until-idle",
    is_flag=False,
    flag_value=0.0,
    type=click.FloatRange(min=0.0),
    metavar="[SECONDS]",
    help="End once nothing has run for this long; without a number, long enough for the daemon's next look and release. "
    "Exit 1 if a run failed meanwhile.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line on stdout.")
@click.pass_context
@told
def watch(context: click.Context, until_idle: float | None, as_json: bool) -> None:
    """Follow what runs, until Ctrl-C. Runs of the daemon, of `kb run` and of Dagster's own commands alike."""
    workspace = workspace_of(context)
    if until_idle == 0.0:
        sensors = workspace.settings.sensors
        until_idle = sensors.interval_seconds + sensors.debounce_seconds + _DAEMON_SECONDS
    asked = _Asked()
    try:
        with open_instance(workspace.settings, say) as instance, JsonLines() if as_json else display() as shown:
            from kb_pipeline.defs.runs import RunWatch

            failed = _Watch(workspace, RunWatch(instance, workspace), shown, asked).follow(until_idle)
    except BrokenPipeError:
        # Whoever read our lines has had enough; nothing may be written to them when the process ends, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    raise SystemExit(asked.exit_code or (1 if failed else 0))


class _Asked(threading.Event):
    """Set by the first Ctrl-C or SIGTERM; a second one ends the process at once.

    Not an exception out of nowhere: libraries that are at work just then would swallow it, or leave the terminal as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exit_code = 0
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._ask)

    def _ask(self, number: int, _: object) -> None:
        self.exit_code = 128 + number
        self.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)


class _Watch:
    def __init__(self, workspace: Workspace, runs: RunWatch, shown: Display, asked: threading.Event) -> None:
        self._asked = asked
        self._events = workspace.ledger.progress
        self._runs = runs
        self._shown = shown
        self._cursor = self._events.last_id()
        self._ended: set[str] = set()
        """Orchestrations of which nothing runs any more: their last events may come after their end."""
        self._failed = False

    def follow(self, until_idle: float | None) -> bool:
        """Show what happens until asked to stop, or nothing did for ``until_idle`` seconds; return whether a run failed."""
        self._look_at_runs()
        for orchestration in {run.orchestration for run in self._runs.under_way.values()}:
            for event in self._events.latest(orchestration):
                if event.id <= self._cursor:
                    self._shown.show(event)
        if not self._runs.under_way:
            self._shown.note("nothing runs yet; Ctrl-C ends the watch")
        busy = looked = time.monotonic()
        while not self._asked.wait(LOOK_SECONDS) and (until_idle is None or time.monotonic() - busy < until_idle):
            happened = self._look_at_progress()
            if time.monotonic() - looked >= _RUNS_SECONDS:
                happened = self._look_at_runs() or happened
                looked = time.monotonic()
            if happened or self._runs.under_way:
                busy = time.monotonic()
        return self._failed

    def _look_at_progress(self) -> bool:
        events = self._events.since(self._cursor)
        for event in events:
            self._cursor = event.id
            self._shown.show(event)
            if event.run in self._ended:
                self._shown.forget(event.run, event.partition)
        return bool(events)

    def _look_at_runs(self) -> bool:
        changed = list(self._runs.look())
        if any(run.ended for run in changed):
            self._look_at_progress()  # how far they came, before they are told to have ended
        running = {run.orchestration for run in self._runs.under_way.values()}
        self._ended -= running
        for run in changed:
            self._failed = self._failed or run.state == "failed"
            _tell(self._shown, run)
            if run.ended and run.orchestration in running:
                self._shown.forget(run.orchestration, run.about)
            elif run.ended:
                self._ended.add(run.orchestration)
                self._shown.forget(run.orchestration)
        return bool(changed)


def _tell(shown: Display, run: SeenRun) -> None:
    if isinstance(shown, JsonLines):
        shown.run(run)
    elif run.state != "started" or not run.about:  # its progress says that it started
        shown.note(run.sentence)


class JsonLines:
    """Everything that happens, for programs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to close."""

    def show(self, event: ProgressEvent) -> None:
        """How far a stage is now."""
        _line("progress", event.at, {name: value for name, value in asdict(event).items() if name not in ("id", "at")})

    def run(self, run: SeenRun) -> None:
        """What became of a run."""
        facts = {
            "run": run.orchestration,
            "dagster_run": run.id,
            "job": run.job,
            "partition": run.about or None,
            "state": run.state,
            "seconds": None if run.seconds is None else round(run.seconds, 3),
            "message": run.message,
        }
        _line("run", time.time(), facts)

    def note(self, sentence: str) -> None:
        """For people: on stderr."""
        say(sentence)

    def forget(self, run: str, partition: str | None = None) -> None:
        """Nothing is remembered."""


def _line(kind: str, at: float, facts: dict[str, Any]) -> None:
    show_json_line({"type": kind, "at": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"), **facts})
