"""Rich text as Outlook packs it: MS-OXRTFCP, a Lempel-Ziv code over a dictionary that begins with common control words.

What belongs here: unpacking. What doesn't: rich text (``rtf``).
"""

from __future__ import annotations

import struct

from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.statuses import Status

_PACKED, _PLAIN = 0x75465A4C, 0x414C454D  # "LZFu", "MELA"
_DICTIONARY_BYTES = 4096
# MS-OXRTFCP, 2.1.2.1.
_BEGINNING = (
    b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript "
    b"\\fdecor MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n"
    b"\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx"
)


def unpack(data: bytes) -> bytes:
    """Return the rich text. Raises ParseError(CORRUPT) for what is no packed rich text, or ends too early.

    A run copies 17 bytes at most, so the result is bounded by nine times the data.
    """
    if len(data) < 16:
        raise ParseError(Status.CORRUPT, "The message's rich text has no header.")
    _, size, kind, _ = struct.unpack_from("<IIII", data)
    if kind == _PLAIN:
        return data[16 : 16 + size]
    if kind != _PACKED:
        raise ParseError(Status.CORRUPT, "The message's rich text is packed in an unknown way.")
    dictionary = bytearray(_BEGINNING.ljust(_DICTIONARY_BYTES, b"\0"))
    at = len(_BEGINNING)
    found = bytearray()
    source = iter(data[16:])

    def put(byte: int) -> None:
        nonlocal at
        found.append(byte)
        dictionary[at] = byte
        at = (at + 1) % _DICTIONARY_BYTES

    try:
        while True:
            control = next(source)
            for bit in range(8):
                if not control >> bit & 1:
                    put(next(source))
                    continue
                reference = next(source) << 8 | next(source)
                start, length = reference >> 4, (reference & 0xF) + 2
                if start == at:
                    return bytes(found)
                for place in range(start, start + length):
                    put(dictionary[place % _DICTIONARY_BYTES])
    except StopIteration:
        raise ParseError(Status.CORRUPT, "The message's rich text ends too early.") from None
