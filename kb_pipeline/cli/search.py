"""The search command."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from kb_pipeline.cli.context import told, workspace_of
from kb_pipeline.cli.output import show_json

if TYPE_CHECKING:
    from kb_pipeline.knowledge_base.search import Hit, Mode


@click.command()
@click.argument("query")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Hits to return.")
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "vector", "text"]),
    default="hybrid",
    show_default=True,
    help="By meaning and words, by meaning, or by words.",
)
@click.option("--vectors", type=click.Choice(["text"]), default="text", show_default=True, help="Which vectors to compare.")
@click.option("--source", help="Only this source type.")
@click.option("--connection", help="Only this connection.")
@click.option("--path-prefix", help="Only items whose key begins so.")
@click.option("--media-type", help="Only this media type, such as text/markdown.")
@click.option(
    "--release", "release_name", default="current", show_default=True, help="Release to search in, such as release-3."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def search(
    context: click.Context,
    query: str,
    k: int,
    mode: str,
    vectors: str,
    source: str | None,
    connection: str | None,
    path_prefix: str | None,
    media_type: str | None,
    release_name: str,
    as_json: bool,
) -> None:
    """The best chunks for QUERY in the current release."""
    if not query.strip():
        raise click.UsageError("the query is empty")
    workspace = workspace_of(context)
    from kb_pipeline.knowledge_base.search import Filters
    from kb_pipeline.knowledge_base.searcher import Searcher

    searcher = Searcher.open(workspace.storage, release_name, embedder=lambda: workspace.embedder)
    filters = Filters(source, connection, path_prefix, media_type)
    hits = searcher.search(query, k=k, mode=cast("Mode", mode), filters=filters)
    if as_json:
        found = [hit.as_dict() for hit in hits]
        show_json({"query": query, "mode": mode, "vectors": vectors, "release": searcher.release.record.name, "hits": found})
        return
    for number, hit in enumerate(hits, start=1):
        _show(number, hit)
    if not hits:
        click.echo("nothing found")


def _show(number: int, hit: Hit) -> None:
    where = hit.uri + (f" page {hit.page}" if hit.page else "")
    click.echo(click.style(f"{number}. {where}", bold=True) + f"  {hit.score:.4f}")
    if hit.heading_path:
        click.echo(f"   {' > '.join(hit.heading_path)}")
    text = " ".join(hit.text.split())
    click.echo(f"   {text[:240]}{'…' if len(text) > 240 else ''}")
