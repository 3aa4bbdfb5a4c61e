"""What is done to good bytes: each mutation is a function of the bytes and of a seeded generator, and of nothing else."""

from __future__ import annotations

import io
import random
import re
import zipfile
import zlib
from collections.abc import Callable

from kb_pipeline_tests.fuzz.seeds import zipped

Mutation = Callable[[random.Random, bytes, bytes], bytes]
"""(generator, bytes, bytes of another file) -> bytes."""

_LONGEST = 1 << 20  # bytes


def flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Flip 1 to 64 bits."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Cut off the end, or the beginning."""
    at = rng.randrange(1, len(data))
    return data[:at] if rng.random() < 0.8 else data[at:]


def repeat(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Repeat a block, up to some hundred times."""
    start, end = _block(rng, data)
    times = min(rng.choice([2, 20, 500]), _LONGEST // (end - start) + 1)
    return data[:start] + data[start:end] * times + data[end:]


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Put a block of another file in place of one of this."""
    (start, end), (first, last) = _block(rng, data), _block(rng, other)
    return data[:start] + other[first:last] + data[end:]


def delete(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Take a block out."""
    start, end = _block(rng, data)
    return data[:start] + data[end:] or b"x"


def lengths(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Write extreme numbers over fields of 1, 2, 4 and 8 bytes, as lengths and offsets are."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 10])):
        width = rng.choice([1, 2, 4, 8])
        value = rng.choice(
            [0, 1, (1 << 8 * width) - 1, (1 << 8 * width - 1) - 1, 1 << 8 * width - 1, rng.getrandbits(8 * width)]
        )
        at = rng.randrange(len(changed))
        field = value.to_bytes(width, rng.choice(["little", "big"]))
        changed[at : at + width] = field[: len(changed) - at]
    return bytes(changed)


def numbers(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Write other numbers where digits stand: lengths of PDF streams, counts of rows, cell addresses."""
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return flip(rng, data, other)
    for match in sorted(rng.sample(found, min(len(found), rng.choice([1, 4]))), key=lambda each: -each.start()):
        value = rng.choice([b"0", b"-1", b"4294967295", b"99999999999999999999", b"1" * 5000, b"1e999"])
        data = data[: match.start()] + value + data[match.end() :]
    return data


def deepen(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Open something ten thousand times and never close it."""
    opening = rng.choice([b"[", b"<div>", b'{"a":', b"<b><table><tr><td>", b"((", b"> ", b"\\begin{a}{", b"<<"])
    at = rng.randrange(len(data))
    return data[:at] + opening * 10_000 + data[at:]


def repack(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Mutate one member of an archive and pack it again, so that checksums are right and its reader sees the damage."""
    members = _members(data)
    if not members:
        return flip(rng, data, other)
    name = rng.choice(sorted(members))
    if len(members[name]) > 1:
        members[name] = rng.choice(_PLAIN)(rng, members[name], other)
    return zipped(members)


def entities(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """XML whose entities grow tenfold eight times, or name a file; in an archive, instead of one of its members."""
    lines = [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 9)]
    grown = '<!DOCTYPE doc [<!ENTITY a0 "lol">' + "".join(lines) + "]><doc>&a8;</doc>"
    named = '<!DOCTYPE doc [<!ENTITY f SYSTEM "file:///etc/passwd">]><doc>&f;</doc>'
    text = rng.choice([grown, named]).encode()
    if not data.startswith(b"PK"):
        return text
    members = _members(data)
    if not members:
        return text
    members[rng.choice([name for name in members if name.endswith(("xml", "rels", "opf"))] or sorted(members))] = text
    return zipped(members)


def _members(data: bytes) -> dict[str, bytes]:
    """Name -> bytes of an archive's members; nothing where it is damaged already."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            return {info.filename: opened.read(info) for info in opened.infolist() if info.file_size < _LONGEST}
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, ValueError, EOFError, zlib.error):
        return {}


def _block(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice([1, 16, 256, 4096]))


_PLAIN: list[Mutation] = [flip, truncate, repeat, splice, delete, lengths, numbers, deepen]
MUTATIONS: list[Mutation] = [*_PLAIN, repack, repack, entities]


def mutate(rng: random.Random, name: str, data: bytes, other: bytes) -> bytes:
    """One or two mutations; XML in archives only where there are archives, entities only where there is XML."""
    archive = data.startswith(b"PK")
    markup = archive or data.lstrip()[:1] == b"<"
    able = [each for each in MUTATIONS if (archive or each is not repack) and (markup or each is not entities)]
    for mutation in rng.choices(able, k=rng.choice([1, 1, 2])):
        if len(data) > 1:
            data = mutation(rng, data, other)
    return data
