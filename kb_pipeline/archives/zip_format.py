"""What zipfile doesn't do for archives of unknown origin: bounds before parsing, bounds while unpacking.

What belongs here: the size of a central directory, and the bytes of one member, as a stream bounded in memory. What
doesn't: which members are listed and how.
"""

from __future__ import annotations

import bz2
import lzma
import os
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, BadZipFile, ZipInfo

_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s22x2H")
_CHUNK = 1 << 16

SMALLEST_HEADER = _LOCAL.size
"""Bytes of the header before a member's packed bytes, without its name and extra field."""

OVERLAP = "its bytes overlap another member's or the directory's, as in a zip bomb"
"""What is said of a member whose bytes aren't its own."""

METHODS = frozenset({ZIP_STORED, ZIP_DEFLATED, ZIP_BZIP2, ZIP_LZMA})
"""The compression methods that ``unpack`` knows."""

_LARGEST_DICTIONARY = 64 << 20  # bytes an LZMA member may make us allocate
_NO_MEMORY = "Error -4 "  # Z_MEM_ERROR


class DamagedMember(Exception):
    """A member's bytes are provably not what the archive declares."""


def directory_size(file: BinaryIO) -> tuple[int, int]:
    """Number of entries and bytes of the central directory, as the archive declares them, without reading it.

    Raises BadZipFile when the file has no end record: it is no zip archive, or it was cut off.
    """
    length = file.seek(0, os.SEEK_END)
    start = max(0, length - _END.size - 0xFFFF)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise BadZipFile("no end of central directory")
    _, _, _, _, entries, size, offset, _ = _END.unpack_from(tail, at)
    locator = at - _LOCATOR_64.size
    if 0xFFFF in (entries,) or 0xFFFFFFFF in (size, offset):
        if locator < 0 or not tail.startswith(b"PK\x06\x07", locator):
            return entries, size
        position = _LOCATOR_64.unpack_from(tail, locator)[2]
        # Where bytes stand before the archive, the record lies right before its locator instead.
        for candidate in (position, start + locator - _END_64.size):
            if 0 <= candidate <= length - _END_64.size:
                file.seek(candidate)
                record = _END_64.unpack(file.read(_END_64.size))
                if record[0] == b"PK\x06\x06":
                    return record[7], record[8]
        raise BadZipFile("no zip64 end of central directory")
    return entries, size


def unpack(read_at: Callable[[int, int], bytes], info: ZipInfo, end: int) -> Callable[[int], bytes]:
    """A function that delivers the next 1 to n bytes of a member, or b"" at its end.

    ``read_at(offset, size)`` reads the archive; from ``end`` on nothing in it is the member's. The function raises
    DamagedMember as soon as there are more bytes than the archive declares, and at the end when there are fewer or their
    checksum is wrong. It never holds more than n bytes unpacked, whatever the member's compression.
    """
    source = _Compressed(read_at, info, end)
    unpacker = _unpacker(info, source)
    left, checksum, done = info.file_size, 0, False

    def fill(size: int) -> bytes:
        nonlocal left, checksum, done
        if done:
            return b""
        try:
            # At the end one byte more than declared is asked for, to see that there is none.
            data = unpacker.read(max(1, min(size, left)))
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
            # zlib takes a refusal of memory for an error like others.
            if isinstance(error, zlib.error) and str(error).startswith(_NO_MEMORY):
                raise MemoryError from None
            raise DamagedMember(f"damaged compressed data: {error}") from error
        if len(data) > left:
            raise DamagedMember(f"more than the declared {info.file_size} bytes")
        left -= len(data)
        checksum = zlib.crc32(data, checksum)
        if not data:
            done = True
            if left:
                raise DamagedMember(f"{left} of the declared {info.file_size} bytes are missing")
            if checksum != info.CRC:
                raise DamagedMember(f"wrong checksum: {checksum:08x} instead of {info.CRC:08x}")
        return data

    return fill


class _Compressed:
    """The compressed bytes of a member, in chunks."""

    def __init__(self, read_at: Callable[[int, int], bytes], info: ZipInfo, end: int) -> None:
        header = read_at(info.header_offset, _LOCAL.size)
        if len(header) < _LOCAL.size:
            raise DamagedMember("the archive ends before the member")
        signature, name, extra = _LOCAL.unpack(header)
        if signature != b"PK\x03\x04":
            raise DamagedMember("the member doesn't begin where the archive says")
        self._read_at = read_at
        self._at = info.header_offset + _LOCAL.size + name + extra
        self._end = self._at + info.compress_size
        if self._end > end:
            raise DamagedMember(OVERLAP)

    def read(self, size: int) -> bytes:
        data = self._read_at(self._at, min(size, self._end - self._at)) if self._at < self._end else b""
        self._at += len(data)
        return data


class _Unpacker(Protocol):
    def read(self, size: int) -> bytes: ...


class _Deflate:
    def __init__(self, source: _Compressed) -> None:
        self._source = source
        self._state = zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, size: int) -> bytes:
        while not self._state.eof:
            packed = self._state.unconsumed_tail or self._source.read(_CHUNK)
            data = self._state.decompress(packed, size)
            if data or not packed:
                return data
        return b""


class _Blocks:
    """bzip2 and LZMA, whose decompressors keep what they haven't unpacked yet."""

    def __init__(self, source: _Compressed, state: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._source = source
        self._state = state

    def read(self, size: int) -> bytes:
        while not self._state.eof:
            packed = self._source.read(_CHUNK) if self._state.needs_input else b""
            ended = self._state.needs_input and not packed
            data = self._state.decompress(packed, size)
            if data or ended:
                return data
        return b""


def _unpacker(info: ZipInfo, source: _Compressed) -> _Unpacker:
    if info.compress_type == ZIP_STORED:
        return source
    if info.compress_type == ZIP_DEFLATED:
        return _Deflate(source)
    if info.compress_type == ZIP_BZIP2:
        return _Blocks(source, bz2.BZ2Decompressor())
    if info.compress_type == ZIP_LZMA:
        return _Blocks(source, _lzma(source))
    raise DamagedMember(f"compression method {info.compress_type} is not supported")


def _lzma(source: _Compressed) -> lzma.LZMADecompressor:
    header = source.read(9)  # version (2), size of the properties (2, always 5), properties (5)
    if len(header) < 9 or header[2:4] != b"\x05\x00" or header[4] >= 9 * 5 * 5:
        raise DamagedMember("damaged LZMA header")
    rest, lc = divmod(header[4], 9)
    pb, lp = divmod(rest, 5)
    dictionary = int.from_bytes(header[5:9], "little")
    if dictionary > _LARGEST_DICTIONARY:
        raise DamagedMember(f"an LZMA dictionary of {dictionary} bytes")
    filters = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}]
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    except (lzma.LZMAError, ValueError) as error:
        raise DamagedMember(f"damaged LZMA header: {error}") from error
