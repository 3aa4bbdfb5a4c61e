"""The outcomes an item can have, one enum for the whole project.

What belongs here: the status of an item, what each status means for the index, and one sentence for people.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What became of one item of a listing. Stored in the manifest as its value."""

    PARSED = "parsed"
    EMPTY = "empty"
    NO_TEXT = "no_text"
    ENCRYPTED = "encrypted"
    UNSUPPORTED = "unsupported"
    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    UNREADABLE = "unreadable"
    VANISHED = "vanished"
    EXCLUDED = "excluded"

    @property
    def good(self) -> bool:
        """True when the item is in the release (possibly with 0 chunks)."""
        return self in _GOOD

    @property
    def transient(self) -> bool:
        """True when the cause lies outside the content: the last good version stays, and every run tries again."""
        return self in _TRANSIENT

    @property
    def quarantined(self) -> bool:
        """True when the item is set aside for a person to look at."""
        return not self.good and self is not Status.EXCLUDED

    @property
    def sentence(self) -> str:
        """One sentence for a reader who has never seen this status."""
        return _SENTENCES[self]


_GOOD = frozenset({Status.PARSED, Status.EMPTY, Status.NO_TEXT})
_TRANSIENT = frozenset({Status.UNREADABLE, Status.VANISHED})
_SENTENCES = {
    Status.PARSED: "Read, parsed and searchable.",
    Status.EMPTY: "The item has no bytes or only white space: indexed with 0 chunks.",
    Status.NO_TEXT: "The item parses but holds no text (a scan, for example): indexed with 0 chunks.",
    Status.ENCRYPTED: "The item needs a password: remove the password at the source.",
    Status.UNSUPPORTED: "A valid file in a variant of its format that this version cannot read: save it in a current one.",
    Status.CORRUPT: "The bytes are not a valid file of their format: repair or replace the item at the source.",
    Status.TOO_LARGE: "Larger than limits.max_item_bytes or limits.parse_memory_mib allow: split it or raise the limit.",
    Status.TIMED_OUT: "Parsing took longer than the profile's limits.parse_seconds and was stopped.",
    Status.CRASHED: "The parser ended abnormally on this item; the item is set aside and the rest went on.",
    Status.UNREADABLE: "The source listed the item but could not deliver its bytes: tried again in every run.",
    Status.VANISHED: "The item was listed but gone when it was read: the next complete listing settles it.",
    Status.EXCLUDED: "A named rule leaves the item out.",
}
