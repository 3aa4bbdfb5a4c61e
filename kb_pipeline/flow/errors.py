"""Error classes: which kind of trouble an exception means, so that reports and retries can speak of it.

What belongs here: the classes and the mapping from exceptions. What doesn't: what to do about them.
"""

from __future__ import annotations

import errno
import sqlite3
import zipfile
from enum import StrEnum


class ErrorClass(StrEnum):
    """The kinds of trouble the reports know."""

    AUTHENTICATION = "authentication"
    NETWORK = "network"
    RATE_LIMITING = "rate_limiting"
    PERMISSION = "permission"
    DATA_CORRUPTION = "data_corruption"
    RESOURCE_EXHAUSTION = "resource_exhaustion"
    CONFLICT = "conflict"
    SOURCE = "source"
    INTERNAL = "internal"


_EXHAUSTED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
# A full disk, as SQLite tells it: of its tables, of the files it makes beside them.
_SQLITE_EXHAUSTED = ("disk is full", "disk I/O error", "unable to open database file")
_CONFLICTS = frozenset({"LeaseHeld", "LeaseLost"})
_SOURCES = frozenset({"ListingFailed", "SourceError", "ItemVanished", "ItemUnreadable", "ConfigError"})
_CORRUPT = frozenset({"ArrowInvalid", "ItemCorrupt", "ParseError", "EmbeddingError"})


def classify(error: BaseException) -> ErrorClass:
    """The class of an exception; looks through ``__cause__`` and ``__context__`` for the most telling one."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or current.__context__
    found = [_classify_one(each) for each in seen]
    # The innermost exception is the closest to the cause, but only if it says anything.
    for each in reversed(found):
        if each not in (ErrorClass.INTERNAL, ErrorClass.SOURCE):
            return each
    return ErrorClass.SOURCE if ErrorClass.SOURCE in found else ErrorClass.INTERNAL


def innermost(error: BaseException) -> str:
    """One line about an exception that nobody worded for people: what lies at its bottom, and what it surfaced as."""
    bottom = error
    while bottom.__cause__ is not None:
        bottom = bottom.__cause__
    lines = str(bottom).strip().splitlines() or [type(bottom).__name__]
    return f"{lines[0]} ({type(error).__module__.partition('.')[0]}: {type(error).__name__})"


def _classify_one(error: BaseException) -> ErrorClass:
    names = {kind.__name__ for kind in type(error).__mro__}
    code = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or code in _EXHAUSTED or "OutOfMemoryError" in names:
        return ErrorClass.RESOURCE_EXHAUSTION
    if isinstance(error, sqlite3.OperationalError) and any(words in str(error) for words in _SQLITE_EXHAUSTED):
        return ErrorClass.RESOURCE_EXHAUSTION
    if names & _CONFLICTS or (isinstance(error, sqlite3.OperationalError) and "locked" in str(error)):
        return ErrorClass.CONFLICT
    if isinstance(error, PermissionError):
        return ErrorClass.PERMISSION
    if isinstance(error, zipfile.BadZipFile) or names & _CORRUPT:
        return ErrorClass.DATA_CORRUPTION
    if isinstance(error, (ConnectionError, TimeoutError)):
        return ErrorClass.NETWORK
    if names & _SOURCES or isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ErrorClass.SOURCE
    # A damaged Parquet page reaches Python as an OSError without errno.
    if isinstance(error, OSError) and code is None:
        return ErrorClass.DATA_CORRUPTION
    return ErrorClass.INTERNAL
