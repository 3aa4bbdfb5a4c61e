"""The guard in front of every ZIP file: nothing here trusts a size, a name or an offset.

What belongs here: reading a directory within bounds, and what is wrong with an entry. What doesn't: unpacking
(``zip_format``), and what is done with a member that is refused.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Collection
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

from kb_pipeline.archives.zip_format import OVERLAP, SMALLEST_HEADER, directory_size
from kb_pipeline.statuses import Status

RATIO_FROM = 8 << 20
"""Bytes below which a member that unpacks to very many times its size is harmless; repetitive logs are packed as densely."""

_LARGEST_DIRECTORY = 64 << 20  # bytes of central directory that are parsed, about ten times as much in memory
_DRIVE = re.compile(r"[A-Za-z]:")
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # the member, strongly, its header

Problem = tuple[Status, str]


class Refused(Exception):
    """An archive is not opened: the status, and a sentence."""

    def __init__(self, status: Status, sentence: str) -> None:
        super().__init__(sentence)
        self.problem: Problem = status, sentence


def directory(file: BinaryIO, room: int, bound: str) -> tuple[list[ZipInfo], int]:
    """The entries of an archive, and the offset of its directory.

    Raises Refused (CORRUPT, or TOO_LARGE for more than ``room`` entries: ``bound`` says what they exceed), and OSError of
    the file itself.
    """
    try:
        entries, size = directory_size(file)
        if entries > room:
            raise Refused(Status.TOO_LARGE, f"{entries:,} members are more than {bound}")
        if size > _LARGEST_DIRECTORY:
            raise Refused(Status.TOO_LARGE, f"a directory of {size:,} bytes; the limit is {_LARGEST_DIRECTORY:,}")
        with ZipFile(file) as opened:
            infos, start = opened.infolist(), opened.start_dir
    except (BadZipFile, struct.error, ValueError, EOFError, NotImplementedError, OverflowError) as error:
        raise Refused(Status.CORRUPT, f"not a valid zip archive: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # zipfile seeks where a damaged archive points to, below zero too
            raise
        raise Refused(Status.CORRUPT, "not a valid zip archive") from error
    if len(infos) > room:
        raise Refused(Status.TOO_LARGE, f"{len(infos):,} members are more than {bound}")
    return infos, start


def extents(infos: list[ZipInfo], start: int) -> tuple[dict[int, int], set[int]]:
    """Where each member ends at the latest, and those that reach into another one, both by the ids of their entries.

    ``start``: offset of the directory. A member takes at least its header and its packed bytes. That its name and extra
    field end in time is seen when it is read: only then its header is.
    """
    ordered = sorted(infos, key=lambda info: info.header_offset)
    ends: dict[int, int] = {}
    shared: set[int] = set()
    reached, reaching = 0, 0
    for place, info in enumerate(ordered):
        following = ordered[place + 1].header_offset if place + 1 < len(ordered) else start
        end = info.header_offset + SMALLEST_HEADER + info.compress_size
        ends[id(info)] = min(following, start)
        if end > ends[id(info)]:
            shared.add(id(info))
        if info.header_offset < reached:
            shared.update((id(info), reaching))
        if end > reached:
            reached, reaching = end, id(info)
    return ends, shared


def original_name(info: ZipInfo) -> str:
    """The name as the archive has it; ``info.filename`` is what zipfile made of it: cut off at a NUL."""
    return info.orig_filename


def path_of(info: ZipInfo) -> str:
    """The path of a member: old tools write a backslash between folders."""
    return original_name(info).replace("\\", "/")


def is_safe(path: str) -> bool:
    """Whether the path of a member names a file below the archive's own root."""
    return not (
        path == ""
        or path.startswith("/")
        or path.endswith("/")
        or "\0" in path
        or _DRIVE.match(path)
        or ".." in path.split("/")
    )


def is_encrypted(info: ZipInfo) -> bool:
    """Whether a member needs a password."""
    return bool(info.flag_bits & _ENCRYPTED)


def problem_of(
    info: ZipInfo, methods: Collection[int], shared: Collection[int], ratio: int, bound: str = ""
) -> Problem | None:
    """What is wrong with an entry whose path is safe, if anything: its password, packing, place or density.

    ``methods``: the packings that are unpacked. ``shared``: of ``extents``. ``ratio``: unpacked to packed bytes, above
    RATIO_FROM; ``bound`` names the limit in the sentence.
    """
    if is_encrypted(info):
        return Status.ENCRYPTED, "the member needs a password"
    if info.compress_type not in methods:
        said = f"compression method {info.compress_type} is not supported: pack it again with deflate"
        return Status.UNSUPPORTED, said
    if id(info) in shared:
        return Status.CORRUPT, OVERLAP
    if info.file_size > RATIO_FROM and info.file_size > ratio * info.compress_size:
        claim = f"{info.compress_size:,} bytes that claim to unpack to {info.file_size:,}"
        return Status.TOO_LARGE, f"{claim}; {bound or 'the largest ratio'} is {ratio}"
    return None
