"""Commands about connections: sources, upload."""

from __future__ import annotations

from pathlib import Path

import click

from kb_pipeline.cli.context import told, workspace_of
from kb_pipeline.cli.output import show_json, show_table
from kb_pipeline.flow.breaker import State
from kb_pipeline.settings.errors import ConfigError
from kb_pipeline.sources.base import SourceError


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def sources(context: click.Context, as_json: bool) -> None:
    """The connections of kb.yaml."""
    if context.invoked_subcommand is not None:
        return
    workspace = workspace_of(context)
    rows = [
        {
            "name": config.name,
            "type": config.type,
            "partitions": [each.key for each in workspace.partitions(config.name)],
        }
        for config in workspace.connections
    ]
    if as_json:
        show_json(rows)
        return
    show_table(["connection", "type", "partitions"], [(r["name"], r["type"], ", ".join(r["partitions"])) for r in rows])


@sources.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def check(context: click.Context, as_json: bool) -> None:
    """Reach every connection without changing anything; exit 1 when one can't be reached."""
    workspace = workspace_of(context)
    rows = []
    for config in workspace.connections:
        try:
            ok, detail = True, workspace.ask(config.name).probe()
        except (SourceError, OSError, ConfigError) as error:
            ok, detail = False, str(error)
        except Exception as error:  # noqa: BLE001 - a connector's own fault must not hide the other connections
            ok, detail = False, f"{type(error).__name__} in the connector: {error}"
        rows.append({"name": config.name, "type": config.type, "ok": ok, "detail": detail})
    if as_json:
        show_json(rows)
    else:
        show_table(
            ["connection", "type", "", "detail"],
            [(row["name"], row["type"], "ok" if row["ok"] else "FAILED", row["detail"]) for row in rows],
        )
    raise SystemExit(0 if all(row["ok"] for row in rows) else 1)


@sources.command()
@click.argument("name")
@click.pass_context
@told
def reset(context: click.Context, name: str) -> None:
    """Have a connection that is being left alone asked again. Closes its circuit breaker."""
    workspace = workspace_of(context)
    workspace.connection(name)
    breaker = workspace.ledger.breakers.get(name)
    workspace.ledger.breakers.reset(name)
    if breaker.state is State.CLOSED:
        click.echo(f"{name}: its circuit breaker was closed; its count of failures begins anew")
    else:
        click.echo(f"{name}: its circuit breaker is closed again; the next run asks it")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--connection", default="inbox", show_default=True, help="Upload connection to put the files into.")
@click.option("--remove", is_flag=True, help="Take files of these names out of the inbox instead.")
@click.pass_context
@told
def upload(context: click.Context, files: tuple[str, ...], connection: str, remove: bool) -> None:
    """Put files into an upload inbox; the next run indexes them. A file of the same name is replaced."""
    from kb_pipeline.sources.upload import Upload

    source = workspace_of(context).source(connection)
    if not isinstance(source, Upload):
        raise click.UsageError(f"connection {connection!r} takes no uploads")
    if remove:
        missing = [name for name in files if not source.remove(name)]
        for name in missing:
            click.echo(f"{name}: not in {connection}", err=True)
        raise SystemExit(1 if missing else 0)
    paths = [Path(name) for name in files]
    wrong = [str(path) for path in paths if not path.is_file()]
    if wrong:
        raise click.UsageError(f"not a file: {', '.join(wrong)}")
    names = [path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise click.UsageError(
            f"two files are named {', '.join(twice)}: the inbox knows files by name, so rename one of them"
        )
    for path in paths:
        click.echo(f"{path.name}: {source.add(path)}")
