"""The guard around a source that knows secrets: what it raises never tells one.

What belongs here: taking secrets out of exceptions where they leave a connector. What doesn't: logs a connector writes.

HTTP libraries quote the request in their errors, token and all, and errors go into reports, tables and Dagster's log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, BinaryIO, ClassVar

from pydantic import BaseModel

from kb_pipeline.flow.errors import chain, diagnose
from kb_pipeline.settings.secrets import SecretEnv, redact
from kb_pipeline.sources.base import (
    ConnectorError,
    Item,
    ItemCorrupt,
    ItemEncrypted,
    ItemUnreadable,
    ItemVanished,
    ListingFailed,
    Source,
    SourceConfig,
    SourceContext,
    SourceError,
)
from kb_pipeline.sources.capabilities import (
    Access,
    ChangePage,
    Changes,
    CursorExpired,
    ReadMany,
    passing_on,
)

_OURS: tuple[type[ConnectorError], ...] = (
    ListingFailed,
    CursorExpired,
    SourceError,
    ItemVanished,
    ItemUnreadable,
    ItemCorrupt,
    ItemEncrypted,
)


def guarded(source: Source, config: SourceConfig, context: SourceContext) -> Source:
    """The source itself, or one that keeps its secrets when its settings hold any."""
    if not _holds_secret(config):
        return source
    return passing_on(Guarded, _GUARDS, source)(config, context, source)


class Guarded:
    """Does what the source does, and takes secrets out of its errors. ``guarded`` adds what else the source can do."""

    Config: ClassVar[type[SourceConfig]] = SourceConfig

    def __init__(self, config: SourceConfig, context: SourceContext, source: Source) -> None:
        self._source = source

    def list(self) -> Iterator[Item]:
        """As the source does."""
        with _silenced():
            yield from self._source.list()

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        """As the source does."""
        with _silenced(), self._source.read(item) as opened:
            yield opened

    def probe(self) -> str:
        """As the source does."""
        with _silenced():
            return redact(self._source.probe())


class _GuardedChanges:
    _source: Any

    def changes(self, cursor: str | None) -> ChangePage:
        """As the source does."""
        with _silenced():
            page: ChangePage = self._source.changes(cursor)
            return page


class _GuardedReadMany:
    _source: Any

    def read_many(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | Exception]]:
        """As the source does."""
        with _silenced():
            for item, answer in self._source.read_many(items):
                yield item, _told(answer) if isinstance(answer, Exception) else answer


class _GuardedAccess:
    _source: Any

    def access(self, item: Item) -> AbstractSet[str]:
        """As the source does."""
        with _silenced():
            principals: AbstractSet[str] = self._source.access(item)
            return principals


_GUARDS: Mapping[type, type] = {Changes: _GuardedChanges, ReadMany: _GuardedReadMany, Access: _GuardedAccess}


@contextmanager
def _silenced() -> Iterator[None]:
    told: Exception | None = None
    try:
        yield
    except Exception as error:
        told = _told(error)
        if told is error:
            raise
    # Raised out here so that the original isn't attached as its context.
    if told is not None:
        raise told


def _told(error: Exception) -> Exception:
    """The error itself when there is no secret in it, or one in clean words."""
    if not any(redact(str(each)) != str(each) for each in chain(error)):
        return error
    return _without_secrets(error)


def _without_secrets(error: Exception) -> Exception:
    """The same chain of errors in clean words, of kinds that the rest of the pipeline tells apart.

    What can be known of the original, down to an answer's status and headers, is lost with its words. So it is found out
    now, and goes along.
    """
    result: Exception | None = None
    for each in reversed(list(chain(error))):
        copy = _copy(each).with_traceback(each.__traceback__)
        copy.__cause__ = result
        result = copy
    assert result is not None
    result.diagnosis = diagnose(error)  # type: ignore[attr-defined]
    return result


def _copy(error: BaseException) -> Exception:
    message = redact(str(error))
    for kind in _OURS:
        if isinstance(error, kind):
            return kind(message, kind=error.kind, retry_after=error.retry_after)
    for builtin in (ConnectionError, TimeoutError, PermissionError, OSError):
        if isinstance(error, builtin):
            return builtin(message)
    return RuntimeError(f"{type(error).__name__}: {message}")


def _holds_secret(value: Any) -> bool:
    if isinstance(value, SecretEnv):
        return True
    if isinstance(value, BaseModel):
        return any(_holds_secret(getattr(value, name)) for name in type(value).model_fields)
    return isinstance(value, list | tuple) and any(_holds_secret(each) for each in value)
