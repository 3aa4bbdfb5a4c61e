"""The environment a project runs in: how the Dagster instance is set up, and opened for runs of this process.

What belongs here: variables, the instance's settings. What doesn't: which folder it is, and whose (``dagster_home``).
Imports Dagster only inside functions.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kb_pipeline.dagster_home import CONFIG, DAGSTER_HOME, dagster_home, is_own, marked
from kb_pipeline.settings.model import Settings

if TYPE_CHECKING:
    import dagster as dg

if sys.platform != "win32":
    import fcntl

# For runs that `kb` executes itself, several in one process. Dagster captures a step's output by redirecting the process's
# own stdout: with steps side by side it would not find its way back, and the report would be lost.
_IN_PROCESS = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}


def variables(settings: Settings) -> dict[str, str]:
    """What Dagster's own commands need in their environment; absolute paths."""
    return {"KB_CONFIG": str(settings.path.absolute()), DAGSTER_HOME: str(dagster_home(settings))}


def install(settings: Settings, say: Callable[[str], None]) -> Path:
    """Set up the Dagster instance's folder, if it is kb's own: our dagster.yaml goes in when it differs. Returns the folder.

    A folder that isn't kb's own is left as it is.
    """
    home = dagster_home(settings)
    if is_own(settings):
        home.mkdir(parents=True, exist_ok=True)
        _install(home / CONFIG, marked(_shipped(CONFIG).read_text(encoding="utf-8")), say)
    os.environ.update(variables(settings))
    return home


def _install(target: Path, text: str, say: Callable[[str], None]) -> None:
    verb = "replaced" if target.exists() else "installed"
    if verb == "replaced" and target.read_text(encoding="utf-8") == text:
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(target)
    say(f"{verb} {target}")


def _shipped(name: str) -> Path:
    """A file that ships with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.exists() else package.parent / name


def instance(settings: Settings, say: Callable[[str], None]) -> dg.DagsterInstance:
    """The Dagster instance for runs executed by this process.

    kb's own gets the pool limits of kb.yaml; of another one, what it lacks is said.
    """
    import dagster as dg
    from dagster._core.instance.ref import InstanceRef  # from_config takes no overrides

    own = is_own(settings)
    home = install(settings, say)
    # Dagster makes its SQLite tables when it first opens them, and fails when two processes do so at once.
    with _one_at_a_time(home if own else settings.local_root):
        # In memory, so that no file of an instance that isn't ours is read in another version or written.
        found = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=_IN_PROCESS))
        limits = {pool.name: pool.limit for pool in found.event_log_storage.get_pool_limits()}
        if own:
            for pool, limit in settings.pools.items():
                if limits.get(pool) != limit:
                    found.event_log_storage.set_concurrency_slots(pool, limit)
    if not own and (lacking := {pool: limit for pool, limit in settings.pools.items() if pool not in limits}):
        say(what_it_needs(home, lacking))
    # Dagster reconfigures Python's logging at the start of every run, which closes the handlers of runs beside it and can
    # deadlock with them (logging's lock against a handler's lock). Our dagster.yaml configures no Python handlers.
    found.get_yaml_python_handlers = list  # type: ignore[method-assign]
    return found


def what_it_needs(home: Path, pools: Mapping[str, int]) -> str:
    """What a person is to set in an instance that isn't kb's own, for these pools with their limits."""
    commands = "; ".join(f"dagster instance concurrency set {shlex.quote(each)} {pools[each]}" for each in sorted(pools))
    return (
        f"the Dagster instance in {home} isn't kb's own and stays as it is; without limits of its pools it starts too much "
        f"at a time, so set them there: {commands}"
    )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait for other processes that set up the same instance. A killed one holds nobody up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".setup.lock").open("ab") as lock:
        if sys.platform != "win32":
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
