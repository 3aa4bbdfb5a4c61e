"""What every command shares: kb.yaml, exit codes, and errors told as sentences.

Exit codes: 0 success, 1 failure, 2 bad usage or bad configuration.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kb_pipeline.cli.output import say
from kb_pipeline.ingestion.workspace import UnknownConnection, Workspace
from kb_pipeline.settings.errors import ConfigError
from kb_pipeline.settings.load import load
from kb_pipeline.settings.model import Settings

F = TypeVar("F", bound=Callable[..., Any])

CONFIG_VARIABLE = "KB_CONFIG"


def config_path(given: str | None) -> Path:
    """--config, $KB_CONFIG or ./kb.yaml, in this order."""
    return Path(given or os.environ.get(CONFIG_VARIABLE) or "kb.yaml")


def settings_of(context: click.Context, profile: str | None = None) -> Settings:
    """The settings of this call. Raises ConfigError."""
    settings = load(config_path(context.obj))
    return settings.with_profile(profile) if profile is not None else settings


def workspace_of(context: click.Context) -> Workspace:
    """The workspace of this call. Raises ConfigError."""
    return Workspace(settings_of(context))


def told(command: F) -> F:
    """Turn the errors a person can mend into one sentence and the contract's exit code; others keep their traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except click.ClickException:
            raise  # click has words of its own
        except Exception as error:
            found = _sentence(error)
            if found is None:
                raise
            sentence, code = found
            say(sentence)
            raise SystemExit(code) from None

    return run  # type: ignore[return-value]


def _sentence(error: Exception) -> tuple[str, int] | None:
    """What to say of an error, and the exit code; None of one that is nobody's to mend but ours."""
    # Imported once something went wrong: they take longer than the rest of a short command.
    from kb_pipeline.embedding.errors import ModelMismatch, ModelNotFound, UnsupportedModel
    from kb_pipeline.flow.errors import ErrorClass, classify, innermost
    from kb_pipeline.knowledge_base.releases import NoRelease
    from kb_pipeline.knowledge_base.search import SearchError
    from kb_pipeline.ledger.errors import LeaseHeld, LeaseLost, LedgerUnavailable
    from kb_pipeline.sources.base import SourceError
    from kb_pipeline.storage.files import FilesError, FilesMisconfigured

    misconfigured = (ConfigError, UnknownConnection, FilesMisconfigured, ModelNotFound, ModelMismatch, UnsupportedModel)
    if isinstance(error, misconfigured):
        return str(error), 2
    if isinstance(error, (FilesError, LeaseHeld, LeaseLost, LedgerUnavailable, NoRelease, SearchError, SourceError)):
        return str(error), 1
    if isinstance(error, OSError):
        # A full disk, a folder that may not be written: the file and the reason are all a person can use.
        return f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1
    # SQLite, Arrow and Lance have words of their own for a full disk and for a writer that was stopped half-way.
    advice = {
        ErrorClass.RESOURCE_EXHAUSTION: "the storage can't be written, is the disk full?",
        ErrorClass.CONFLICT: "another process is writing to the storage and doesn't finish, was it suspended?",
    }.get(classify(error))
    return None if advice is None else (f"{advice} {innermost(error)}", 1)
