"""The file objects that sources hand out.

What belongs here: turning a function that delivers bytes into a buffered BinaryIO. What doesn't: where bytes come from.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO

BLOCK = 1 << 20
"""Bytes read at a time: large enough that calls don't matter, small against every memory budget."""


def stream(fill: Callable[[int], bytes]) -> BinaryIO:
    """A sequential stream over ``fill(n)``, which returns 1 to n bytes, or b"" at the end.

    What ``fill`` raises reaches the reader as it is: that's how a source reports a bad checksum in mid-stream.
    """
    return io.BufferedReader(_Raw(fill), BLOCK)


class _Raw(io.RawIOBase):
    def __init__(self, fill: Callable[[int], bytes]) -> None:
        self._fill = fill

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        # A reader that asks for a whole item passes one buffer for all of it: the item must not be there twice.
        data = self._fill(min(len(buffer), BLOCK))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        parts: list[bytes] = []
        while data := self._fill(BLOCK):
            parts.append(data)
        return b"".join(parts)
