"""Code as Markdown, for formats that become Markdown.

What belongs here: the writing of fences. Their reading is Markdown's.
"""

from __future__ import annotations

import re

_BACKTICKS = re.compile(r"`{3,}")


def fence(code: str, language: str = "") -> str:
    """Return ``code`` as a fenced block whose fence is longer than any in it."""
    ticks = "`" * max([3, *(len(run) + 1 for run in _BACKTICKS.findall(code))])
    return f"{ticks}{language}\n{code.rstrip()}\n{ticks}"
