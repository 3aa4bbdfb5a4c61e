"""Commands about releases: release, gc."""

from __future__ import annotations

from dataclasses import asdict

import click

from kb_pipeline.cli.context import told, workspace_of
from kb_pipeline.cli.output import show_json, show_table


@click.group()
def release() -> None:
    """Published releases."""


@release.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def list_(context: click.Context, as_json: bool) -> None:
    """Every release, oldest first."""
    from kb_pipeline.knowledge_base.releases import Releases

    releases = Releases(workspace_of(context).storage)
    current = releases.current()
    records = releases.all()
    if as_json:
        show_json([asdict(each) | {"current": each == current} for each in records])
        return
    show_table(
        ["release", "created", "chunks", "partitions", ""],
        [(r.name, r.created_at, r.chunks, len(r.partitions), "current" if r == current else "") for r in records],
    )


@release.command()
@click.argument("name", default="current")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def show(context: click.Context, name: str, as_json: bool) -> None:
    """What one release is made of."""
    from kb_pipeline.knowledge_base.releases import Releases

    record = Releases(workspace_of(context).storage).get(name)
    if as_json:
        show_json(asdict(record))
        return
    click.echo(f"{record.name} of {record.created_at}: {record.chunks} chunks, model {record.model_name}")
    show_table(["partition", "chunks"], [(key, each.chunks) for key, each in sorted(record.partitions.items())])


@release.command()
@click.argument("name")
@click.pass_context
@told
def rollback(context: click.Context, name: str) -> None:
    """Make an earlier release the current one, and pin it."""
    from kb_pipeline.knowledge_base.candidates import CORPUS_LEASE
    from kb_pipeline.knowledge_base.releases import Releases

    workspace = workspace_of(context)
    with workspace.ledger.leases.acquire(CORPUS_LEASE, f"a rollback to {name}", wait=60.0) as lease:
        record = Releases(workspace.storage).rollback(lease, name)
    click.echo(f"{record.name} is current and pinned; `kb release unpin` lets runs publish again")


@release.command()
@click.pass_context
@told
def unpin(context: click.Context) -> None:
    """Let runs publish again."""
    from kb_pipeline.knowledge_base.releases import Releases

    pinned = Releases(workspace_of(context).storage).unpin()
    click.echo(f"{pinned} is no longer pinned; the next run publishes" if pinned else "nothing was pinned")


@click.command()
@click.option("--keep", type=click.IntRange(1), default=10, show_default=True, help="Releases to keep.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def gc(context: click.Context, keep: int, as_json: bool) -> None:
    """Drop what nothing refers to. Vectors, old releases, old versions of the index, leftovers of killed runs."""
    from kb_pipeline.ingestion.gc import collect

    result = collect(workspace_of(context), keep)
    if as_json:
        show_json(asdict(result))
        return
    for name, value in asdict(result).items():
        click.echo(f"{name.replace('_', ' '):<20} {value}")
