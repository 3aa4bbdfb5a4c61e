"""The environment a project runs in: where the Dagster instance lies, and how it is set up.

What belongs here: paths, variables, the instance's settings. Imports Dagster only inside functions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kb_pipeline.settings.model import Settings

if TYPE_CHECKING:
    import dagster as dg

if sys.platform != "win32":
    import fcntl

DAGSTER_HOME = "DAGSTER_HOME"


def dagster_home(settings: Settings) -> Path:
    """$DAGSTER_HOME, or <storage>/dagster."""
    given = os.environ.get(DAGSTER_HOME)
    return Path(given).absolute() if given else settings.local_root / "dagster"


def variables(settings: Settings) -> dict[str, str]:
    """What Dagster's own commands need in their environment; absolute paths."""
    return {"KB_CONFIG": str(settings.path.absolute()), DAGSTER_HOME: str(dagster_home(settings))}


def install(settings: Settings, say: Callable[[str], None]) -> Path:
    """Set up the Dagster instance's folder: our dagster.yaml goes in when it differs. Returns the folder."""
    home = dagster_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    ours = _shipped("dagster.yaml").read_text(encoding="utf-8")
    if (verb := _write_if_different(home / "dagster.yaml", ours)) is not None:
        say(f"{verb} {home / 'dagster.yaml'}")
    _write_if_different(home / _IN_PROCESS, ours + _IN_PROCESS_ADDITION)
    os.environ.update(variables(settings))
    return home


def _write_if_different(target: Path, text: str) -> str | None:
    verb = "replaced" if target.exists() else "installed"
    if verb == "replaced" and target.read_text(encoding="utf-8") == text:
        return None
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(target)
    return verb


_IN_PROCESS = "dagster.in-process.yaml"
_IN_PROCESS_ADDITION = """
# For runs that `kb` executes itself, several in one process. Dagster captures a step's output by redirecting the
# process's own stdout: with steps side by side it would not find its way back, and the report would be lost.
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""


def _shipped(name: str) -> Path:
    """A file that ships with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.exists() else package.parent / name


def instance(settings: Settings, say: Callable[[str], None]) -> dg.DagsterInstance:
    """The Dagster instance for runs executed by this process, with the pool limits of kb.yaml."""
    import dagster as dg

    home = install(settings, say)
    # Dagster makes its SQLite tables when it first opens them, and fails when two processes do so at once.
    with _one_at_a_time(home):
        found = dg.DagsterInstance.from_config(str(home), _IN_PROCESS)
        limits = {pool.name: pool.limit for pool in found.event_log_storage.get_pool_limits()}
        for pool, limit in settings.pools.items():
            if limits.get(pool) != limit:
                found.event_log_storage.set_concurrency_slots(pool, limit)
    # Dagster reconfigures Python's logging at the start of every run, which closes the handlers of runs beside it and can
    # deadlock with them (logging's lock against a handler's lock). Our dagster.yaml configures no Python handlers.
    found.get_yaml_python_handlers = list  # type: ignore[method-assign]
    return found


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    """Wait for other processes that set up the same instance. A killed one holds nobody up."""
    with (home / ".setup.lock").open("ab") as lock:
        if sys.platform != "win32":
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
