"""The plan: what has to be done with each listed item, given what the manifest says of it. Pure; reads no bytes.

What belongs here: the decision. What doesn't: carrying it out (``ingestion.documents``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar

from kb_pipeline.parsing.outcome import NO_PARSER
from kb_pipeline.sources.base import Item
from kb_pipeline.statuses import Status


class Action(Enum):
    """What to do with one item."""

    KEEP = "keep"
    """The row stands as it is."""
    AMEND = "amend"
    """The bytes are the same; facts around them (uri, time) changed."""
    FETCH = "fetch"
    """Read and parse."""
    SET_ASIDE = "set_aside"
    """Excluded or known to be bad without reading."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What the manifest says of one item; the columns of ``tables.MANIFEST`` that decisions need."""

    key: str
    version: str
    content_version: str | None
    name: str
    uri: str
    size: int | None
    modified: datetime | None
    parent: str | None
    within: str | None
    holds: int
    status: Status
    rule: str | None
    stale: bool
    processor: str
    content_sha256: str | None
    document_hash: str | None

    COLUMNS: ClassVar[list[str]] = []
    """The columns of a documents table that a row is made of."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ManifestRow:
        """From a row of a documents table."""
        return cls(**{**row, "status": Status(row["status"])})


ManifestRow.COLUMNS.extend(field.name for field in fields(ManifestRow))


@dataclass(frozen=True, slots=True)
class Step:
    """One item with what is to be done and what was known of it.

    ``within``  key of the listed item it was found inside; None when it is listed itself.
    ``reopen``  it must be parsed even if its bytes are the same: something inside it is to be looked at again.
    """

    item: Item
    action: Action
    previous: ManifestRow | None
    within: str | None = None
    reopen: bool = False


@dataclass(frozen=True, slots=True)
class Processors:
    """What outcomes depend on: a good one on the parsers, a bad one on the limits as well."""

    good: str
    bad: str

    def of(self, status: Status) -> str:
        """The processor an outcome of this status is recorded with."""
        return self.good if status.good else self.bad


def plan(
    items: Iterable[Item],
    manifest: Mapping[str, ManifestRow],
    processors: Processors,
    retries: Collection[str],
    reopened: Collection[str],
    max_item_bytes: int,
) -> Iterator[Step]:
    """One step an item, in the order of the items. ``reopened``: keys of those that are to be parsed for what is inside."""
    for item in items:
        previous, reopen = manifest.get(item.key), item.key in reopened
        action = _action(item, previous, processors, retries, max_item_bytes)
        if reopen and action in (Action.KEEP, Action.AMEND):
            action = Action.FETCH
        yield Step(item, action, previous, reopen=reopen)


def _action(
    item: Item,
    previous: ManifestRow | None,
    processors: Processors,
    retries: Collection[str],
    max_item_bytes: int,
) -> Action:
    if item.excluded is not None or item.problem is not None:
        return Action.SET_ASIDE
    if item.size is not None and item.size > max_item_bytes:
        return Action.SET_ASIDE
    if previous is None or item.key in retries or item.version != previous.version:
        return Action.FETCH
    if previous.status.transient or previous.processor != processors.of(previous.status):
        return Action.FETCH
    if previous.status is Status.EXCLUDED and previous.rule != NO_PARSER:
        return Action.FETCH  # a rule of the settings left it out and no longer does
    if item.name != previous.name:
        return Action.FETCH  # the parser is chosen by the name
    same = (item.uri, item.size, item.modified, item.parent) == (
        previous.uri,
        previous.size,
        previous.modified,
        previous.parent,
    )
    return Action.KEEP if same else Action.AMEND
