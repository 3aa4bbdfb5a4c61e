"""A terminal of its own for a ``kb``: what a person would see there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kb_pipeline_tests.acceptance.project import Project

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ROWS, _COLUMNS = 40, 140


class Terminal:
    """A ``kb`` whose stderr is a terminal; its stdout is kept apart."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._seen = b""
        self._reader = threading.Thread(target=self._read, args=(master,), daemon=True)
        self._reader.start()

    def _read(self, master: int) -> None:
        while True:
            try:
                data = os.read(master, 65_536)
            except OSError:  # the other end was closed
                break
            if not data:
                break
            self._seen += data

    @property
    def raw(self) -> str:
        """Everything that was written, with what moves the cursor."""
        return self._seen.decode("utf-8", errors="replace")

    @property
    def text(self) -> str:
        """Everything that was written, one state of the screen after the other."""
        return _ESCAPES.sub("", self.raw)

    def end(self, timeout: float = 120.0) -> tuple[int, bytes]:
        """Wait for its end; its exit code and its stdout."""
        stdout, _ = self.process.communicate(timeout=timeout)
        self._reader.join(10.0)
        return self.process.returncode, stdout


@contextmanager
def terminal(project: Project, *arguments: str) -> Iterator[Terminal]:
    """Run ``kb`` in a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    hidden = ("DAGSTER_HOME", "KB_CONFIG", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "NO_COLOR", "CI")
    environment = {key: value for key, value in os.environ.items() if key not in hidden} | project.environment
    process = subprocess.Popen(
        [sys.executable, "-m", "kb_pipeline.cli.main", *arguments],
        cwd=project.root,
        env=environment | {"TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.communicate()
        os.close(master)
