"""Archives made to harm who reads them: bombs (scaled down), paths that lead out, bytes that overlap, headers that lie."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

from kb_pipeline_tests.fuzz.mutations import flip, lengths, truncate
from kb_pipeline_tests.fuzz.seeds import zipped

_NAMES = [
    *("../escaped.txt", "../../../../escaped.txt", "/tmp/escaped.txt", "C:\\escaped.txt", "..\\escaped.txt"),
    *("a/../../escaped.txt", "escaped\0.txt", "\\\\host\\escaped", "", "a//b", "./a", "x/", "a!/b", "con", "a\nb"),
    *("a" * 60_000, "é" * 300, "\u202etxt.exe"),
]


def bomb(rng: random.Random) -> bytes:
    """Zeros that are packed a thousandfold, in one member or in many."""
    many, size = rng.choice([(1, 24 << 20), (80, 1 << 20), (10, 7 << 20)])
    return zipped({str(number): bytes(size) for number in range(many)}, rng.choice([8, 8, 12, 14]))


def traversal(rng: random.Random) -> bytes:
    """Names that lead out of the archive."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as opened:
        warnings.simplefilter("ignore")
        for name in rng.choices(_NAMES, k=6):
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.external_attr = rng.choice([0o100644, 0o120777, 0o010644]) << 16
            opened.writestr(info, b"../escaped.txt")
    return buffer.getvalue()


def overlapping(rng: random.Random) -> bytes:
    """D. Fifield's zip bomb (WOOT 2019) in small: local headers quoted by deflate's stored blocks, one kernel for all."""
    count, size = rng.choice([2, 10, 100]), rng.choice([1000, 1 << 20])
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = bytes(size)
    data = pack.compress(content) + pack.flush()
    body, crc, entries = data, zlib.crc32(content), []
    for number in reversed(range(count)):
        name = b"%06d" % number
        if body is not data:  # what follows is quoted: it is part of this member's content too
            head = body[: 30 + 6]
            body = struct.pack("<BHH", 0, len(head), len(head) ^ 0xFFFF) + body
            content = head + content
            crc = zlib.crc32(content)
        local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(body), len(content), 6, 0) + name
        body = local + body
        entries.append((name, crc, len(body) - 36, len(content), len(body)))
    directory = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, packed, full, 6, 0, 0, 0, 0, 0, len(body) - at) + name
        for name, crc, packed, full, at in entries
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end


def lying(rng: random.Random) -> bytes:
    """Fields of the directory, the end record and the local headers with extreme numbers in them."""
    data = bytearray(_plain(rng))
    places = [
        (mark, offset, width)
        for mark, fields in (
            (b"PK\1\2", [(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (38, 4), (42, 4)]),
            (b"PK\5\6", [(8, 2), (10, 2), (12, 4), (16, 4), (20, 2)]),
            (b"PK\3\4", [(6, 2), (8, 2), (18, 4), (22, 4), (26, 2), (28, 2)]),
        )
        for offset, width in fields
    ]
    for mark, offset, width in rng.sample(places, rng.choice([1, 2, 4])):
        at = data.find(mark) + offset
        value = rng.choice(
            [0, 1, (1 << 8 * width) - 1, (1 << 8 * width) - 2, 1 << 8 * width - 1, rng.getrandbits(8 * width)]
        )
        data[at : at + width] = value.to_bytes(width, "little")
    return bytes(data)


def huge(rng: random.Random) -> bytes:
    """A member of 4 bytes that claims up to 2**64 - 1, in zip64."""
    sizes = [rng.choice([4, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]) for _ in range(3)]
    extra = struct.pack("<HHQQQ", 1, 24, *sizes[:2], rng.choice([0, sizes[2]]))
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, 4, 4, 1, 0) + b"mdata"
    most = 0xFFFFFFFF
    head = struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, most, most, 1, len(extra), 0, 0, 0, 0, most)
    directory = head + b"m" + extra
    return local + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(local), 0)


def nested(rng: random.Random) -> bytes:
    """Archives in archives, some of them harmful themselves."""
    inner = rng.choice([_plain, traversal, overlapping, lying, huge])(rng)
    for depth in range(rng.choice([1, 2, 6])):
        inner = zipped({f"{depth}.zip": inner, "beside.txt": b"beside"}, rng.choice([0, 8]))
    return inner


def damaged(rng: random.Random) -> bytes:
    """A good archive with a few wrong bytes, cut off, or with something before and after it."""
    data = rng.choice([flip, lengths, truncate])(rng, _plain(rng), b"")
    return rng.choice([data, rng.randbytes(100) + data, data + rng.randbytes(100), data + bytes(70_000)])


def _plain(rng: random.Random) -> bytes:
    members = {f"d/{number}.txt": bytes(rng.choices(b"abc \n", k=rng.choice([0, 10, 5000]))) for number in range(4)}
    return zipped(members, rng.choice([0, 8, 12, 14]))


KINDS: list[Callable[[random.Random], bytes]] = [bomb, traversal, overlapping, lying, huge, nested, damaged]
