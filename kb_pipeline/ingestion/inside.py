"""Items found inside listed ones: files of messages, members of archives among them, and what is inside those.

What belongs here: their keys and addresses, how many and how deep, and which of them ask for another look. What doesn't:
finding them (parsers do), recording them (``ingestion.documents``).

They live and go with the listed item that they are in: read when it is read, kept while it is kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from kb_pipeline.ingestion.plan import ManifestRow, Processors
from kb_pipeline.parsing.document import Attachment
from kb_pipeline.parsing.parse import MAX_ATTACHMENTS
from kb_pipeline.sources.base import Item
from kb_pipeline.sources.names import numbered
from kb_pipeline.sources.zip_members import SEPARATOR
from kb_pipeline.statuses import Status

# Raising one of these must raise PARSERS_VERSION: what was left unopened is recorded as an outcome.
MAX_DEPTH = 8
"""How many items may lie around one; a message that answers a message that answers… is copied at every level."""
MAX_ITEMS = MAX_ATTACHMENTS
"""Items inside one listed item, on all levels. What would bring more is not opened."""
MAX_BYTES = 1 << 30
"""Bytes of the items inside one listed item, on all levels together. What would bring more is not opened."""


class Inside:
    """What the manifest says of items inside others, by the key of the listed item."""

    def __init__(self, rows: Iterable[ManifestRow]) -> None:
        self._by_root: dict[str, dict[str, ManifestRow]] = defaultdict(dict)
        for row in rows:
            assert row.within is not None
            self._by_root[row.within][row.key] = row

    def of(self, root: str) -> Mapping[str, ManifestRow]:
        """The rows of what is inside a listed item, by key."""
        return self._by_root.get(root, {})

    def rows(self) -> Iterator[ManifestRow]:
        """All of them."""
        for rows in self._by_root.values():
            yield from rows.values()

    def reopened(
        self, listed: Mapping[str, ManifestRow], processors: Processors, retries: Collection[str]
    ) -> frozenset[str]:
        """Keys of listed items that must be parsed for the sake of something inside them.

        That is: something a person wants retried, an outcome of other parsers or limits, or a row that is missing.
        """
        held = Counter((row.within, row.parent) for row in self.rows())
        found = {row.within or row.key for row in (*listed.values(), *self.rows()) if row.holds != _held(row, held)}
        for row in self.rows():
            if row.within is not None and (row.key in retries or row.processor != processors.of(row.status)):
                found.add(row.within)
        return frozenset(found)


def _held(row: ManifestRow, held: Mapping[tuple[str | None, str | None], int]) -> int:
    return held[row.within or row.key, row.key]


class Opened:
    """A listed item that was parsed, while what is inside it is taken out. Deterministic: the same bytes, the same items."""

    def __init__(self, root: Item) -> None:
        self.root = root
        self._depths: dict[str, int] = {root.key: 0}
        self._bytes = 0

    def refusal(self, attachments: Collection[Attachment]) -> str:
        """Why an item that holds these is not to be opened; "" when it is."""
        if len(self._depths) - 1 + len(attachments) > MAX_ITEMS:
            return f"With the {len(attachments):,} items in it, {self.root.name} would hold more than {MAX_ITEMS:,}."
        if self._bytes + sum(len(each.data) for each in attachments) > MAX_BYTES:
            return f"With what is in it, {self.root.name} would hold items of more than {MAX_BYTES:,} bytes."
        return ""

    def items(self, holder: Item, attachments: Iterable[Attachment]) -> Iterator[tuple[Item, bytes]]:
        """The items in ``holder``, each with its bytes."""
        depth = self._depths[holder.key] + 1
        for attachment in attachments:
            key = numbered(f"{holder.key}{SEPARATOR}{attachment.name}", self._depths)
            self._depths[key] = depth
            self._bytes += len(attachment.data)
            name = attachment.name.rpartition("/")[2] or attachment.name
            item = Item(
                key, self.root.version, name, uri(self.root, key), len(attachment.data), self.root.modified, holder.key
            )
            if attachment.known is not None:
                status, detail = attachment.known
                excluded = status is Status.EXCLUDED
                known = {"excluded": detail} if excluded else {"problem": status, "problem_detail": detail}
                item = replace(item, **known)  # type: ignore[arg-type]
            elif depth > MAX_DEPTH:
                item = replace(
                    item, problem=Status.TOO_LARGE, problem_detail=f"It lies inside more than {MAX_DEPTH} others."
                )
            yield item, attachment.data


def uri(root: Item, key: str) -> str:
    """Where a person finds an item inside a listed one."""
    return root.uri + quote(key.removeprefix(root.key), safe="/!")


def carried(row: ManifestRow, root: Item) -> dict[str, Any]:
    """What changes in the row of an item inside ``root`` when ``root`` changed around the same bytes."""
    changes = {"version": root.version, "uri": uri(root, row.key), "modified": root.modified, "stale": False}
    return {**changes, "content_version": root.version} if row.status.good else changes
