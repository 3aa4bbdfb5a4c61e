"""Commands that change the knowledge base: run, materialize, sync, retire."""

from __future__ import annotations

import os
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from kb_pipeline import stages
from kb_pipeline.cli.context import settings_of, told, workspace_of
from kb_pipeline.cli.output import say, show_json, show_table
from kb_pipeline.cli.progress import followed
from kb_pipeline.environment import instance as open_instance
from kb_pipeline.ingestion.workspace import UnknownConnection, Workspace

if TYPE_CHECKING:
    from kb_pipeline.orchestrator import Options, Orchestrator, Report

_LEVELS = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False)
_CORPUS = ("corpus/index", "corpus/knowledge_base")
_COLUMNS = [name for stage in stages.STAGES for name in stage.counts]


@click.command()
@click.option("--sources", metavar="TYPE:NAME,…", help="Only these connections; TYPE: may be left out.")
@click.option("--user-id", metavar="U", help="Recorded with the Dagster runs, as the tag kb/user.")
@click.option("--profile", metavar="P", help="low-memory, balanced or high-throughput instead of kb.yaml's.")
@click.option("--max-concurrent-sources", type=click.IntRange(1), metavar="N", help="Connections at a time.")
@click.option("--max-concurrent-files", type=click.IntRange(1), metavar="N", help="Items of a connection at a time.")
@click.option(
    "--log-level", type=_LEVELS, default="CRITICAL", show_default=True, help="Of Dagster's own messages on stderr."
)
@click.option("--strict", is_flag=True, help="Exit 1 when anything is in quarantine.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
@click.pass_context
@told
def run(
    context: click.Context,
    sources: str | None,
    user_id: str | None,
    profile: str | None,
    max_concurrent_sources: int | None,
    max_concurrent_files: int | None,
    log_level: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Bring the knowledge base up to date. List, fetch what changed, parse, cut, embed, publish."""
    settings = settings_of(context, _known_profile(profile))
    if max_concurrent_files is not None:
        settings = settings.with_limits(max_concurrent_files=max_concurrent_files)
    workspace = Workspace(settings)
    connections = _chosen(workspace, sources)
    # A mistake that only the model's own limits bring to light is told before anything runs, not once a connection.
    _ = workspace.chunkers
    from kb_pipeline.orchestrator import Options, Orchestrator

    options = Options(connections, user_id, max_concurrent_sources, log_level.upper())
    orchestration = uuid.uuid4().hex
    with open_instance(settings, say) as instance, followed(workspace.ledger.progress, orchestration):
        orchestrator = Orchestrator(settings, instance)
        report = _until_done_or_stopped(orchestrator, options, orchestration)
    if as_json:
        show_json(report.as_dict())
    else:
        _show(report.as_dict())
    failed = report.status in ("failed", "cancelled") or bool(report.errors)
    raise SystemExit(1 if failed or (strict and report.totals.quarantined) else 0)


def _until_done_or_stopped(orchestrator: Orchestrator, options: Options, orchestration: str) -> Report:
    """Run the orchestration; the first SIGTERM or SIGINT has it finish the steps that run, a second one ends it at once.

    It runs beside the main thread because Dagster puts handlers of its own in place of ours whenever it runs in it. To
    end at once is safe at any moment: nothing half-written is visible, and the next run goes on from there.
    """
    asked = 0

    def stop(*_: object) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            os._exit(1)
        orchestrator.cancel()
        say("stopping as soon as the running steps are done; once more to stop at once")

    previous = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="kb-run") as executor:
            return executor.submit(orchestrator.run, options, orchestration).result()
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def _known_profile(name: str | None) -> str | None:
    from kb_pipeline.settings.profiles import PROFILES

    if name is not None and name not in PROFILES:
        raise click.BadParameter(f"{name!r} is not one of {', '.join(PROFILES)}", param_hint="--profile")
    return name


def _chosen(workspace: Workspace, sources: str | None) -> list[str] | None:
    """Names of the connections asked for. Raises UnknownConnection."""
    if sources is None:
        return None
    names = []
    for part in filter(None, (each.strip() for each in sources.split(","))):
        type_, _, name = part.rpartition(":")
        config = workspace.connection(name)
        if type_ and config.type != type_:
            raise UnknownConnection(f"connection {name!r} is of type {config.type}, not {type_}")
        names.append(name)
    if not names:
        raise click.BadParameter("names no connection", param_hint="--sources")
    return names


def _show(report: dict[str, Any]) -> None:
    rows = [
        [name + (" (stale)" if counts["stale"] else ""), *(counts[column] for column in _COLUMNS)]
        for name, counts in [*report["sources"].items(), ("total", report["totals"])]
    ]
    show_table(["connection", *_COLUMNS], rows, total=True)
    for warning in report["warnings"]:
        say(f"{warning['source']}: {warning['message']} (warning)")
    for error in report["errors"]:
        say(f"{error['source']}: {error['message']} ({error['class']})")
    release = report["release"] or "no release yet"
    click.echo(f"{report['status']} in {report['seconds']:.1f} s; {release}")


@click.command()
@click.argument("asset", metavar="TYPE/ASSET")
@click.option("--partition", metavar="NAME", help="Partition key; corpus/index and corpus/knowledge_base have none.")
@click.pass_context
@told
def materialize(context: click.Context, asset: str, partition: str | None) -> None:
    """Materialize one partition of one asset."""
    settings = settings_of(context)
    workspace = Workspace(settings)
    from kb_pipeline.defs.partitions import wanted_keys
    from kb_pipeline.orchestrator import Options, Orchestrator
    from kb_pipeline.storage.partitions import parse_key

    type_, _, name = asset.partition("/")
    if asset not in _CORPUS and (type_ not in workspace.types() or name not in stages.names()):
        known = [f"{each}/{stage}" for each in workspace.types() for stage in stages.names()]
        raise click.UsageError(f"no asset {asset!r}; known: {', '.join([*known, *_CORPUS])}")
    orchestration = uuid.uuid4().hex
    with open_instance(settings, say) as instance, followed(workspace.ledger.progress, orchestration):
        orchestrator = Orchestrator(settings, instance)
        if asset in _CORPUS:
            fault = orchestrator.materialize_corpus(name, Options(), orchestration)
        else:
            keys = wanted_keys(workspace, type_)
            if partition not in keys:
                raise click.UsageError(f"no partition {partition!r} of {type_}; known: {', '.join(keys)}")
            fault = orchestrator.materialize(parse_key(type_, partition), name, Options(), orchestration)
    if fault is not None:
        say(f"{fault.source}: {fault.message} ({fault.error_class})")
    raise SystemExit(1 if fault is not None else 0)


@click.command()
@click.pass_context
@told
def sync(context: click.Context) -> None:
    """Register the partitions of kb.yaml. Dagster's own commands know them afterwards."""
    workspace = workspace_of(context)
    from kb_pipeline.defs.partitions import register, wanted_keys

    with open_instance(workspace.settings, say) as instance:
        added = register(instance, workspace)
    for type_ in workspace.types():
        for key in wanted_keys(workspace, type_):
            click.echo(f"{type_} {key}" + (" (new)" if key in added.get(type_, []) else ""))


@click.command()
@click.argument("name")
@click.pass_context
@told
def retire(context: click.Context, name: str) -> None:
    """Drop a connection that has left kb.yaml. Its tables, its partitions and its rows in the index go."""
    workspace = workspace_of(context)
    if any(config.name == name for config in workspace.connections):
        raise click.UsageError(f"connection {name!r} is still in {workspace.settings.path}: take it out first")
    from kb_pipeline.ingestion.retirement import known_connections, retire_connection
    from kb_pipeline.orchestrator import Options, Orchestrator

    known = known_connections(workspace.storage)
    if name not in {each for _, each in known}:
        others = ", ".join(sorted(each for _, each in known)) or "none"
        raise click.UsageError(f"nothing is stored of a connection {name!r}; stored: {others}")
    with open_instance(workspace.settings, say) as instance:
        for type_, connection in known:
            if connection == name:
                for partition in retire_connection(workspace, type_, name):
                    instance.delete_dynamic_partition(f"kb_{type_}", partition.key)
        report = Orchestrator(workspace.settings, instance).release(Options())
    for fault in report.errors:
        say(f"{fault.message} ({fault.error_class})")
    click.echo(f"{name} is retired; {report.release or 'no release'} no longer holds it")
    raise SystemExit(1 if report.errors else 0)
