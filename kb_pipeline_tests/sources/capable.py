"""A source in memory that can do all that a source may be able to do; what it holds is set by tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, ClassVar
from urllib.parse import quote

from kb_pipeline.sources.base import Item, ItemVanished, SourceConfig, SourceContext
from kb_pipeline.sources.capabilities import Change, ChangePage, CursorExpired

PAGE = 3
"""Changes on a page."""


class Capable:
    """Files by name. A version counts how often the bytes changed; ``calls`` counts what was asked of it, by method."""

    Config: ClassVar[type[SourceConfig]] = SourceConfig

    def __init__(self, config: SourceConfig | None = None, context: SourceContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.errors: dict[str, Exception] = {}
        self.silent: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.log: list[str] = []
        self.forgotten = 0
        self._versions: Counter[str] = Counter()

    def fill(self, content: Mapping[str, bytes]) -> None:
        """Let it hold these files."""
        for name in {*self.files, *content}:
            if self.files.get(name) != content.get(name):
                self._versions[name] += 1
                self.log.append(name)
        self.files = dict(content)

    def forget(self) -> None:
        """The feed no longer reaches back."""
        self.forgotten = len(self.log) + 1
        self.log.append("")

    def list(self) -> Iterator[Item]:
        self.calls["list"] += 1
        yield from (self._item(name) for name in sorted(self.files))

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        self.calls["read"] += 1
        yield BytesIO(self._bytes(item))

    def probe(self) -> str:
        return f"{len(self.files)} files"

    def changes(self, cursor: str | None) -> ChangePage:
        self.calls["changes"] += 1
        if cursor is None:
            return ChangePage((), str(len(self.log)))
        start = int(cursor)
        if start < self.forgotten:
            raise CursorExpired("The feed begins later.")
        page = self.log[start : start + PAGE]
        changes = [Change(name, self._item(name) if name in self.files else None) for name in page]
        return ChangePage(changes, str(start + len(page)), more=start + len(page) < len(self.log))

    def read_many(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | Exception]]:
        self.calls["read_many"] += 1
        for item in reversed(items):
            if item.key in self.silent:
                continue
            try:
                yield item, self._bytes(item)
            except Exception as error:  # noqa: BLE001 - what it is about one item belongs to that item
                yield item, error

    def access(self, item: Item) -> AbstractSet[str]:
        self._bytes(item)
        return {"anyone"} if item.name.startswith("a") else {"user:ada@example.org", "group:board"}

    def _bytes(self, item: Item) -> bytes:
        if item.key in self.errors:
            raise self.errors[item.key]
        if item.key not in self.files:
            raise ItemVanished(f"{item.key} is gone")
        return self.files[item.key]

    def _item(self, name: str) -> Item:
        facts: dict[str, Any] = {"size": len(self.files[name]), "media_type": "text/markdown" if "." not in name else None}
        return Item(name, str(self._versions[name]), name, f"capable:{quote(name)}", **facts)
