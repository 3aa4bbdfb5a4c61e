"""File names as text: a reversible spelling of names that are not valid Unicode.

What belongs here: the one rule that turns an operating-system name into a key and back, and the one that tells equal keys
apart. What doesn't: percent-encoding for URIs.

POSIX names are bytes. Python shows a byte that isn't UTF-8 as a lone surrogate, which no table or JSON file can hold.
The escaped form spells such a byte ``\\udcXX``. To stay reversible (two files must never share a key), the backslashes
in front of a surrogate, or in front of text that looks like the escape, are doubled; all other names stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Container

_DOUBLED = re.compile("(\\\\+)(?=[\ud800-\udfff]|ud[89a-f][0-9a-f]{2})")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"(\\+)(ud[89a-f][0-9a-f]{2})")


def numbered(name: str, taken: Container[str]) -> str:
    """The name, or one with a number behind it where it is taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def escape(name: str) -> str:
    """The name as valid Unicode. Different names give different results."""
    if name.isascii() and "\\" not in name:
        return name
    doubled = _DOUBLED.sub(lambda m: m[1] * 2, name)
    return _SURROGATE.sub(lambda m: f"\\u{ord(m[0]):04x}", doubled)


def unescape(text: str) -> str:
    """The operating-system name behind an escaped one."""
    return _ESCAPED.sub(_original, text)


def _original(match: re.Match[str]) -> str:
    slashes, code = match[1], match[2]
    literal = "\\" * (len(slashes) // 2)
    return literal + (chr(int(code[1:], 16)) if len(slashes) % 2 else code)
