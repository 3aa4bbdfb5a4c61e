"""Processes: who we are, and whether another one still lives."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease. ``started``: when the process began, seconds since the epoch; ``purpose``: for those who wait."""

    host: str
    pid: int
    started: float
    purpose: str

    @classmethod
    def this_process(cls, purpose: str) -> Holder:
        """This process, at work on ``purpose``."""
        return cls(platform.node(), os.getpid(), psutil.Process().create_time(), purpose)

    @property
    def dead(self) -> bool:
        """True only when it ran on this machine and its process is gone; another machine's is never called dead."""
        return self.host == platform.node() and not process_alive(self.pid, self.started)

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self.started))
        return f"{self.purpose} (process {self.pid} on {self.host}, started {since})"


def process_alive(pid: int, started: float | None = None) -> bool:
    """Whether a process lives; ``started`` (seconds since the epoch) tells it from a later one with the same pid."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started is None or abs(process.create_time() - started) < 1.0
    except psutil.NoSuchProcess:
        return False
