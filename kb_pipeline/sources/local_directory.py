"""The source type local_directory: the files below a folder.

What belongs here: settings, items and versions of files. What doesn't: walking and opening (tree.py), patterns
(globs.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, ClassVar

from pydantic import Field, field_validator

from kb_pipeline.sources.base import Item, ItemUnreadable, SourceConfig, SourceContext
from kb_pipeline.sources.globs import Globs, normalise
from kb_pipeline.sources.names import escape, unescape
from kb_pipeline.sources.streams import stream
from kb_pipeline.sources.tree import Entry, Tree

RACY_MARGIN_NS = 20_000_000
"""Nanoseconds: twice the coarsest clock tick (10 ms) that a kernel stamps files with."""

_COARSE_MARGIN_NS = 2_000_000_000
_SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LocalDirectoryConfig(SourceConfig):
    """Settings of a local_directory connection."""

    path: str = Field(min_length=1, description="Folder to list, relative to kb.yaml.")
    include: tuple[str, ...] = Field(
        default=("**",), min_length=1, description="Patterns of the files to take, relative to path."
    )
    exclude: tuple[str, ...] = Field(default=(), description="Patterns of the files and folders to leave out.")
    hidden: bool = Field(default=False, description="Take files and folders whose name begins with a dot.")
    follow_links: bool = Field(default=False, description="Follow symbolic links to folders and out of path.")

    @field_validator("include", "exclude")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            normalise(pattern)
        return patterns


class LocalDirectory:
    """Files below a folder. The key of an item is its path below the folder, with "/" on every system."""

    Config: ClassVar[type[SourceConfig]] = LocalDirectoryConfig

    def __init__(
        self,
        config: SourceConfig,
        context: SourceContext,
        *,
        clock: Callable[[], int] = time.time_ns,
        racy_margin_ns: int = RACY_MARGIN_NS,
    ) -> None:
        if not isinstance(config, LocalDirectoryConfig):
            raise TypeError(f"LocalDirectory needs a LocalDirectoryConfig, not {type(config).__name__}")
        self.root = Path(os.path.abspath(context.base / os.path.expanduser(config.path)))
        self._include = Globs(config.include)
        self._exclude = Globs(config.exclude)
        self._clock = clock
        self._racy_margin_ns = racy_margin_ns
        self._tree = Tree(
            self.root,
            hidden=config.hidden,
            follow_links=config.follow_links,
            prune=lambda key: "exclude" if self._exclude.covers(key.rstrip("/")) else None,
            outside=context.storage,
        )

    def list(self) -> Iterator[Item]:
        """Yield every file in ascending order of key; a folder that isn't entered is one excluded item, "<path>/".

        Raises ListingFailed when the folder is missing or anything below it can't be seen.
        """
        started = self._clock()
        for entry in self._tree.walk():
            rule = entry.rule
            if rule is None and self._exclude.matches(entry.key):
                rule = "exclude"
            if rule is None and not self._include.matches(entry.key):
                rule = "include"
            yield self._item(entry, rule, started)

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        """Open a file. Raises ItemVanished, or ItemUnreadable, also while reading."""
        descriptor = self._tree.open(unescape(item.key))

        def fill(size: int) -> bytes:
            try:
                return os.read(descriptor, size)
            except OSError as error:
                raise ItemUnreadable(f"{self.root / item.key} can't be read: {error.strerror}.") from error

        try:
            with stream(fill) as opened:
                yield opened
        finally:
            os.close(descriptor)

    def probe(self) -> str:
        """One line about the folder. Raises SourceError when it can't be read."""
        return f"{self.root}: readable, entries at the top: {self._tree.check()}"

    def _item(self, entry: Entry, rule: str | None, started: int) -> Item:
        key, status = entry.key, entry.status
        folder = key.endswith("/")
        return Item(
            key=key,
            version="folder" if folder else self._version(status, started),
            name=escape(os.path.basename(entry.path)),
            uri=self.root.joinpath(entry.path).as_uri(),
            size=None if folder else status.st_size,
            modified=None if folder else _time(status.st_mtime_ns),
            excluded=rule,
        )

    def _version(self, status: os.stat_result, started: int) -> str:
        """Size and times of a file; equal versions mean equal bytes.

        Like git with its index, we can't trust times that are as young as the listing: a file written again within
        the same clock tick keeps its size and its times. Such a version is made unique, so that the next listing
        reads the file once more. ctime decides where the system sets it on every change (nobody can set it back); a
        young mtime counts as well, for file systems that only keep that one. An mtime in the far future proves
        nothing, or a file with a wrong date would be read again in every run.
        """
        version = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
        margin = self._racy_margin_ns
        if status.st_mtime_ns % _SECOND_NS == 0 and status.st_ctime_ns % _SECOND_NS == 0:
            margin = max(margin, _COARSE_MARGIN_NS)  # a file system that keeps whole seconds, or even ones (FAT)
        young = started - margin
        if status.st_ctime_ns >= young or young <= status.st_mtime_ns <= self._clock() + margin:
            return f"{version}-racy-{started}"
        return version


def _time(nanoseconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:  # file systems hold years that datetime doesn't
        return None
