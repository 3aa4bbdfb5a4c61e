"""What all formats call their metadata.

What belongs here: the keys that mean the same in every document (``author``, several parted by "; ", ``created``,
``modified``, both ISO 8601, ``language``, a BCP 47 tag) and the reading of dates. Other keys are the formats' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

_LONGEST = 1_000
_SPACE = re.compile(r"\s+")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*")
_PDF_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:(Z)|([+-])(\d\d)'?(\d\d)?)?")
_PART_OF_DATE = re.compile(r"\d{4}(?:-\d\d)?")


def common(
    *,
    author: str | Iterable[str] | None = None,
    created: str | None = None,
    modified: str | None = None,
    language: str | None = None,
) -> dict[str, str]:
    """Return the entries that say something, in their common form. Dates that can't be read are left out."""
    authors = [author] if isinstance(author, str) else list(author or ())
    tag = one_line(language)
    found = {
        "author": "; ".join(dict.fromkeys(filter(None, map(one_line, authors)))),
        "created": iso_date(created),
        "modified": iso_date(modified),
        "language": tag.replace("_", "-") if _LANGUAGE.fullmatch(tag) else "",
    }
    return {key: value for key, value in found.items() if value}


def one_line(value: str | None) -> str:
    """Return ``value`` on one line, at most 1,000 characters, "" for None."""
    return _SPACE.sub(" ", (value or "").replace("\0", "")).strip()[:_LONGEST]


def iso_date(value: str | None) -> str:
    """Return a date, or a date and time, in ISO 8601; "" where it can't be read.

    Read are ISO 8601 (a year or a month by itself too), the dates of PDF (PDF 32000-1, 7.9.4) and of mail (RFC 5322).
    Midnight in no time zone is a date.
    """
    text = one_line(value)
    if not text or _PART_OF_DATE.fullmatch(text):
        return text
    for read in (datetime.fromisoformat, _pdf_date, parsedate_to_datetime):
        try:
            moment = read(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        is_date = moment.tzinfo is None and moment.time() == datetime.min.time()
        shown = moment.date() if is_date else moment
        return date.isoformat(shown) if is_date else moment.isoformat()
    return ""


def _pdf_date(text: str) -> datetime:
    match = _PDF_DATE.match(text)
    if match is None:
        raise ValueError(text)
    year, month, day, hour, minute, second, utc, sign, hours, minutes = match.groups()
    zone: timezone | None = UTC if utc else None
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
        zone = timezone(offset if sign == "+" else -offset)
    return datetime(
        int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=zone
    )
