"""Progress displays, fed by the events in the ledger: bars in a terminal, plain lines elsewhere.

What belongs here: following events, and showing them. What doesn't: which runs there are (``watch``), recording.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from kb_pipeline.cli.output import printable, say
from kb_pipeline.ledger.errors import LedgerUnavailable
from kb_pipeline.ledger.progress import ProgressEvents
from kb_pipeline.monitoring.progress import ProgressEvent

LOOK_SECONDS = 0.25
"""Seconds between two looks into the ledger."""
_PLAIN_INTERVAL = 5.0
"""Seconds between two lines about one connection's stage, when there is no terminal."""


class Display(Protocol):
    """Shows events. Called by one thread at a time; a context manager that leaves the terminal as it was."""

    def show(self, event: ProgressEvent) -> None:
        """How far a stage is now."""
        ...

    def note(self, sentence: str) -> None:
        """Say something beside the progress."""
        ...

    def forget(self, run: str, partition: str | None = None) -> None:
        """Show no more of a run, or of one of its partitions: it ended."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Bars:
    """One bar a partition, with the stage it is at."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<24}", markup=False),
            TextColumn("{task.fields[stage]:<10}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[size]:>9}"),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr),
            transient=False,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, event: ProgressEvent) -> None:
        """Move the bar of a partition."""
        key, size = (event.run, event.partition), "" if event.bytes is None else _size(event.bytes)
        if key not in self._tasks:
            name = printable(event.partition)
            self._tasks[key] = self._progress.add_task(name, total=event.total, stage=event.stage, size=size)
        self._progress.update(self._tasks[key], completed=event.done, total=event.total, stage=event.stage, size=size)

    def note(self, sentence: str) -> None:
        """A line above the bars."""
        self._progress.console.print(Text(printable(sentence)))

    def forget(self, run: str, partition: str | None = None) -> None:
        """Take bars away."""
        for key in [key for key in self._tasks if key[0] == run and partition in (None, key[1])]:
            self._progress.remove_task(self._tasks.pop(key))


class Lines:
    """A line when a stage takes long, and when it ends; for logs and pipes."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, str], float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to close."""

    def show(self, event: ProgressEvent) -> None:
        """Say how far a stage is, when it ends or every few seconds."""
        now, key = time.monotonic(), (event.run, event.partition, event.stage)
        last = self._last.setdefault(key, now)
        if last == float("inf") or not (event.finished or now - last >= _PLAIN_INTERVAL):
            return
        self._last[key] = float("inf") if event.finished else now
        of = "" if event.total is None else f" of {event.total}"
        say(printable(f"{event.partition}: {event.stage} {event.done}{of}"))

    def note(self, sentence: str) -> None:
        """A line."""
        say(printable(sentence))

    def forget(self, run: str, partition: str | None = None) -> None:
        """Drop what is remembered of them."""
        for key in [key for key in self._last if key[0] == run and partition in (None, key[1])]:
            del self._last[key]


def display() -> Bars | Lines:
    """Bars when stderr is a terminal, lines otherwise."""
    return Bars() if sys.stderr.isatty() else Lines()


@contextmanager
def followed(events: ProgressEvents, run: str) -> Iterator[None]:
    """Show the progress of one run as the ledger has it, until the context ends."""
    done = threading.Event()
    cursor = events.last_id()

    def follow(shown: Display) -> None:
        nonlocal cursor
        last = False
        while not last:
            last = done.wait(LOOK_SECONDS)  # and then once more, for what was recorded at the very end
            try:
                new = events.since(cursor)
            except (SQLAlchemyError, LedgerUnavailable, OSError) as error:
                shown.note(f"progress can't be shown: {getattr(error, 'orig', None) or error}")
                return
            for event in new:
                cursor = event.id
                if event.run == run:
                    shown.show(event)

    with display() as shown:
        thread = threading.Thread(target=follow, args=(shown,), name="kb-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1_000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1_000
    return f"{size:.1f} TB"
