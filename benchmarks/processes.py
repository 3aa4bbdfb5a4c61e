"""Commands measured as whole processes, the way a user starts them: seconds and peak memory of the process tree.

What belongs here: starting, sampling, and the project that a benchmark runs ``kb`` in. What doesn't: what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

_SAMPLE_SECONDS = 0.05


class BenchmarkFailed(Exception):
    """A measured command failed; the message holds the end of what it said."""


@dataclass(frozen=True)
class Measurement:
    """One run of a command: wall seconds, peak resident memory of its process tree in MB (10**6 bytes), what it said."""

    seconds: float
    peak_mb: float
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Stdout as one JSON document."""
        return json.loads(self.stdout)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would make a measured command slower or lead it astray."""
    hidden = ("DAGSTER_HOME", "KB_CONFIG", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"} | dict(extra or {})


def measure(
    command: Sequence[str],
    *,
    cwd: Path,
    extra: Mapping[str, str] | None = None,
    timeout: float = 7200,
    codes: Sequence[int] = (0,),
) -> Measurement:
    """Run a command to its end. Raises BenchmarkFailed when it exits with anything but ``codes``, and on a timeout."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(extra),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        with PeakMemory(process.pid) as memory:
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                raise BenchmarkFailed(f"{' '.join(command)}: not done after {timeout:g} s") from None
        seconds = time.perf_counter() - begin
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode("utf-8", "replace"), err.read().decode("utf-8", "replace")
    if code not in codes:
        raise BenchmarkFailed(f"{' '.join(command)}: exit {code}\n{(stdout + stderr)[-3000:]}")
    return Measurement(round(seconds, 3), round(memory.peak / 1e6, 1), stdout, stderr)


class PeakMemory:
    """Samples the resident memory of a process and its descendants, summed, every 50 ms: ``peak``, in bytes."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, tree_bytes(self._pid))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants now; those that are gone count 0."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


class KbProject:
    """A folder with a kb.yaml, where ``kb`` runs as a process of its own. ``storage`` is its folder of results."""

    def __init__(self, root: Path, sources: Sequence[Mapping[str, Any]], **keys: Any) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.storage = root / ".kb"
        text = yaml.safe_dump({"sources": [dict(each) for each in sources], **keys}, sort_keys=False)
        (root / "kb.yaml").write_text(text, encoding="utf-8")

    def kb(self, *arguments: str, **options: Any) -> Measurement:
        """Measure one ``kb``."""
        return measure([*KB, *arguments], cwd=self.root, **options)


KB = [sys.executable, "-m", "kb_pipeline.cli.main"]
"""The command line of ``kb`` with this interpreter."""
