"""Commands that report: status, quarantine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from kb_pipeline import stages
from kb_pipeline.cli.context import told, workspace_of
from kb_pipeline.cli.output import printable, show_json, show_table
from kb_pipeline.flow.breaker import Breaker, State
from kb_pipeline.ingestion.report import QuarantinedItem, StoredCounts, stored_counts
from kb_pipeline.ingestion.report import quarantine as quarantined_items
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.parsing.network import Isolation, allowed
from kb_pipeline.sources.circuit import sentence
from kb_pipeline.statuses import Status

_COUNTS = list(StoredCounts.__dataclass_fields__)
COUNTED_DAYS = 7
"""Days over which errors are counted, today included."""
_NETWORK: dict[Isolation, str] = {
    "namespace": "network namespace",
    "audit_hook": "audit hook (no network namespace is granted here; native code is not held back)",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def status(context: click.Context, as_json: bool) -> None:
    """What the knowledge base holds, per connection and in total."""
    report = _status(workspace_of(context))
    if as_json:
        show_json(report)
        return
    rows: list[list[object]] = [
        [name, each["type"], *(each[column] for column in _COUNTS), each["last_success"] or "never"]
        for name, each in report["sources"].items()
    ]
    rows.append(["total", "", *(report["totals"][column] for column in _COUNTS), ""])
    show_table(["connection", "type", *_COUNTS, "last success"], rows, total=True)
    click.echo(f"release: {report['release'] or 'none yet'}")
    if report["pinned"]:
        click.echo(f"pinned: {report['pinned']}; nothing is published until `kb release unpin`")
    click.echo(f"parsers: no network, by {_NETWORK[allowed()]}")
    for name, each in report["sources"].items():
        if not each["configured"]:
            click.echo(f"{name}: no longer in kb.yaml, still searchable; `kb retire {name}` drops it")
        if each["left_alone"]:
            click.echo(f"{name}: {each['left_alone']}")
        for message, partitions in _messages(each["faults"]).items():
            where = "" if len(partitions) == len(each["partitions"]) else f" {', '.join(partitions)}:"
            click.echo(f"{name}:{where} {message}")
    for name, each in report["sources"].items():
        for line in _error_lines(each["errors"]):
            click.echo(f"{name}: {line}")


def _messages(faults: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Each message once, with the partitions that it is about."""
    found: dict[str, list[str]] = {}
    for fault in faults:
        found.setdefault(fault["message"], []).append(fault["partition"])
    return found


def _error_lines(errors: list[dict[str, Any]]) -> list[str]:
    """What was done about errors, and how often that helped, a line for each class."""
    classes: dict[str, list[str]] = {}
    for each in errors:
        helped = f", recovered {each['recovered']} ({each['recovery_rate']:.0%})" if each["recovered"] else ""
        classes.setdefault(each["class"], []).append(f"{each['strategy']} {each['occurred']}{helped}")
    return [f"{name} errors of the last {COUNTED_DAYS} days: {'; '.join(parts)}" for name, parts in classes.items()]


def _status(workspace: Workspace) -> dict[str, Any]:
    from kb_pipeline.ingestion.retirement import known_connections
    from kb_pipeline.knowledge_base.releases import Releases

    sources: dict[str, Any] = {}
    totals = StoredCounts()
    configured = {config.name: config.type for config in workspace.connections}
    breakers, counted = workspace.ledger.breakers.all(), workspace.ledger.outcomes.counts(days=COUNTED_DAYS)
    left = {name: type_ for type_, name in known_connections(workspace.storage) if name not in configured}
    for name, type_ in sorted((configured | left).items()):
        stored = [each for each in workspace.storage.partitions(stages.first().name, type_) if each.connection == name]
        wanted = workspace.partitions(name) if name in configured else tuple(stored)
        # After a change of `shards` the old partitions speak until the new ones are there.
        speaking = wanted if all(each in stored for each in wanted) else tuple(stored)
        counts = stored_counts(workspace.storage, speaking)
        outcome = workspace.ledger.outcomes.outcome(type_, name)
        breaker = breakers.get(name, Breaker(name))
        sources[name] = {
            "type": type_,
            "configured": name in configured,
            "partitions": [partition.key for partition in wanted],
            **counts.as_dict(),
            "breaker": breaker.state.value,
            "left_alone": sentence(breaker) if breaker.state is not State.CLOSED else None,
            "last_run": outcome.last_run,
            "last_success": outcome.last_success,
            "error": outcome.error,
            "faults": [
                {"partition": each.partition, "stage": each.stage, "class": each.error_class, "message": each.message}
                for each in outcome.faults
            ],
            "errors": [
                {
                    "class": each.error_class,
                    "strategy": each.strategy,
                    "occurred": each.occurred,
                    "recovered": each.recovered,
                    "recovery_rate": round(each.recovered / max(1, each.occurred), 4),
                }
                for each in counted
                if each.connection == name
            ],
        }
        for column in _COUNTS:
            setattr(totals, column, getattr(totals, column) + getattr(counts, column))
    releases = Releases(workspace.storage)
    current = releases.current()
    return {
        "release": current.name if current else None,
        "pinned": releases.pinned(),
        "sources": sources,
        "totals": totals.as_dict(),
    }


@click.group()
def quarantine() -> None:
    """What was set aside, and why."""


def _items(workspace: Workspace) -> list[QuarantinedItem]:
    stored = workspace.storage.partitions(stages.first().name)
    return list(quarantined_items(workspace.storage, tuple(stored)))


@quarantine.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def list_(context: click.Context, as_json: bool) -> None:
    """Every item in quarantine."""
    items = _items(workspace_of(context))
    if as_json:
        show_json([asdict(item) for item in items])
        return
    show_table(
        ["connection", "key", "status", "detail"],
        [(item.connection, item.key, item.status, item.detail) for item in items],
    )
    click.echo(f"{len(items)} in quarantine")


@quarantine.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def show(context: click.Context, key: str, as_json: bool) -> None:
    """One item: what happened, and what to do."""
    found = [item for item in _items(workspace_of(context)) if item.key == key]
    if not found:
        raise click.UsageError(f"{key!r} is not in quarantine; `kb quarantine list` shows what is")
    reports = [asdict(item) | {"meaning": Status(item.status).sentence} for item in found]
    if as_json:
        show_json(reports)
        return
    for number, report in enumerate(reports):
        if number:
            click.echo()
        for name, value in report.items():
            click.echo(f"{name:<11} {printable(str(value))}")


@quarantine.command()
@click.argument("keys", nargs=-1)
@click.option("--connection", metavar="NAME", help="Only items of this connection.")
@click.pass_context
@told
def retry(context: click.Context, keys: tuple[str, ...], connection: str | None) -> None:
    """Have items read again by the next run: those named, or all."""
    workspace = workspace_of(context)
    if connection is not None:
        workspace.connection(connection)
    items = [item for item in _items(workspace) if connection in (None, item.connection)]
    unknown = sorted(set(keys) - {item.key for item in items})
    if unknown:
        raise click.UsageError(f"not in quarantine: {', '.join(unknown)}")
    chosen = [item for item in items if not keys or item.key in keys]
    for name in {item.connection for item in chosen}:
        workspace.ledger.retries.request(name, [item.key for item in chosen if item.connection == name])
    click.echo(f"{len(chosen)} will be read again by the next run")
