"""The verify command."""

from __future__ import annotations

import uuid
from dataclasses import asdict

import click

from kb_pipeline.cli.context import settings_of, told
from kb_pipeline.cli.output import say, show_json


@click.command()
@click.option("--heal", is_flag=True, help="Mend what differs: compare everything, and publish what was put right.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
@click.pass_context
@told
def verify(context: click.Context, heal: bool, as_json: bool) -> None:
    """Compare the index and the current release with their tables. Exits 1 when they differ."""
    settings = settings_of(context)
    from kb_pipeline.ingestion.chain import Chain
    from kb_pipeline.ingestion.workspace import Workspace

    workspace = Workspace(settings)
    chain = Chain(workspace)
    found = chain.verify()
    errors: list[str] = []
    healed = None
    if heal and not all(finding.passed for finding in found):
        from kb_pipeline.cli.progress import followed
        from kb_pipeline.environment import instance as open_instance
        from kb_pipeline.orchestrator import Options, Orchestrator

        for finding in found:
            if not finding.passed:
                say(finding.sentence)
        orchestration = uuid.uuid4().hex
        with open_instance(settings, say) as instance, followed(workspace.ledger.progress, orchestration):
            report = Orchestrator(settings, instance).release(Options(), orchestration, everything=True)
        errors = [fault.message for fault in report.errors]
        found = chain.verify()
        healed = not errors and all(finding.passed for finding in found)
    if as_json:
        show_json({"findings": [asdict(finding) for finding in found], "healed": healed, "errors": errors})
    else:
        for finding in found:
            click.echo(f"{'right' if finding.passed else 'WRONG'}: {finding.sentence}")
        for message in errors:
            say(message)
        if healed:
            click.echo("healed")
    raise SystemExit(0 if not errors and all(finding.passed for finding in found) else 1)
