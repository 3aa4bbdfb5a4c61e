"""What became of one item: what a parser process answers, and what the pipeline goes on with."""

from __future__ import annotations

from dataclasses import dataclass

from kb_pipeline.parsing.document import Document
from kb_pipeline.statuses import Status

NO_PARSER = "no_parser"
"""The rule that excludes content which no parser takes."""

ARCHIVE = "archive"
"""The rule that excludes an archive which was opened: what it holds are items."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item.

    ``document``  there when ``status.good``, and of an archive that was opened, for what it holds.
    ``parser_id`` the parser that was chosen, or None (empty items need none; of a process that died nobody knows).
    ``detail``    one sentence for a person; for EXCLUDED the name of the rule; "" when there is nothing to say.
    """

    status: Status
    document: Document | None = None
    parser_id: str | None = None
    detail: str = ""
