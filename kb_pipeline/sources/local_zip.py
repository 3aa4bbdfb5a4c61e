"""The source type local_zip: the members of zip archives, read in place and never extracted.

What belongs here: which archives and members are listed, under which key, and in which order. What doesn't: which
members are safe to read (zip_members.py), the bytes of the format (``archives``).
"""

from __future__ import annotations

import heapq
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar
from urllib.parse import quote

from pydantic import Field, field_validator

from kb_pipeline.archives.zip_format import DamagedMember, unpack
from kb_pipeline.archives.zip_guard import Problem, Refused
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
from kb_pipeline.sources.zip_members import SEPARATOR, Member, ZipLimits, members, unpacked
from kb_pipeline.statuses import Status

_KEPT_MEMBERS = 50_000  # about 45 MB
_YOUNG_NS = 2_000_000_000

_OPEN_NESTED = 2
"""Archives in archives that stay unpacked while their members are read, one after the other in the order of keys."""


class LocalZipConfig(SourceConfig):
    """Settings of a local_zip connection."""

    path: str = Field(min_length=1, description="An archive, or a pattern of archives, relative to kb.yaml.")
    include: tuple[str, ...] = Field(
        default=("**",), min_length=1, description="Patterns of the members to take, by their path in the archive."
    )
    exclude: tuple[str, ...] = Field(default=(), description="Patterns of the members to leave out.")
    max_members: int = Field(default=100_000, ge=1, le=10_000_000, description="Members of one archive.")
    max_unpacked_bytes: int = Field(default=16 << 30, ge=1, description="Bytes of one archive's members together.")
    max_ratio: int = Field(default=200, ge=1, le=100_000, description="Unpacked to packed bytes, above 8 MiB.")
    max_depth: int = Field(default=2, ge=1, le=8, description="Archives within each other; 1 opens none in an archive.")
    max_nested_bytes: int = Field(default=256 << 20, ge=1, description="Bytes of an archive in an archive.")

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
    members: dict[str, Member]
    problem: Problem | None = None


class _LookedInto:
    """Archives with archives in them, as they were found last: a sensor lists them every few seconds.

    Bounded by their members together. An archive that has just changed may change again within one tick of the file
    system's clock, and look the same: it is not kept.
    """

    def __init__(self) -> None:
        self._archives: OrderedDict[tuple[object, ...], _Archive] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, known: tuple[object, ...]) -> _Archive | None:
        """The archive under this stamp and these settings, if it is kept."""
        with self._lock:
            return self._archives.get(known)

    def put(self, known: tuple[object, ...], archive: _Archive) -> None:
        """Keep an archive, instead of those that were kept first."""
        if time.time_ns() - max(archive.stamp[-2:]) < _YOUNG_NS:
            return
        with self._lock:
            self._archives[known] = archive
            while sum(len(each.members) for each in self._archives.values()) > _KEPT_MEMBERS:
                self._archives.popitem(last=False)


_LOOKED_INTO = _LookedInto()


