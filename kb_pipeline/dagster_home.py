"""Where the Dagster instance lies, and whether it is kb's own.

What belongs here: the folder, and telling a dagster.yaml that kb installed from one that somebody wrote. What doesn't:
writing it, opening the instance (``environment``).

An instance that isn't kb's own may be a team's, with a database, a launcher and limits that others rely on: kb runs on it
and records its runs there, but changes neither its settings nor anybody else's runs.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from kb_pipeline.settings.model import Settings

DAGSTER_HOME = "DAGSTER_HOME"
CONFIG = "dagster.yaml"
_MARK = re.compile(r"# kb_pipeline wrote this file, and replaces it as long as nobody changes it \(([0-9a-f]{64})\)\.\n")


def dagster_home(settings: Settings) -> Path:
    """$DAGSTER_HOME, or <storage>/dagster."""
    given = os.environ.get(DAGSTER_HOME)
    return Path(given).absolute() if given else _below_storage(settings)


def is_own(settings: Settings) -> bool:
    """Whether the Dagster instance is kb's own: below the storage, or with a dagster.yaml that kb wrote and nobody changed.

    A folder that is empty, or isn't there yet, is nobody's, and kb may make it its own.
    """
    home = dagster_home(settings)
    if home.resolve() == _below_storage(settings).resolve():
        return True
    config = home / CONFIG
    if config.exists():
        return is_marked(config.read_text(encoding="utf-8", errors="replace"))
    return not home.exists() or not any(home.iterdir())


def marked(text: str) -> str:
    """The text of a dagster.yaml with a first line by which kb knows it again as long as it stays as it is."""
    return f"# kb_pipeline wrote this file, and replaces it as long as nobody changes it ({_digest(text)}).\n{text}"


def is_marked(text: str) -> bool:
    """Whether kb wrote this text and nobody has changed it."""
    mark = _MARK.match(text)
    return mark is not None and mark[1] == _digest(text[mark.end() :])


def _below_storage(settings: Settings) -> Path:
    return settings.local_root / "dagster"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
