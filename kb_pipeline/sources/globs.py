"""Path patterns of kb.yaml (``include``, ``exclude``, the path of a local_zip) as one regular expression.

What belongs here: translating and matching patterns on "/"-separated relative paths. What doesn't: walking folders.

``*`` and ``?`` stay within one path segment, ``[a-z]`` and ``[!a-z]`` match one character of a segment, and a segment
that is exactly ``**`` stands for any number of segments (at the end: for everything below). Matching is case-sensitive
and covers the whole path: ``*.md`` is a file at the top, ``**/*.md`` one at any depth, the top included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_WILDCARD = re.compile(r"[*?[]")


class Globs:
    """A set of patterns, compiled once. Raises ValueError for a pattern that could never match anything."""

    def __init__(self, patterns: Iterable[str]) -> None:
        normal = [normalise(pattern) for pattern in patterns]
        self._paths = _alternatives(_translate(pattern) for pattern in normal)
        # A folder is covered when a pattern "<folder>/**" takes all that is below it.
        self._folders = _alternatives(
            ".+" if pattern == "**" else _translate(pattern[: -len("/**")])
            for pattern in normal
            if pattern == "**" or pattern.endswith("/**")
        )

    def matches(self, path: str) -> bool:
        """True when one of the patterns matches this path."""
        return self._paths.fullmatch(path) is not None

    def covers(self, folder: str) -> bool:
        """True when one pattern matches everything that can ever be below this folder."""
        return self._folders.fullmatch(folder) is not None


def has_wildcard(segment: str) -> bool:
    """True when a path segment is a pattern and not a literal name."""
    return _WILDCARD.search(segment) is not None


def normalise(pattern: str) -> str:
    """The pattern without "./" at the start, and with "/" at the end spelled "/**".

    Raises ValueError when it is empty, absolute or climbs with "..": patterns are relative to the connection's path.
    """
    trimmed = pattern
    while trimmed.startswith("./"):
        trimmed = trimmed[2:]
    if trimmed.endswith("/"):
        trimmed += "**"
    segments = trimmed.split("/")
    if "" in segments or "." in segments or ".." in segments:
        raise ValueError("expected a pattern relative to the connection's path, like **/*.md (no leading /, no .. )")
    # "**/**" matches what "**" matches, and a run of them would only make the regular expression slow.
    kept = [s for i, s in enumerate(segments) if not (s == "**" and i > 0 and segments[i - 1] == "**")]
    return "/".join(kept)


def _alternatives(expressions: Iterable[str]) -> re.Pattern[str]:
    found = list(expressions)
    # "(?!)" never matches: no pattern, no match.
    return re.compile("|".join(f"(?:{e})" for e in found) if found else "(?!)", re.DOTALL)


@lru_cache(maxsize=1024)
def _translate(pattern: str) -> str:
    segments = pattern.split("/")
    parts: list[str] = []
    for i, segment in enumerate(segments):
        last = i == len(segments) - 1
        if segment == "**":
            parts.append(".+" if last else "(?:[^/]+/)*")
        else:
            parts.append(_translate_segment(segment) + ("" if last else "/"))
    return "".join(parts)


def _translate_segment(segment: str) -> str:
    out: list[str] = []
    i = 0
    while i < len(segment):
        char = segment[i]
        i += 1
        if char == "*":
            if out[-1:] != ["[^/]*"]:
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := _class_end(segment, i)) is not None:
            out.append(_translate_class(segment[i:end]))
            i = end + 1
        else:
            out.append(re.escape(char))
    return "".join(out)


def _class_end(segment: str, start: int) -> int | None:
    """Index of the "]" that closes the class opened before ``start``; None when "[" is a plain character."""
    first = start + 1 if segment[start : start + 1] == "!" else start
    end = segment.find("]", first + 1)  # a "]" right at the start belongs to the class, as in fnmatch
    return None if end < 0 else end


def _translate_class(body: str) -> str:
    negated = body.startswith("!")
    members = body[1:] if negated else body
    out: list[str] = []
    i = 0
    while i < len(members):
        if i + 2 < len(members) and members[i + 1] == "-":
            low, high = members[i], members[i + 2]
            if low <= high:  # an empty range like [z-a] matches nothing
                out.append(f"{re.escape(low)}-{re.escape(high)}")
            i += 3
        else:
            out.append(re.escape(members[i]))
            i += 1
    if not out:
        return "[^/]" if negated else "(?!)"
    return f"[^/{''.join(out)}]" if negated else f"(?!/)[{''.join(out)}]"
