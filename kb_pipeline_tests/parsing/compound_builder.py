"""Writes small OLE compound files, and Outlook's messages in them."""

from __future__ import annotations

import struct
from typing import cast

_END, _FREE, _TABLE, _NONE = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFF
_MINI_CUTOFF = 4_096


def build_compound(streams: dict[str, bytes]) -> bytes:
    """Return a compound file with streams by path; those below 4,096 bytes lie in the mini stream."""
    sectors: list[bytes] = []
    table: list[int] = []

    def put(data: bytes) -> int:
        """Append data as a chain of sectors and return its first."""
        pieces = [data[i : i + 512].ljust(512, b"\0") for i in range(0, len(data), 512)]
        first = len(sectors)
        for i, piece in enumerate(pieces):
            sectors.append(piece)
            table.append(first + i + 1 if i + 1 < len(pieces) else _END)
        return first if pieces else _END

    mini = b""
    mini_table: list[int] = []
    tree: dict[str, object] = {}
    for path, data in streams.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})  # type: ignore[assignment]
        if len(data) >= _MINI_CUTOFF:
            node[name] = (put(data), len(data))
            continue
        first, count = len(mini_table), -(-len(data) // 64)
        mini_table += [first + i + 1 if i + 1 < count else _END for i in range(count)]
        mini += data.ljust(count * 64, b"\0")
        node[name] = (first if count else _END, len(data))
    entries: list[bytes] = [b""]

    def add(nodes: dict[str, object]) -> int:
        """Append entries, each the right sibling of the one before, and return the first."""
        following = _NONE
        for name, held in reversed(nodes.items()):
            if isinstance(held, dict):
                entries.append(_entry(name, 1, following, add(held), 0, 0))
            else:
                start, size = cast("tuple[int, int]", held)
                entries.append(_entry(name, 2, following, _NONE, start, size))
            following = len(entries) - 1
        return following

    below = add(tree)
    entries[0] = _entry("Root Entry", 5, _NONE, below, put(mini), len(mini))
    while len(entries) % 4:
        entries.append(bytes(128))
    directory = put(b"".join(entries))
    mini_start = put(struct.pack(f"<{len(mini_table)}I", *mini_table).ljust(-(-len(mini_table) // 128) * 512, b"\xff"))
    table_at = len(table)
    needed = 1
    while len(table) + needed > needed * 128:
        needed += 1
    table += [_TABLE] * needed
    content = struct.pack(f"<{len(table)}I", *table).ljust(needed * 512, b"\xff")
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH6x", 0x3E, 3, 0xFFFE, 9, 6)
    header += struct.pack("<IIIIIIIII", 0, needed, directory, 0, _MINI_CUTOFF, mini_start, 1, _END, 0)
    listed = [*range(table_at, table_at + needed), *[_FREE] * 109][:109]
    return header + struct.pack("<109I", *listed) + b"".join(sectors) + content


def _entry(name: str, kind: int, right: int, below: int, start: int, size: int) -> bytes:
    encoded = name.encode("utf-16-le")
    head = encoded.ljust(64, b"\0") + struct.pack("<HBBIII", len(encoded) + 2, kind, 1, _NONE, right, below)
    return head + bytes(36) + struct.pack("<IQ", start, size)


def build_msg(texts: dict[int, str], streams: dict[str, bytes] | None = None, *, submitted: int = 0) -> bytes:
    """Return a message with Unicode properties by id, other ``streams``, and a time (100 ns since 1601)."""
    properties = bytes(32) + struct.pack("<IIQ", 0x00390040, 0, submitted)
    named = {f"__substg1.0_{each:04X}001F": text.encode("utf-16-le") for each, text in texts.items()}
    return build_compound({"__properties_version1.0": properties, **named, **(streams or {})})


def sample_msg() -> bytes:
    folder = "__attach_version1.0_#0000000{}/"
    inner = folder.format(1) + "__substg1.0_3701000D/"
    html = b"<h1>Fares</h1><p>A cow pays four pence.</p><p>The last word.</p>"
    return build_msg(
        {
            0x0037: "Fares",
            0x0C1A: "Ada Tide",
            0x5D01: "ada@harbour.example",
            0x0E04: "Bo Reed",
            0x1000: "plain",
            0x1035: "<1@harbour.example>",
        },
        {
            "__substg1.0_10130102": html,
            folder.format(0) + "__properties_version1.0": bytes(8),
            folder.format(0) + "__substg1.0_3707001F": "..\\fares.csv".encode("utf-16-le"),
            folder.format(0) + "__substg1.0_370E001F": "text/csv".encode("utf-16-le"),
            folder.format(0) + "__substg1.0_37010102": b"who,pence\n" * 500,
            folder.format(1) + "__substg1.0_3001001F": "Ropes".encode("utf-16-le"),
            inner + "__properties_version1.0": bytes(24) + struct.pack("<IIQ", 0x00390040, 0, 133_537_680_000_000_000),
            inner + "__substg1.0_0037001F": "Rôpes".encode("utf-16-le"),
            inner + "__substg1.0_0C1A001F": "Bo Reed".encode("utf-16-le"),
            inner + "__substg1.0_1000001F": "Two hawsers, please.".encode("utf-16-le"),
            inner + folder.format(0) + "__properties_version1.0": bytes(8),
            inner + folder.format(0) + "__substg1.0_3707001F": "list.txt".encode("utf-16-le"),
            inner + folder.format(0) + "__substg1.0_37010102": b"hawser, 20 fathoms",
        },
        submitted=133_537_680_000_000_000,
    )
