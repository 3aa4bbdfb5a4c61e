"""The source type local_zip: the members of zip archives, read in place and never extracted.

What belongs here: which archives and members are listed, as what, and in which order. What doesn't: the bytes of the
format (zip_format.py). Archives are of unknown origin: nothing here trusts a size, a name or a checksum in them.
"""

from __future__ import annotations

import errno
import heapq
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar
from urllib.parse import quote
from zipfile import BadZipFile, ZipFile, ZipInfo

from pydantic import Field, field_validator

from kb_pipeline.sources.base import (
    Item,
    ItemCorrupt,
    ItemEncrypted,
    ItemUnreadable,
    ItemVanished,
    ListingFailed,
    SourceConfig,
    SourceContext,
)
from kb_pipeline.sources.globs import Globs, has_wildcard, normalise
from kb_pipeline.sources.names import escape, unescape
from kb_pipeline.sources.streams import stream
from kb_pipeline.sources.tree import Tree
from kb_pipeline.sources.zip_format import directory_size, unpack
from kb_pipeline.statuses import Status

MAX_MEMBERS = 100_000
"""Members of one archive; an archive with more is one item with the problem "too_large"."""

_LARGEST_DIRECTORY = 64 << 20  # bytes of central directory that are parsed, about ten times as much in memory
_LARGEST_RATIO = 200  # unpacked to packed; text reaches 20
_RATIO_FROM = 8 << 20  # bytes; below this a bomb is harmless
_SEPARATOR = "!/"
_DRIVE = re.compile(r"[A-Za-z]:")
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # the member, strongly, its header


class LocalZipConfig(SourceConfig):
    """Settings of a local_zip connection."""

    path: str = Field(min_length=1, description="An archive, or a pattern of archives, relative to kb.yaml.")
    include: tuple[str, ...] = Field(
        default=("**",), min_length=1, description="Patterns of the members to take, by their path in the archive."
    )
    exclude: tuple[str, ...] = Field(default=(), description="Patterns of the members to leave out.")

    @field_validator("include", "exclude")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            normalise(pattern)
        return patterns


@dataclass(frozen=True, slots=True)
class _Archive:
    """What was read of an archive: its members by key, or the one item that says why there are none."""

    stamp: tuple[int, ...]
    members: dict[str, ZipInfo]
    problem: tuple[Status, str] | None = None


