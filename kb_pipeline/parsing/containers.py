"""The ZIP files that documents are: Office Open XML, OpenDocument, EPUB.

What belongs here: the checks before any member is read, and the reading of members within bounds. What doesn't: what the
members mean. Nothing here trusts a size or a name; nothing is ever written to disk.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from collections.abc import Iterator

from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.signatures import OLE, encrypted_office
from kb_pipeline.statuses import Status

MAX_MEMBERS = 20_000
MAX_UNPACKED = 512 << 20
"""Bytes of all members together, and so of each."""

_RATIO = 400  # unpacked to packed; sheets of many equal cells reach 200, bombs 1,000
_RATIO_FROM = 8 << 20  # bytes; below this a bomb is harmless
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # the member, strongly, its header
_NO_MEMORY = "Error -4 "  # Z_MEM_ERROR
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


class Container:
    """A document's ZIP file that has passed the checks. ``what`` names it in messages, as in "The presentation"."""

    def __init__(self, data: bytes, what: str) -> None:
        """Check ``data``. Nothing is unpacked yet.

        Raises ParseError: ENCRYPTED, CORRUPT for what is no ZIP file or has a name that leads outside, TOO_LARGE for more
        members or bytes than any document has, or for a ratio that only bombs have, UNSUPPORTED for another packing than
        Deflate and for the formats of Office 97.
        """
        self._what = what
        if data.startswith(OLE):
            if encrypted_office(data):
                raise ParseError(Status.ENCRYPTED, f"{what} needs a password.")
            raise ParseError(Status.UNSUPPORTED, f"{what} is in the format of Office 97.")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            infos = self._zip.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError) as error:
            raise ParseError(Status.CORRUPT, f"{what} is not a whole ZIP file: {error}.") from None
        if len(infos) > MAX_MEMBERS:
            raise ParseError(Status.TOO_LARGE, f"{what} has {len(infos):,} members; the limit is {MAX_MEMBERS:,}.")
        total = sum(info.file_size for info in infos)
        if total > MAX_UNPACKED:
            raise ParseError(Status.TOO_LARGE, f"{what} unpacks to {total:,} bytes; the limit is {MAX_UNPACKED:,}.")
        if total > _RATIO_FROM and total > _RATIO * len(data):
            raise ParseError(Status.TOO_LARGE, f"{what} unpacks to {total / len(data):.0f} times its size.")
        for info in infos:
            if info.filename.startswith("/") or ".." in info.filename.split("/"):
                raise ParseError(Status.CORRUPT, f"{what} has a member whose name leads outside: {info.filename[:100]}")
            if info.flag_bits & _ENCRYPTED:
                raise ParseError(Status.ENCRYPTED, f"{what} needs a password.")
            if info.compress_type not in _METHODS:
                raise ParseError(Status.UNSUPPORTED, f"{what} is packed by a method that documents don't use.")
        self._infos = {info.filename: info for info in infos}

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def names(self) -> list[str]:
        """Return the names of the members, in the order of the directory."""
        return list(self._infos)

    def members(self) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
        """Yield every member that isn't a folder with its bytes, also several of one name. Raises ParseError(CORRUPT)."""
        for info in self._zip.infolist():
            if not info.is_dir():
                yield info, self._read(info)

    def read(self, name: str) -> bytes:
        """Return the bytes of a member. Raises ParseError(CORRUPT) when it isn't there or is damaged."""
        info = self._infos.get(name)
        if info is None:
            raise ParseError(Status.CORRUPT, f"{self._what} lacks its member {name[:200]}.")
        return self._read(info)

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        try:
            # No more is unpacked than the directory says.
            return self._zip.read(info)
        except zlib.error as error:
            # zlib takes a refusal of memory for an error like others.
            if str(error).startswith(_NO_MEMORY):
                raise MemoryError from None
            raise self._damaged(info.filename, error) from None
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise self._damaged(info.filename, error) from None

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
