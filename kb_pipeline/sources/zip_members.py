"""What a zip archive holds: its members and those of archives in it, each with the reason why it isn't to be read, if any.

What belongs here: judgement over the members of an archive that a source lists. What doesn't: what holds of every ZIP
file (``archives``); keys, patterns and files (local_zip.py). Nothing here trusts a size, a name or an offset.
"""

from __future__ import annotations

import io
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipInfo

from kb_pipeline.archives.zip_format import METHODS, DamagedMember, unpack
from kb_pipeline.archives.zip_guard import Problem, Refused, directory, extents, is_safe, original_name, path_of, problem_of
from kb_pipeline.sources.names import escape, numbered
from kb_pipeline.sources.streams import BLOCK
from kb_pipeline.statuses import Status

SEPARATOR = "!/"
"""Between an archive and a member, in keys and addresses."""

ARCHIVE = "archive"
"""The rule that leaves out an archive whose members are listed in its place."""

DEPTH = "depth"
"""The rule that leaves out an archive that lies too deep in others to be opened."""

_TOTAL_RATIO_FROM = 64 << 20  # bytes; below this all members together can't

ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class ZipLimits:
    """Bounds of one archive with all that is packed in it.

    ``members``: entries. ``unpacked``: bytes of all members together. ``ratio``: unpacked to packed bytes, for members
    above 8 MiB, and for all members together above 64 MiB. ``depth``: 1 opens no archive in an archive. ``nested``:
    bytes of an archive in an archive.
    """

    members: int
    unpacked: int
    ratio: int
    depth: int
    nested: int


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive.

    ``path``       with "/" between folders and after the archives on the way: what patterns see.
    ``end``        offset where something else begins: what lies there is none of this member's.
    ``holder``     key (below the outermost archive) of the archive it lies in, or "".
    ``container``  that archive as a member of its own, or None.
    """

    info: ZipInfo
    path: str
    end: int
    holder: str = ""
    container: Member | None = None
    excluded: str | None = None
    problem: Problem | None = None

    @property
    def readable(self) -> bool:
        """Whether its bytes are to be delivered."""
        return self.excluded is None and self.problem is None

    @property
    def version(self) -> str:
        """By the checksum, and the status: what was set aside for a bound or a password is read when that changes."""
        status = f" {self.problem[0].value}" if self.problem else ""
        return f"{self.info.CRC:08x}-{self.info.file_size}{status}"


def members(file: BinaryIO, limits: ZipLimits, rule: Callable[[str], str | None], scratch: Path | None) -> dict[str, Member]:
    """Members by unique name; those of an archive in the archive are named "<archive>!/<member>".

    ``rule(path)`` names the rule that leaves a member out. ``scratch``: the folder for archives while they are looked
    into. Raises Refused, and OSError when the file can't be read or the scratch folder can't be written.
    """
    walk = _Walk(limits, rule, scratch)
    walk.enter(file, "", None, 1)
    return walk.found


def unpacked(read_at: ReadAt, member: Member, scratch: Path | None) -> BinaryIO:
    """A member's bytes in an unnamed temporary file. Raises DamagedMember, and OSError when the file can't be written."""
    file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - it outlives this call
    try:
        fill = unpack(read_at, member.info, member.end)
        while data := fill(BLOCK):
            file.write(data)
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


class _Walk:
    """One archive and the archives in it, within one budget."""

    def __init__(self, limits: ZipLimits, rule: Callable[[str], str | None], scratch: Path | None) -> None:
        self.found: dict[str, Member] = {}
        self._limits = limits
        self._rule = rule
        self._scratch = scratch
        self._unpacked = 0

    def enter(self, file: BinaryIO, holder: str, container: Member | None, depth: int) -> None:
        """Take in the members of one archive. Raises Refused, with nothing taken in."""
        infos, start = directory(file, self._limits.members - len(self.found), f"max_members, {self._limits.members:,}")
        ends, shared = extents(infos, start)
        folder = f"{container.path}/" if container else ""
        judged: dict[str, Member] = {}
        for name, info in _named(infos).items():
            own = path_of(info)
            path = folder + own if folder else own
            excluded, problem = self._judge(info, own, path, depth, shared)
            judged[name] = Member(info, path, ends[id(info)], holder, container, excluded, problem)
        self._unpacked += self._total(judged, file.seek(0, io.SEEK_END))
        prefix = f"{holder}{SEPARATOR}" if holder else ""
        keys = {name: prefix + name for name in judged if prefix + name not in self.found}
        self.found.update((keys[name], judged[name]) for name in keys)
        for name in sorted(judged):
            if name not in keys:
                keys[name] = self._key(prefix + name)
                self.found[keys[name]] = judged[name]
            if judged[name].readable and _is_archive(judged[name].path):
                self.found[keys[name]] = self._open(file, keys[name], judged[name], depth)

    def _open(self, file: BinaryIO, key: str, member: Member, depth: int) -> Member:
        """Take in the members of an archive in the archive; returns it as the item it then is."""
        if depth >= self._limits.depth:
            return replace(member, excluded=DEPTH)
        if member.info.file_size > self._limits.nested:
            said = (
                f"an archive of {member.info.file_size:,} bytes in an archive; max_nested_bytes is {self._limits.nested:,}"
            )
            return replace(member, problem=(Status.TOO_LARGE, said))

        def read_at(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        try:
            with unpacked(read_at, member, self._scratch) as inner:
                self.enter(inner, key, member, depth + 1)
        except DamagedMember as error:
            return replace(member, problem=(Status.CORRUPT, str(error)))
        except Refused as refusal:
            return replace(member, problem=refusal.problem)
        return replace(member, excluded=ARCHIVE)

    def _judge(self, info: ZipInfo, own: str, path: str, depth: int, shared: set[int]) -> tuple[str | None, Problem | None]:
        """(rule that leaves a member out, what is wrong with it); ``own`` is its path in its own archive."""
        excluded: str | None = None
        problem: Problem | None = None
        if not is_safe(own):
            problem = Status.CORRUPT, "unsafe member path"
        elif _hidden(path):
            excluded = "hidden"
        elif stat.S_ISLNK(info.external_attr >> 16):
            excluded = "link"
        elif (rule := self._rule(path)) and not (rule == "include" and depth < self._limits.depth and _is_archive(path)):
            excluded = rule
        else:
            problem = problem_of(info, METHODS, shared, self._limits.ratio, "max_ratio")
        return excluded, problem

    def _total(self, judged: dict[str, Member], packed: int) -> int:
        """Bytes of the members to be read. Raises Refused."""
        total = sum(member.info.file_size for member in judged.values() if member.readable)
        if self._unpacked + total > self._limits.unpacked:
            said = f"members that claim to unpack to {self._unpacked + total:,} bytes together"
            raise Refused(Status.TOO_LARGE, f"{said}; max_unpacked_bytes is {self._limits.unpacked:,}")
        if total > _TOTAL_RATIO_FROM and total > self._limits.ratio * packed:
            said = f"{packed:,} bytes with members that claim to unpack to {total:,}"
            raise Refused(Status.TOO_LARGE, f"{said}; max_ratio is {self._limits.ratio}")
        return total

    def _key(self, name: str) -> str:
        """The name, or one with a number where a member of the archive around is named like one of an archive in it."""
        return numbered(name, self.found)


def _named(infos: list[ZipInfo]) -> dict[str, ZipInfo]:
    """Entries by unique name: of those with the same name, the later ones get "#2", "#3", ... Folders are left out."""
    found: dict[str, ZipInfo] = {}
    repeated: list[tuple[str, ZipInfo]] = []
    for info in infos:
        if info.file_size == 0 and original_name(info).endswith(("/", "\\")):
            continue
        name = escape(original_name(info)).replace("\0", "\\0")
        if name in found:
            repeated.append((name, info))
        else:
            found[name] = info
    counts: dict[str, int] = {}
    for name, info in repeated:
        number = counts.get(name, 1) + 1
        while f"{name}#{number}" in found:
            number += 1
        counts[name] = number
        found[f"{name}#{number}"] = info
    return found


def _is_archive(path: str) -> bool:
    return path.lower().endswith(".zip")


def _hidden(path: str) -> bool:
    return any(s == "__MACOSX" or (s[:1] == "." and s != ".") for s in path.split("/"))