class LocalZip:
    """Members of zip archives. The key of an item is "<archive>!/<member>", the archive relative to its folder."""

    Config: ClassVar[type[SourceConfig]] = LocalZipConfig

    def __init__(self, config: SourceConfig, context: SourceContext) -> None:
        if not isinstance(config, LocalZipConfig):
            raise TypeError(f"LocalZip needs a LocalZipConfig, not {type(config).__name__}")
        path = os.path.abspath(context.base / os.path.expanduser(config.path))
        self.folder, self.pattern = _split(path)
        self._include = Globs(config.include)
        self._exclude = Globs(config.exclude)
        segments = self.pattern.split("/")
        self._archives = Globs([self.pattern])
        self._tree = Tree(
            self.folder,
            hidden=any(segment.startswith(".") for segment in segments),
            depth=None if "**" in segments else len(segments),
            outside=context.storage,
            advice="narrow the connection's path",
        )
        self._latest: tuple[str, _Archive] | None = None
        self._lock = threading.Lock()

    def list(self) -> Iterator[Item]:
        """Yield the members of all archives in ascending order of key; a file that is no archive is one bad item.

        Raises ListingFailed when the folder is missing or an archive can't be read.
        """
        waiting: list[tuple[str, int, Item, Iterator[Item]]] = []
        last = ""
        # Every key of an archive begins with the archive's own, but keys of "a" and "a b" interleave ("a b!" comes
        # before "a!"): an archive's items wait until no archive that is still to come can have a smaller one.
        for number, (archive, rule) in enumerate([*self._find(), (None, None)]):
            while waiting and (archive is None or waiting[0][0] < archive):
                key, position, item, rest = waiting[0]
                if key <= last:
                    raise ListingFailed(f'Two members have the key "{key}": rename one of their archives.')
                last = key
                yield item
                following = next(rest, None)
                if following is None:
                    heapq.heappop(waiting)
                else:
                    heapq.heapreplace(waiting, (following.key, position, following, rest))
            if archive is not None:
                items = self._items(archive, rule)
                first = next(items, None)
                if first is not None:
                    heapq.heappush(waiting, (first.key, number, first, items))

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        """Open a member. Raises ItemVanished, ItemUnreadable, ItemCorrupt or ItemEncrypted, also while reading."""
        if item.parent is None:
            raise ItemCorrupt(item.problem_detail or "not a member of an archive")
        descriptor = self._tree.open(unescape(item.parent))
        try:
            stamp = _stamp(os.fstat(descriptor))
            info = self._member(descriptor, stamp, item)

            def read_at(offset: int, size: int) -> bytes:
                try:
                    return os.pread(descriptor, size, offset)
                except OSError as error:
                    raise ItemUnreadable(f"{item.parent} can't be read: {error.strerror}.") from error

            def guard(error: ItemCorrupt) -> Exception:
                if _stamp(os.fstat(descriptor)) != stamp:
                    return ItemUnreadable(f"{item.parent} changed while it was read.")
                return ItemCorrupt(f"{item.key}: {error}")

            try:
                unpacked = unpack(read_at, info)
            except ItemCorrupt as error:
                raise guard(error) from error

            def fill(size: int) -> bytes:
                try:
                    return unpacked(size)
                except ItemCorrupt as error:
                    raise guard(error) from error

            with stream(fill) as opened:
                yield opened
        finally:
            os.close(descriptor)

    def probe(self) -> str:
        """One line about the archives. Raises SourceError when the folder can't be read."""
        return f"{self.folder}: readable, archives that match {self.pattern}: {len(self._find())}"

    def _find(self) -> Sequence[tuple[str, str | None]]:
        """Archives (key, rule that leaves it out), sorted by key."""
        found = []
        for entry in self._tree.walk():
            if not entry.key.endswith("/") and self._archives.matches(entry.key) and entry.rule != "hidden":
                found.append((entry.key, entry.rule))
        if not found and not has_wildcard(self.pattern):
            raise ListingFailed(f"The archive {self.folder / self.pattern} doesn't exist: correct the connection's path.")
        return sorted(found)

    def _items(self, archive: str, rule: str | None) -> Iterator[Item]:
        path = self.folder / unescape(archive)
        if rule is not None:
            yield self._archive_item(archive, path, "", excluded=rule)
            return
        try:
            descriptor = self._tree.open(unescape(archive))
        except ItemVanished as error:
            # Deleted since the walk, or its drive went away: only a new walk can tell.
            raise ListingFailed(f"{path} went away while it was listed: list it again.") from error
        except ItemUnreadable as error:
            raise ListingFailed(f"{error} Grant access to it, or narrow the connection's path.") from error
        try:
            opened = _open(descriptor)
        except OSError as error:
            raise ListingFailed(f"{path} can't be read: {error.strerror}.") from error
        finally:
            os.close(descriptor)
        if opened.problem is not None:
            version = "-".join(map(str, opened.stamp))
            yield self._archive_item(archive, path, version, problem=opened.problem)
            return
        for name in sorted(opened.members):
            yield self._member_item(archive, path, name, opened.members[name])

    def _archive_item(
        self,
        archive: str,
        path: Path,
        version: str,
        *,
        excluded: str | None = None,
        problem: tuple[Status, str] | None = None,
    ) -> Item:
        return Item(
            key=archive,
            version=version,
            name=archive.rpartition("/")[2],
            uri=path.as_uri(),
            excluded=excluded,
            problem=problem[0] if problem else None,
            problem_detail=problem[1] if problem else "",
        )

    def _member_item(self, archive: str, path: Path, name: str, info: ZipInfo) -> Item:
        # Old tools write "\" between folders; the key keeps it, everything else sees a path.
        member = _original(info).replace("\\", "/")
        problem: tuple[Status, str] | None = None
        excluded: str | None = None
        if not _safe(member):
            problem = Status.CORRUPT, "unsafe member path"
        elif _hidden(member):
            excluded = "hidden"
        elif stat.S_ISLNK(info.external_attr >> 16):
            excluded = "link"
        elif self._exclude.matches(member):
            excluded = "exclude"
        elif not self._include.matches(member):
            excluded = "include"
        elif info.flag_bits & _ENCRYPTED:
            problem = Status.ENCRYPTED, "the member needs a password"
        elif info.file_size > _RATIO_FROM and info.file_size > _LARGEST_RATIO * info.compress_size:
            problem = Status.TOO_LARGE, f"{info.compress_size} bytes that claim to unpack to {info.file_size}"
        return Item(
            key=archive + _SEPARATOR + name,
            version=_version(info),
            name=member.rpartition("/")[2].replace("\0", "\\0"),
            uri=f"zip://{quote(path.as_posix(), errors='surrogateescape')}{_SEPARATOR}{quote(name)}",
            size=info.file_size,
            parent=archive,
            excluded=excluded,
            problem=problem[0] if problem else None,
            problem_detail=problem[1] if problem else "",
        )

    def _member(self, descriptor: int, stamp: tuple[int, ...], item: Item) -> ZipInfo:
        archive = item.parent or ""
        with self._lock:
            # Members are read archive by archive: the latest directory is enough, and the memory is bounded.
            if self._latest is None or self._latest[0] != archive or self._latest[1].stamp != stamp:
                try:
                    self._latest = archive, _open(descriptor)
                except OSError as error:
                    raise ItemUnreadable(f"{archive} can't be read: {error.strerror}.") from error
            info = self._latest[1].members.get(item.key.removeprefix(archive + _SEPARATOR))
        if info is None or _version(info) != item.version:
            raise ItemVanished(f"{archive} changed since it was listed.")
        if info.flag_bits & _ENCRYPTED:
            raise ItemEncrypted(f"{item.key} needs a password.")
        return info


