"""The one exception that a parser raises on purpose.

What belongs here: how a parser says that an item can't be parsed. Any other exception is a parser's defect.
"""

from __future__ import annotations

from kb_pipeline.statuses import Status


class ParseError(Exception):
    """An item can't be parsed. ``status`` says what becomes of it; the message is one sentence for a person."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