class LocalZip:
    """Members of zip archives. The key of an item is "<archive>!/<member>", the archive relative to its folder.

    An archive in an archive is left out by the rule "archive", and its members are "<archive>!/<member>!/<inner>".
    """

    Config: ClassVar[type[SourceConfig]] = LocalZipConfig

    def __init__(self, config: SourceConfig, context: SourceContext) -> None:
        if not isinstance(config, LocalZipConfig):
            raise TypeError(f"LocalZip needs a LocalZipConfig, not {type(config).__name__}")
        path = os.path.abspath(context.base / os.path.expanduser(config.path))
        self.folder, self.pattern = _split(path)
        self._include = Globs(config.include)
        self._exclude = Globs(config.exclude)
        self._patterns = config.include, config.exclude
        segments = self.pattern.split("/")
        self._archives = Globs([self.pattern])
        self._tree = Tree(
            self.folder,
            hidden=any(segment.startswith(".") for segment in segments),
            depth=None if "**" in segments else len(segments),
            outside=context.storage,
            advice="narrow the connection's path",
        )
        self._limits = ZipLimits(
            members=config.max_members,
            unpacked=config.max_unpacked_bytes,
            ratio=config.max_ratio,
            depth=config.max_depth,
            nested=config.max_nested_bytes,
        )
        self._storage = context.storage
        self._latest: tuple[str, _Archive] | None = None
        self._nested: OrderedDict[tuple[object, ...], BinaryIO] = OrderedDict()
        self._lock = threading.Lock()
        self._nested_lock = threading.Lock()

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
        archive, descriptor, stamp, member = self._find_member(item.parent, item)

        def guard(error: DamagedMember) -> Exception:
            if _stamp(os.fstat(descriptor)) != stamp:
                return ItemUnreadable(f"{archive} changed while it was read.")
            return ItemCorrupt(f"{item.key}: {error}")

        holder = -1
        try:
            try:
                holder = self._holder(archive, descriptor, stamp, member)
                unpack_more = unpack(_reader(holder, archive), member.info, member.end)
            except DamagedMember as error:
                raise guard(error) from error

            def fill(size: int) -> bytes:
                try:
                    return unpack_more(size)
                except DamagedMember as error:
                    raise guard(error) from error

            with stream(fill) as opened:
                yield opened
        finally:
            if holder >= 0:
                os.close(holder)
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
            opened = self._open(descriptor)
            changed = _stamp(os.fstat(descriptor)) != opened.stamp
        except OSError as error:
            raise ListingFailed(f"{path} can't be read: {error.strerror}.") from error
        finally:
            os.close(descriptor)
        if changed:
            raise ListingFailed(f"{path} changed while it was listed: list it again.")
        if opened.problem is not None:
            version = "-".join(map(str, opened.stamp))
            yield self._archive_item(archive, path, version, problem=opened.problem)
            return
        uri = f"zip://{quote(path.as_posix(), errors='surrogateescape')}{SEPARATOR}"
        for name in sorted(opened.members):
            yield self._member_item(archive, uri, name, opened.members[name])

    def _archive_item(
        self,
        archive: str,
        path: Path,
        version: str,
        *,
        excluded: str | None = None,
        problem: Problem | None = None,
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

    def _member_item(self, archive: str, uri: str, name: str, member: Member) -> Item:
        size = member.info.file_size
        return Item(
            key=archive + SEPARATOR + name,
            version=member.version,
            name=member.path.rpartition("/")[2].replace("\0", "\\0"),
            uri=uri + _quoted(name),
            size=size if size < 1 << 63 else None,  # a claim that no table can hold
            parent=archive + (SEPARATOR + member.holder if member.holder else ""),
            excluded=member.excluded,
            problem=member.problem[0] if member.problem else None,
            problem_detail=member.problem[1] if member.problem else "",
        )

    def _rule(self, path: str) -> str | None:
        if self._exclude.matches(path):
            return "exclude"
        return None if self._include.matches(path) else "include"

    def _scratch(self) -> Path | None:
        """Where archives in archives are unpacked: a disk that has room for tables, rather than memory."""
        return self._storage if self._storage.is_dir() else None

    def _open(self, descriptor: int) -> _Archive:
        """Read the directory, and those of archives in the archive. Raises OSError when that can't be done."""
        stamp = _stamp(os.fstat(descriptor))
        known = stamp, self._limits, self._patterns
        if (found := _LOOKED_INTO.get(known)) is not None:
            return found
        with os.fdopen(os.dup(descriptor), "rb") as file:
            try:
                found = _Archive(stamp, members(file, self._limits, self._rule, self._scratch()))
            except Refused as refusal:
                return _Archive(stamp, {}, refusal.problem)
        if any(member.container is not None for member in found.members.values()):
            _LOOKED_INTO.put(known, found)
        return found

    def _find_member(self, parent: str, item: Item) -> tuple[str, int, tuple[int, ...], Member]:
        """(archive, its descriptor, its stamp, the member) of a listed item; the descriptor is for the caller to close.

        A parent "a.zip!/b.zip" is b.zip in a folder "a.zip!", or in the archive a.zip: what is there decides.
        """
        unreadable = ""
        archive = parent
        while archive:
            try:
                descriptor = self._tree.open(unescape(archive))
            except (ItemVanished, ItemUnreadable) as error:
                # The message and not the error: kept in a variable it would keep what the reader holds, in a circle.
                unreadable = unreadable or (str(error) if isinstance(error, ItemUnreadable) else "")
            else:
                try:
                    stamp = _stamp(os.fstat(descriptor))
                    member = self._member(descriptor, archive, stamp, item)
                    if member is not None:
                        return archive, descriptor, stamp, member
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
            archive = archive.rpartition(SEPARATOR)[0]
        if unreadable:
            raise ItemUnreadable(unreadable)
        raise ItemVanished(f"{self.folder / unescape(parent)} changed since it was listed, or no longer exists.")

    def _member(self, descriptor: int, archive: str, stamp: tuple[int, ...], item: Item) -> Member | None:
        with self._lock:
            # Members are read archive by archive: the latest directory is enough, and the memory is bounded.
            if self._latest is None or self._latest[0] != archive or self._latest[1].stamp != stamp:
                try:
                    self._latest = archive, self._open(descriptor)
                except OSError as error:
                    raise ItemUnreadable(f"{archive} can't be read: {error.strerror}.") from error
            member = self._latest[1].members.get(item.key.removeprefix(archive + SEPARATOR))
        if member is None or member.version != item.version:
            return None
        if member.problem is not None:
            kind = ItemEncrypted if member.problem[0] is Status.ENCRYPTED else ItemCorrupt
            raise kind(f"{item.key}: {member.problem[1]}.")
        return member

    def _holder(self, archive: str, descriptor: int, stamp: tuple[int, ...], member: Member) -> int:
        """A descriptor of the file whose bytes hold the member, for the caller to close: archive or unpacked inner one.

        Raises DamagedMember and ItemUnreadable.
        """
        if member.container is None:
            return os.dup(descriptor)
        with self._nested_lock:
            known = archive, stamp, member.holder
            file = self._nested.get(known)
            if file is None:
                around = self._holder_around(archive, descriptor, member.container)
                try:
                    file = unpacked(_reader(around, archive), member.container, self._scratch())
                except OSError as error:
                    raise ItemUnreadable(f"{archive}!/{member.holder} can't be unpacked: {error.strerror}.") from error
                finally:
                    os.close(around)
                self._nested[known] = file
            self._nested.move_to_end(known)
            # Readers hold descriptors of their own, so that closing this one takes nothing from them.
            while len(self._nested) > _OPEN_NESTED:
                self._nested.popitem(last=False)[1].close()
            return os.dup(file.fileno())

    def _holder_around(self, archive: str, descriptor: int, container: Member) -> int:
        """The same for an archive in the archive, unpacking as many as lie around it, and keeping none."""
        if container.container is None:
            return os.dup(descriptor)
        around = self._holder_around(archive, descriptor, container.container)
        try:
            with unpacked(_reader(around, archive), container.container, self._scratch()) as file:
                return os.dup(file.fileno())
        except OSError as error:
            raise ItemUnreadable(f"{archive}!/{container.holder} can't be unpacked: {error.strerror}.") from error
        finally:
            os.close(around)


def _reader(descriptor: int, archive: str) -> Callable[[int, int], bytes]:
    def read_at(offset: int, size: int) -> bytes:
        try:
            return os.pread(descriptor, size, offset)
        except OSError as error:
            raise ItemUnreadable(f"{archive} can't be read: {error.strerror}.") from error

    return read_at


def _quoted(name: str) -> str:
    return SEPARATOR.join(map(quote, name.split(SEPARATOR))) if SEPARATOR in name else quote(name)


def _split(path: str) -> tuple[Path, str]:
    """The folder before the first pattern, and the rest. A file of exactly this name is no pattern."""
    whole = Path(path)
    if os.path.isfile(path):
        return whole.parent, re.sub(r"([*?[])", r"[\1]", escape(whole.name))
    parts = whole.parts
    first = next((i for i, part in enumerate(parts) if i and has_wildcard(part)), len(parts) - 1)
    return Path(*parts[:first]), "/".join(parts[first:])


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