def _split(path: str) -> tuple[Path, str]:
    """The folder before the first pattern, and the rest. A file of exactly this name is no pattern."""
    whole = Path(path)
    if os.path.isfile(path):
        return whole.parent, re.sub(r"([*?[])", r"[\1]", escape(whole.name))
    parts = whole.parts
    first = next((i for i, part in enumerate(parts) if i and has_wildcard(part)), len(parts) - 1)
    return Path(*parts[:first]), "/".join(parts[first:])


def _open(descriptor: int) -> _Archive:
    """Read the central directory. Raises OSError when the file can't be read."""
    stamp = _stamp(os.fstat(descriptor))
    with os.fdopen(os.dup(descriptor), "rb") as file:
        try:
            entries, size = directory_size(file)
            if entries > MAX_MEMBERS or size > _LARGEST_DIRECTORY:
                return _Archive(stamp, {}, (Status.TOO_LARGE, f"{entries} members, more than {MAX_MEMBERS}"))
            with ZipFile(file) as opened:
                infos = opened.infolist()
        except OSError as error:
            if error.errno != errno.EINVAL:  # zipfile seeks where a damaged archive points to, below zero too
                raise
            return _Archive(stamp, {}, (Status.CORRUPT, "not a valid zip archive"))
        except (BadZipFile, struct.error, ValueError, EOFError, NotImplementedError, OverflowError) as error:
            return _Archive(stamp, {}, (Status.CORRUPT, f"not a valid zip archive: {error}"))
    if len(infos) > MAX_MEMBERS:
        return _Archive(stamp, {}, (Status.TOO_LARGE, f"{len(infos)} members, more than {MAX_MEMBERS}"))
    if sum(info.compress_size for info in infos) > stamp[2]:
        return _Archive(stamp, {}, (Status.TOO_LARGE, "members that share their bytes, as in a zip bomb"))
    return _Archive(stamp, _named(infos))


def _named(infos: list[ZipInfo]) -> dict[str, ZipInfo]:
    """Members by unique name: of members with the same name, the later ones get "#2", "#3", ..."""
    members: dict[str, ZipInfo] = {}
    repeated: list[tuple[str, ZipInfo]] = []
    for info in infos:
        if info.file_size == 0 and _original(info).endswith(("/", "\\")):
            continue
        name = escape(_original(info)).replace("\0", "\\0")
        if name in members:
            repeated.append((name, info))
        else:
            members[name] = info
    counts: dict[str, int] = {}
    for name, info in repeated:
        number = counts.get(name, 1) + 1
        while f"{name}#{number}" in members:
            number += 1
        counts[name] = number
        members[f"{name}#{number}"] = info
    return members


def _original(info: ZipInfo) -> str:
    return info.orig_filename  # filename is what zipfile made of it: cut off at a NUL


def _safe(member: str) -> bool:
    return not (
        member == ""
        or member.startswith("/")
        or member.endswith("/")
        or "\0" in member
        or _DRIVE.match(member)
        or ".." in member.split("/")
    )


def _hidden(member: str) -> bool:
    return any(s == "__MACOSX" or (s.startswith(".") and s != ".") for s in member.split("/"))


def _version(info: ZipInfo) -> str:
    return f"{info.CRC:08x}-{info.file_size}"


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
