"""Commands about the project itself: init, env, dev."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import click

from kb_pipeline.cli.context import config_path, settings_of, told
from kb_pipeline.cli.output import say
from kb_pipeline.dagster_home import is_own
from kb_pipeline.environment import install, variables, what_it_needs


@click.command()
@click.pass_context
@told
def init(context: click.Context) -> None:
    """Write a commented kb.yaml."""
    from kb_pipeline.settings.template import template

    path = config_path(context.obj)
    try:
        with path.open("x", encoding="utf-8") as handle:
            handle.write(template())
    except FileExistsError:
        raise click.UsageError(f"{path} is there already: it was left as it is") from None
    (path.parent / "documents").mkdir(exist_ok=True)
    click.echo(f"wrote {path}; put documents into {path.parent / 'documents'}/, then run `kb run`")


@click.command()
@click.pass_context
@told
def env(context: click.Context) -> None:
    """Print the environment of Dagster's own commands. Use it so: eval "$(kb env)"."""
    settings = settings_of(context)
    home = install(settings, say)
    if not is_own(settings):
        say(what_it_needs(home, settings.pools))
    for name, value in variables(settings).items():
        click.echo(f"export {name}={shlex.quote(value)}")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the UI listens on.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the UI.")
@click.pass_context
@told
def dev(context: click.Context, host: str, port: int) -> None:
    """Start the Dagster UI and its daemon. Sensors and the nightly schedule work while it runs."""
    settings = settings_of(context)
    from kb_pipeline.cli.output import say as tell
    from kb_pipeline.defs.partitions import register
    from kb_pipeline.environment import instance
    from kb_pipeline.ingestion.workspace import Workspace
    from kb_pipeline.orchestrator import reap_dead_runs

    with instance(settings, tell) as opened:
        reap_dead_runs(opened, tell, others=is_own(settings))
        register(opened, Workspace(settings))
    executable = Path(sys.executable).with_name("dagster")
    os.environ["PYTHONWARNINGS"] = "ignore"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # it makes every start of a run three times slower
    # A shell that starts us in the background ignores SIGINT for us, and the program we become would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = [str(executable), "dev", "-m", "kb_pipeline.definitions", "-h", host, "-p", str(port)]
    os.execv(executable, command)
