"""The ZIP files that documents are: Office Open XML, OpenDocument, EPUB.

What belongs here: what a document's ZIP file may be, and reading its members. What doesn't: the guard in front of every
ZIP file (``archives``), what the members mean. Nothing is ever written to disk.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator

from kb_pipeline.archives.zip_format import DamagedMember, unpack
from kb_pipeline.archives.zip_guard import (
    RATIO_FROM,
    Refused,
    directory,
    extents,
    is_encrypted,
    is_safe,
    path_of,
    problem_of,
)
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.signatures import OLE, encrypted_office
from kb_pipeline.statuses import Status

MAX_MEMBERS = 20_000
MAX_UNPACKED = 512 << 20
"""Bytes of all members together, and so of each."""

_RATIO = 400  # unpacked to packed; sheets of many equal cells reach 200, bombs 1,000
_BLOCK = 1 << 20  # bytes unpacked at a time
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


class Container:
    """A document's ZIP file that has passed the checks. ``what`` names it in messages, as in "The presentation"."""

    def __init__(self, data: bytes, what: str) -> None:
        """Check ``data``. Nothing is unpacked yet.

        Raises ParseError: ENCRYPTED, CORRUPT for what is no ZIP file, has a name that leads outside or members whose bytes
        overlap, TOO_LARGE for more members or bytes than any document has, or for a ratio that only bombs have, UNSUPPORTED
        for another packing than Deflate and for the formats of Office 97.
        """
        self._what = what
        if data.startswith(OLE):
            if encrypted_office(data):
                raise ParseError(Status.ENCRYPTED, f"{what} needs a password.")
            raise ParseError(Status.UNSUPPORTED, f"{what} is in the format of Office 97.")
        self._data = data
        try:
            infos, start = directory(io.BytesIO(data), MAX_MEMBERS, f"the limit, {MAX_MEMBERS:,}")
        except Refused as refusal:
            raise ParseError(refusal.problem[0], f"{what} is not opened: {refusal}.") from None
        total = sum(info.file_size for info in infos)
        if total > MAX_UNPACKED:
            raise ParseError(Status.TOO_LARGE, f"{what} unpacks to {total:,} bytes; the limit is {MAX_UNPACKED:,}.")
        if total > RATIO_FROM and total > _RATIO * len(data):
            raise ParseError(Status.TOO_LARGE, f"{what} unpacks to {total / len(data):.0f} times its size.")
        self._ends, shared = extents(infos, start)
        for info in infos:
            self._check(info, shared)
        self._members = infos
        self._infos = {info.filename: info for info in infos}

    def _check(self, info: zipfile.ZipInfo, shared: set[int]) -> None:
        path = path_of(info)
        if not is_safe(path.rstrip("/") if info.is_dir() else path):
            raise ParseError(Status.CORRUPT, f"{self._what} has a member whose name leads outside: {path[:100]}")
        if is_encrypted(info):
            raise ParseError(Status.ENCRYPTED, f"{self._what} needs a password.")
        if problem := problem_of(info, _METHODS, shared, _RATIO):
            raise ParseError(problem[0], f"{self._what} has a member that is not opened, {path[:100]}: {problem[1]}.")

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def names(self) -> list[str]:
        """Return the names of the members, in the order of the directory."""
        return list(self._infos)

    def members(self) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
        """Yield every member that isn't a folder with its bytes, also several of one name. Raises ParseError(CORRUPT)."""
        for info in self._members:
            if not info.is_dir():
                yield info, self._read(info)

    def read(self, name: str) -> bytes:
        """Return the bytes of a member. Raises ParseError(CORRUPT) when it isn't there or is damaged."""
        info = self._infos.get(name)
        if info is None:
            raise ParseError(Status.CORRUPT, f"{self._what} lacks its member {name[:200]}.")
        return self._read(info)

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        def read_at(offset: int, size: int) -> bytes:
            return self._data[offset : offset + size]

        parts = []
        try:
            # No more is unpacked than the directory says.
            fill = unpack(read_at, info, self._ends[id(info)])
            while part := fill(_BLOCK):
                parts.append(part)
        except DamagedMember as error:
            raise self._damaged(info.filename, error) from None
        return b"".join(parts)

    def read_if_there(self, name: str) -> bytes | None:
        """Return the bytes of a member, or None when it isn't there. Raises ParseError(CORRUPT) when it is damaged."""
        return self.read(name) if name in self._infos else None

    def _damaged(self, name: str, error: Exception) -> ParseError:
        return ParseError(Status.CORRUPT, f"{self._what} has a damaged member {name[:200]}: {error}.")


def resolve(base: str, target: str) -> str:
    """Return the name of the member that ``target``, written in the member ``base``, refers to."""
    path = target.partition("#")[0]
    joined = path if path.startswith("/") else posixpath.join(posixpath.dirname(base), path)
    return posixpath.normpath(joined).lstrip("/")
