"""The ``kb`` command: one group, its commands in modules beside this one, loaded when they are called."""

from __future__ import annotations

import importlib
import os
import warnings

import click

from kb_pipeline import __version__

_COMMANDS = {
    "init": ("kb_pipeline.cli.project", "init"),
    "env": ("kb_pipeline.cli.project", "env"),
    "dev": ("kb_pipeline.cli.project", "dev"),
    "run": ("kb_pipeline.cli.run", "run"),
    "materialize": ("kb_pipeline.cli.run", "materialize"),
    "watch": ("kb_pipeline.cli.watch", "watch"),
    "sync": ("kb_pipeline.cli.run", "sync"),
    "retire": ("kb_pipeline.cli.run", "retire"),
    "status": ("kb_pipeline.cli.status", "status"),
    "quarantine": ("kb_pipeline.cli.status", "quarantine"),
    "search": ("kb_pipeline.cli.search", "search"),
    "release": ("kb_pipeline.cli.release", "release"),
    "gc": ("kb_pipeline.cli.release", "gc"),
    "verify": ("kb_pipeline.cli.verify", "verify"),
    "upload": ("kb_pipeline.cli.sources", "upload"),
    "sources": ("kb_pipeline.cli.sources", "sources"),
}


class _LazyGroup(click.Group):
    """Imports a command's module only when that command runs: `kb status` needs neither Dagster nor a model."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", metavar="PATH", help="kb.yaml to use; default: $KB_CONFIG, or ./kb.yaml.")
@click.version_option(__version__, prog_name="kb")
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """Keeps a searchable knowledge base in step with your documents."""
    context.obj = config


def main() -> None:
    """Entry point of the ``kb`` script."""
    # Libraries that would reach out for a model at run time must not: models are on this machine or named as missing.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module="dagster")
    cli()


if __name__ == "__main__":
    main()
