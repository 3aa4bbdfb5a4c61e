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
    from kb_pipeline.embedding.errors import ModelMismatch, ModelNotFound, UnsupportedModel
    from kb_pipeline.flow.errors import ErrorClass, classify, innermost
    from kb_pipeline.knowledge_base.releases import NoRelease
    from kb_pipeline.sources.base import SourceError
    from kb_pipeline.storage.files import FilesError, FilesMisconfigured
    from kb_pipeline.storage.lease import LeaseHeld, LeaseLost

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (
            ConfigError,
            UnknownConnection,
            FilesMisconfigured,
            ModelNotFound,
            ModelMismatch,
            UnsupportedModel,
        ) as error:
            say(str(error))
            raise SystemExit(2) from None
        except (FilesError, LeaseHeld, LeaseLost, NoRelease, SourceError) as error:
            say(str(error))
            raise SystemExit(1) from None
        except OSError as error:
            # A full disk, a folder that may not be written: the file and the reason are all a person can use.
            say(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
            raise SystemExit(1) from None
        except Exception as error:
            # SQLite, Arrow and Lance have words of their own for a full disk and for a writer that was stopped half-way.
            advice = {
                ErrorClass.RESOURCE_EXHAUSTION: "the storage can't be written, is the disk full?",
                ErrorClass.CONFLICT: "another process is writing to the storage and doesn't finish, was it suspended?",
            }.get(classify(error))
            if advice is None:
                raise
            say(f"{advice} {innermost(error)}")
            raise SystemExit(1) from None

    return run  # type: ignore[return-value]
