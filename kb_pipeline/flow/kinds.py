"""The kinds of trouble: which there are, and what can be known of one error.

What belongs here: the classes of errors and the shape of a diagnosis. What doesn't: telling which error is of which kind
(``errors``, ``foreign``), and what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ErrorClass(StrEnum):
    """The kinds of trouble that reports, strategies and statistics know."""

    AUTHENTICATION = "authentication"
    """Whoever asks isn't known: a key, a token, a password is wrong or has expired."""
    PERMISSION = "permission"
    """Whoever asks is known, and may not."""
    RATE_LIMITING = "rate_limiting"
    """The source asks for patience."""
    NETWORK = "network"
    """The way to the source, or a source that fails to answer."""
    NOT_FOUND = "not_found"
    """What was asked for isn't there."""
    DATA_CORRUPTION = "data_corruption"
    """Bytes that are provably wrong."""
    RESOURCE_EXHAUSTION = "resource_exhaustion"
    """Disk, memory, open files, threads, a quota for storage."""
    CONFLICT = "conflict"
    """Somebody else is at work on the same thing."""
    SOURCE = "source"
    """The source itself, or how the connection describes it."""
    FAILED_CHECK = "failed_check"
    """What was made didn't pass its checks."""
    INTERNAL = "internal"
    """A defect."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is known of an error.

    ``retry_after``  seconds that the source asked to be left alone, where it said so.
    ``lasting``      waiting won't mend it, whatever its kind: a certificate that nobody vouches for is trouble on the
                     way to the source, but it is there tomorrow as well, and trying it again only delays the others.
    """

    kind: ErrorClass
    retry_after: float | None = None
    lasting: bool = False
