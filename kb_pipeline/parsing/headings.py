"""The headings in force while a document is read from top to bottom.

What belongs here: nesting of headings, for every format. What doesn't: how a format writes a heading.
"""

from __future__ import annotations


class HeadingStack:
    """The path of headings above the current place. Levels are numbers, 1 the outermost; gaps between them are fine."""

    def __init__(self) -> None:
        self._levels: list[int] = []
        self._titles: list[str] = []
        self.path: tuple[str, ...] = ()
        self.first: str | None = None

    def push(self, level: int, title: str) -> tuple[str, ...]:
        """Enter a heading, which closes every open one of its level or deeper. Returns the path, itself included."""
        while self._levels and self._levels[-1] >= level:
            self._levels.pop()
            self._titles.pop()
        self._levels.append(level)
        self._titles.append(title)
        self.path = tuple(self._titles)
        if level == 1 and self.first is None and title:
            self.first = title
        return self.path

    def clear(self) -> None:
        """Leave every open heading."""
        self._levels.clear()
        self._titles.clear()
        self.path = ()

    def leave_to(self, path: tuple[str, ...]) -> None:
        """Leave the innermost headings until the path is as long as ``path``, one that was in force before."""
        del self._levels[len(path) :]
        del self._titles[len(path) :]
        self.path = tuple(self._titles)
