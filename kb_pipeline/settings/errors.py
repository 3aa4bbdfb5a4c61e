"""ConfigError: everything that is wrong with a configuration, said at once.

What belongs here: the shape of the message. What doesn't: finding problems (load.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``line`` counts from 1; ``key`` is a path like ``sources[1].include``, or ""."""

    message: str
    line: int | None = None
    key: str = ""


class ConfigError(Exception):
    """The configuration can't be used. str() has one line per problem: file, line, key, what was expected."""

    def __init__(self, problems: Sequence[Problem], path: Path | None = None) -> None:
        super().__init__(problems, path)  # both, so that the error survives pickling between processes
        self.problems = tuple(problems)
        self.path = path

    def __str__(self) -> str:
        return "\n".join(self._line(problem) for problem in self.problems)

    def _line(self, problem: Problem) -> str:
        where = "" if self.path is None else str(self.path)
        if where and problem.line is not None:
            where += f":{problem.line}"
        return ": ".join(part for part in (where, problem.key, problem.message) if part)
