"""The interpreter that the peers run with, installed from requirements.txt when it is missing or out of date.

What belongs here: that environment. It is apart from ours because the peers bring eighty packages that kb doesn't need.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_VENV = _HERE / ".venv"
_REQUIREMENTS = _HERE / "requirements.txt"
_STAMP = _VENV / ".installed"

_INSTALL_SECONDS = 1800


class PeersUnavailable(Exception):
    """The peers can't be run on this machine; the message says why, in a sentence."""


def peers_python() -> Path:
    """The peers' interpreter, after installing what it lacks. Raises PeersUnavailable when that fails."""
    python = _VENV / "bin" / "python"
    wanted = _REQUIREMENTS.read_text(encoding="utf-8")
    # The content and not the time of change: a checkout sets the times anew.
    if _STAMP.is_file() and _STAMP.read_text(encoding="utf-8") == wanted and python.exists():
        return python
    _run("created", sys.executable, "-m", "venv", "--clear", str(_VENV))
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run("installed", str(python), *pip, "-r", str(_REQUIREMENTS))
    _STAMP.write_text(wanted, encoding="utf-8")
    return python


def _run(done: str, *command: str) -> None:
    """Run one step of the installation; ``done`` is the verb for the message when it fails."""
    failed = f"The peers' environment {_VENV} could not be {done}"
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
