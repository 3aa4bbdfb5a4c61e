"""Connectors as a third party would write them; installed beside kb_pipeline by ``install_connectors``.

``journalled`` writes down every read and has bad luck with some files; ``locked`` needs a secret and is refused;
``broken`` has a fault of its own; ``shelf`` reads a small service; ``gated`` keeps a run waiting until a test opens it.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, ClassVar
from urllib.parse import quote

from pydantic import Field

from kb_pipeline.settings.secrets import SecretEnv
from kb_pipeline.sources.base import Item, ItemUnreadable, ListingFailed, SourceConfig, SourceContext, SourceError
from kb_pipeline.sources.local_directory import LocalDirectory, LocalDirectoryConfig


class JournalledConfig(LocalDirectoryConfig):
    """Settings of a journalled connection."""

    journal: str = Field(description="File that every read is written down in, relative to kb.yaml.")


class Journalled(LocalDirectory):
    """A folder. Files named vanishing* are gone once they were listed; files named unreadable* can't be read."""

    Config: ClassVar[type[SourceConfig]] = JournalledConfig

    def __init__(self, config: SourceConfig, context: SourceContext) -> None:
        super().__init__(config, context)
        assert isinstance(config, JournalledConfig)
        self._journal = context.base / config.journal

    def list(self) -> Iterator[Item]:
        """Every file of the folder."""
        vanishing = []
        for item in super().list():
            yield item
            if item.name.startswith("vanishing"):
                vanishing.append(self.root / item.key)
        for path in vanishing:
            path.unlink()

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        """The bytes of a file, after a line in the journal."""
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{item.key}\n")
        if item.name.startswith("unreadable"):
            raise ItemUnreadable(f"{item.key} can't be read: Input/output error.")
        with super().read(item) as opened:
            yield opened


class GatedConfig(LocalDirectoryConfig):
    """Settings of a gated connection."""

    gate: str = Field(description="File whose existence opens the gate, relative to kb.yaml.")


class Gated(LocalDirectory):
    """A folder. Files named late* can only be read once the gate is open."""

    Config: ClassVar[type[SourceConfig]] = GatedConfig

    def __init__(self, config: SourceConfig, context: SourceContext) -> None:
        super().__init__(config, context)
        assert isinstance(config, GatedConfig)
        self._gate = context.base / config.gate

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        """The bytes of a file, sooner or later."""
        while item.name.startswith("late") and not self._gate.exists():
            threading.Event().wait(0.02)
        with super().read(item) as opened:
            yield opened


class LockedConfig(SourceConfig):
    """Settings of a locked connection."""

    token: SecretEnv = Field(description="What the door asks for.")
    careless: bool = Field(default=False, description="Quote the request, token and all, in every error.")


class Locked:
    """A service that refuses its token. A careless one tells in its errors what it was sent, as HTTP libraries do."""

    Config: ClassVar[type[SourceConfig]] = LockedConfig

    def __init__(self, config: SourceConfig, context: SourceContext) -> None:
        assert isinstance(config, LockedConfig)
        self._config = config

    def list(self) -> Iterator[Item]:
        """Fails."""
        self._knock(ListingFailed)
        yield from ()

    def read(self, item: Item) -> AbstractContextManager[BinaryIO]:
        """Never reached."""
        raise NotImplementedError

    def probe(self) -> str:
        """Fails."""
        self._knock(SourceError)
        return "open"

    def _knock(self, failure: type[SourceError]) -> None:
        token = self._config.token.resolve()
        request = f"https://example.org/list?token={token}" if self._config.careless else "https://example.org/list"
        try:
            raise ConnectionError(f"401 for {request}")
        except ConnectionError as error:
            raise failure(f"The connection {self._config.name} was refused: {error}") from error


class ShelfConfig(SourceConfig):
    """Settings of a shelf connection."""

    url: str = Field(description="Where the service is.")


class Shelf:
    """A small service of documents (``kb_pipeline_tests.shelf``), asked as plainly as can be.

    No time-outs, no second tries, and what urllib raises goes on as it is: the pipeline has to make sense of it.
    """

    Config: ClassVar[type[SourceConfig]] = ShelfConfig

    def __init__(self, config: SourceConfig, context: SourceContext) -> None:
        assert isinstance(config, ShelfConfig)
        self._url = config.url

    def list(self) -> Iterator[Item]:
        """Every document."""
        with urllib.request.urlopen(self._url) as answer:
            listed = json.load(answer)
        for key, version in listed.items():
            yield Item(key, version, key, f"{self._url}/{quote(key)}")

    def read(self, item: Item) -> AbstractContextManager[BinaryIO]:
        """The bytes of a document."""
        opened: AbstractContextManager[BinaryIO] = urllib.request.urlopen(f"{self._url}/{quote(item.key)}")
        return opened

    def probe(self) -> str:
        """Lists the documents."""
        return f"documents: {len(list(self.list()))}"


class Broken:
    """A connector with a bug."""

    Config: ClassVar[type[SourceConfig]] = SourceConfig

    def __init__(self, config: SourceConfig, context: SourceContext) -> None:
        self._connections = 0

    def list(self) -> Iterator[Item]:
        """Fails."""
        yield Item(str(1 // self._connections), "1", "one.md", "broken://one.md")

    def read(self, item: Item) -> AbstractContextManager[BinaryIO]:
        """Never reached."""
        raise NotImplementedError

    def probe(self) -> str:
        """Fails."""
        return str(1 // self._connections)
