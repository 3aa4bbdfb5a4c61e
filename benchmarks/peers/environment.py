"""The interpreters that the peers run with, each installed from a requirements.txt when it is missing or out of date.

What belongs here: those environments. They are apart from ours because the peers bring many packages that kb doesn't need.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INGESTION = Path(__file__).resolve().parent
"""The folder of the peers of ``benchmarks.ingest``."""

PARSERS = INGESTION / "parsers"
"""The folder of the peers of ``benchmarks.parsing``."""

_INSTALL_SECONDS = 1800


class PeersUnavailable(Exception):
    """The peers can't be run on this machine; the message says why, in a sentence."""


def peers_python(folder: Path = INGESTION) -> Path:
    """The interpreter of the peers in a folder, after installing what it lacks. Raises PeersUnavailable when that fails."""
    venv = folder / ".venv"
    stamp, python = venv / ".installed", venv / "bin" / "python"
    requirements = folder / "requirements.txt"
    wanted = requirements.read_text(encoding="utf-8")
    # The content and not the time of change: a checkout sets the times anew.
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted and python.exists():
        return python
    _run(f"{venv} could not be created", sys.executable, "-m", "venv", "--clear", str(venv))
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(f"{venv} could not be installed", str(python), *pip, "-r", str(requirements))
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(what: str, *command: str) -> None:
    """Run one step of the installation; ``what`` is said when it fails."""
    failed = f"The peers' environment {what}"
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_INSTALL_SECONDS)
    except OSError as error:
        raise PeersUnavailable(f"{failed}: {error}.") from error
    except subprocess.TimeoutExpired as error:
        raise PeersUnavailable(f"{failed} within {_INSTALL_SECONDS} s.") from error
    if result.returncode != 0:
        said = (result.stderr + result.stdout).strip().splitlines()
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
        raise PeersUnavailable(f"{failed}: {(errors or said or ['no reason given'])[-1].rstrip('.')}.")


if __name__ == "__main__":
    print(peers_python())
