"""Progress displays: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from kb_pipeline.cli.output import say

_PLAIN_INTERVAL = 5.0
"""Seconds between two lines about one connection's stage, when there is no terminal."""


class Bars:
    """One bar a partition, fed by the real counts of its stages."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            TextColumn("{task.fields[stage]:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr),
            transient=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, connection: str, stage: str, done: int, total: int | None) -> None:
        """Move the bar of a connection."""
        with self._lock:
            if connection not in self._tasks:
                self._tasks[connection] = self._progress.add_task(connection, total=total, stage=stage)
            self._progress.update(self._tasks[connection], completed=done, total=total, stage=stage)


class Lines:
    """A line when a stage begins to take long, and when it ends; for logs and pipes."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to close."""

    def update(self, connection: str, stage: str, done: int, total: int | None) -> None:
        """Say how far a stage is, when it ends or every few seconds."""
        now = time.monotonic()
        with self._lock:
            finished = total is not None and done >= total
            last = self._last.setdefault((connection, stage), now)
            if last == float("inf") or not (finished or now - last >= _PLAIN_INTERVAL):
                return
            self._last[connection, stage] = float("inf") if finished else now
        say(f"{connection}: {stage} {done}" + ("" if total is None else f" of {total}"))


def display() -> Bars | Lines:
    """Bars when stderr is a terminal, lines otherwise."""
    return Bars() if sys.stderr.isatty() else Lines()
