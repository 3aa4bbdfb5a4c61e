"""``kb dev`` as a process of its own: started, watched and ended, with everything it started.

What belongs here: its life, its CPU time, and what Dagster recorded about its ticks. What doesn't: what is measured with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.scheduler.instigation import TickStatus

from benchmarks.processes import KB, BenchmarkFailed, KbProject, environment

START_SECONDS = 300.0


def wait(what: str, done: Callable[[], bool], seconds: float) -> float:
    """Wall seconds until something is so. Raises BenchmarkFailed after ``seconds``."""
    begin = time.perf_counter()
    while not done():
        if time.perf_counter() - begin > seconds:
            raise BenchmarkFailed(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.25)
    return time.perf_counter() - begin


@contextmanager
def running(project: KbProject, log: Path) -> Iterator[psutil.Process]:
    """``kb dev`` on a free port of this machine, ended as a whole; yields it once its UI answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*KB, "dev", "--port", str(port)],
            cwd=project.root,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def up() -> bool:
        if process.poll() is not None:
            raise BenchmarkFailed(f"kb dev ended:\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2):
                return True
        except OSError:
            return False

    try:
        wait("kb dev is up", up, START_SECONDS)
        yield psutil.Process(process.pid)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group, and SIGKILL to what is left of it after 20 seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


def cpu_seconds(root: psutil.Process) -> float:
    """CPU seconds, user and system, of a process and its descendants, also of those that ended and were waited for."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def skipped_ticks(instance: dg.DagsterInstance, since: float) -> dict[str, list[float]]:
    """Sensor -> seconds of each tick that began after ``since`` (epoch) and asked for nothing."""
    found: dict[str, list[float]] = {}
    for state in instance.all_instigator_state():
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since, statuses=[TickStatus.SKIPPED])
        if ticks:
            found[state.instigator_name] = [tick.end_timestamp - tick.timestamp for tick in ticks if tick.end_timestamp]
    return found
