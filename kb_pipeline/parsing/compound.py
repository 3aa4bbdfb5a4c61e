"""OLE compound files (MS-CFB): the folders and streams in which Outlook keeps messages.

What belongs here: sectors, chains and the directory, read within the bounds of the file. What doesn't: what streams mean.
"""

from __future__ import annotations

import struct

from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.signatures import OLE
from kb_pipeline.statuses import Status

_HEADER = struct.Struct("<8x16xHHHHH6xIIIIIIIII")
_ENTRY_BYTES = 128
_LAST_SECTOR = 0xFFFFFFFA  # From here on numbers are marks: free, end of chain, allocation tables.
_NO_ENTRY = 0xFFFFFFFF
_STREAM, _ROOT = 2, 5
_HEAD_ENTRIES = 109
_MAX_DEPTH = 30


class CompoundFile:
    """The streams of a compound file by path, parts of which are joined with "/"."""

    def __init__(self, data: bytes, what: str) -> None:
        """Read the directory. ``what`` begins the message of ParseError(CORRUPT), as in "The message"."""
        self._data = data
        self._what = what
        if not data.startswith(OLE) or len(data) < 512:
            raise self._corrupt("it has no header")
        _, _, _, shift, mini_shift, *numbers = _HEADER.unpack_from(data)
        _, _, directory, _, self._cutoff, mini_table, _, more, more_count = numbers
        if shift not in (9, 12) or mini_shift != 6:
            raise self._corrupt("its sectors have no known size")
        self._sector_bytes = 1 << shift
        self._table: tuple[int, ...] = self._allocation(more, more_count)
        self._mini_table = self._numbers(self._chain(mini_table)) if mini_table < _LAST_SECTOR else ()
        entries = self._chain(directory)
        self._mini = b""
        self._streams: dict[str, tuple[int, int]] = {}
        self._read_directory(entries)

    def __contains__(self, path: str) -> bool:
        return path in self._streams

    def paths(self) -> list[str]:
        """Return the paths of all streams, in order."""
        return sorted(self._streams)

    def read(self, path: str) -> bytes:
        """Return the bytes of a stream. Raises KeyError where there is none, ParseError(CORRUPT) where it is damaged."""
        start, size = self._streams[path]
        if size >= self._cutoff:
            return self._chain(start)[:size]
        pieces: list[bytes] = []
        for sector in self._follow(start, self._mini_table):
            pieces.append(self._mini[sector * 64 : sector * 64 + 64])
        return b"".join(pieces)[:size]

    def _corrupt(self, why: str) -> ParseError:
        return ParseError(Status.CORRUPT, f"{self._what} is not a valid compound file: {why}.")

    def _allocation(self, more: int, count: int) -> tuple[int, ...]:
        """Return the allocation table, whose sectors are listed in the header and in a chain of further sectors."""
        sectors = list(struct.unpack_from(f"<{_HEAD_ENTRIES}I", self._data, 76))
        seen: set[int] = set()
        while more < _LAST_SECTOR and len(seen) < count:
            if more in seen:
                raise self._corrupt("a chain runs in a circle")
            seen.add(more)
            *listed, more = self._numbers(self._sector(more))
            sectors += listed
        used = [sector for sector in sectors if sector < _LAST_SECTOR]
        if len(used) > len(self._data) // self._sector_bytes:
            raise self._corrupt("its tables are larger than the file")
        return self._numbers(b"".join(map(self._sector, used)))

    def _sector(self, number: int) -> bytes:
        start = (number + 1) * self._sector_bytes
        found = self._data[start : start + self._sector_bytes]
        if not found:
            raise self._corrupt("a sector lies beyond its end")
        # The last one may be cut short.
        return found.ljust(self._sector_bytes, b"\0")

    def _numbers(self, data: bytes) -> tuple[int, ...]:
        return struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])

    def _follow(self, start: int, table: tuple[int, ...]) -> list[int]:
        chain: list[int] = []
        while start < _LAST_SECTOR:
            if start >= len(table) or len(chain) > len(table):
                raise self._corrupt("a chain runs in a circle or beyond its table")
            chain.append(start)
            start = table[start]
        return chain

    def _chain(self, start: int) -> bytes:
        return b"".join(map(self._sector, self._follow(start, self._table)))

    def _read_directory(self, entries: bytes) -> None:
        """Remember where each stream begins, by its path. Folders are trees of siblings."""
        count = len(entries) // _ENTRY_BYTES
        if not count or entries[66] != _ROOT:
            raise self._corrupt("it has no root")
        self._mini = self._chain(struct.unpack_from("<I", entries, 116)[0])
        stack = [(struct.unpack_from("<I", entries, 76)[0], "", 0)]
        seen: set[int] = set()
        while stack:
            number, folder, depth = stack.pop()
            if number == _NO_ENTRY:
                continue
            if number >= count or number in seen or depth > _MAX_DEPTH:
                raise self._corrupt("its directory runs in a circle, too deep, or beyond its end")
            seen.add(number)
            entry = entries[number * _ENTRY_BYTES : (number + 1) * _ENTRY_BYTES]
            length, kind, left, right, below = struct.unpack_from("<HBxIII", entry, 64)
            path = folder + entry[: max(length - 2, 0)][:64].decode("utf-16-le", "replace").replace("/", "_")
            if kind == _STREAM:
                start, size = struct.unpack_from("<II", entry, 116)
                self._streams[path] = (start, size)
            else:
                stack.append((below, f"{path}/", depth + 1))
            stack += [(left, folder, depth), (right, folder, depth)]
