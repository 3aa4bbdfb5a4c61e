"""Checking a cron expression without a scheduler.

What belongs here: five-field cron as Dagster reads it. What doesn't: computing the next run.
"""

from __future__ import annotations

import re

_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_PART = re.compile(r"(\*|[a-z0-9]+(?:-[a-z0-9]+)?)(?:/([0-9]+))?")
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def check_cron(expression: str) -> None:
    """Raises ValueError, naming the field, unless this is a five-field cron expression that some day fulfils."""
    fields = expression.lower().split()
    if len(fields) != len(_FIELDS):
        raise ValueError('expected five fields: minute hour day-of-month month day-of-week, like "0 3 * * *"')
    values = [_values(field, *spec) for field, spec in zip(fields, _FIELDS, strict=True)]
    days, months = values[2], values[3]
    if fields[4] == "*" and all(min(days) > _DAYS[month - 1] for month in months):
        raise ValueError("expected a date that exists: no chosen month has the chosen day")


def _values(field: str, name: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    wrong = ValueError(f"expected a {name} from {low} to {high} (or *, lists, ranges, steps) in the cron expression")
    values: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise wrong
        span, step = match[1], int(match[2] or 1)
        if span == "*":
            first, last = low, high
        else:
            begin, dash, end = span.partition("-")
            first = _number(begin, low, names, wrong)
            last = _number(end, low, names, wrong) if dash else (high if match[2] else first)
        if step < 1 or not low <= first <= last <= high:
            raise wrong
        values.update(range(first, last + 1, step))
    return values


def _number(text: str, low: int, names: tuple[str, ...], wrong: ValueError) -> int:
    if text.isdecimal():
        return int(text)
    if text in names:
        return names.index(text) + low
    raise wrong
