"""How documents are cut: the numbers, and which chunker cuts which media type.

What belongs here: settings, checked. What doesn't: kb.yaml (``settings``), which may leave numbers to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

# A word too long for the model is one unknown token of any length, and white space costs none: a second limit keeps
# chunks readable. Prose has 4.5 characters a token, so nothing but such text comes near it.
MAX_CHARACTERS_PER_TOKEN = 16
# One character can be several tokens; with fewer than this, one could be too long for a chunk.
MIN_TOKENS = 32


class ChunkerName(StrEnum):
    """The chunkers, by the name they have in kb.yaml."""

    PROSE = "prose"
    CODE = "code"
    TABLE = "table"
    NOTEBOOK = "notebook"


_BY_MEDIA_TYPE = {
    "text/x-source": ChunkerName.CODE,
    "text/csv": ChunkerName.TABLE,
    "text/tab-separated-values": ChunkerName.TABLE,
    "application/jsonl": ChunkerName.TABLE,
    "application/x-ipynb+json": ChunkerName.NOTEBOOK,
}


def default_chunker(media_type: str) -> ChunkerName:
    """The chunker of a media type that kb.yaml says nothing about: prose, where there is no better one."""
    return _BY_MEDIA_TYPE.get(media_type, ChunkerName.PROSE)


@dataclass(frozen=True, slots=True)
class ChunkerSettings:
    """How to cut. Raises ValueError for senseless values.

    ``tokens``            the most tokens a chunk may have, without special tokens.
    ``overlap``           the most tokens, in whole sentences or lines, that a chunk repeats of the one before it.
    ``respect_headings``  whether sections (in code: functions and classes) begin a new chunk.
    ``chunker``           what the text is taken for.
    """

    tokens: int
    overlap: int = 0
    respect_headings: bool = True
    chunker: ChunkerName = ChunkerName.PROSE

    def __post_init__(self) -> None:
        if self.tokens < MIN_TOKENS:
            raise ValueError(f"tokens must be at least {MIN_TOKENS}, not {self.tokens}")
        if not 0 <= self.overlap <= self.tokens // 2:
            raise ValueError(f"overlap must be between 0 and half of tokens ({self.tokens // 2}), not {self.overlap}")


@dataclass(frozen=True, slots=True)
class Override:
    """What one entry of ``by_media_type`` changes; None leaves it."""

    chunker: ChunkerName | None = None
    tokens: int | None = None
    overlap: int | None = None
    respect_headings: bool | None = None


@dataclass(frozen=True, slots=True)
class Chunkers:
    """How each media type is cut: ``general``, but for what ``overrides`` say of a media type or of all like ``text/*``."""

    general: ChunkerSettings
    overrides: Mapping[str, Override] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pattern in self.overrides:
            try:
                self.settings(pattern)
            except ValueError as error:
                raise ValueError(f"{pattern}: {error}") from None

    def settings(self, media_type: str) -> ChunkerSettings:
        """The settings for a media type. An entry for it goes before one for its whole family, key by key."""
        family = f"{media_type.partition('/')[0]}/*"
        said = [asdict(self.overrides[key]) for key in (family, media_type) if key in self.overrides]
        values = asdict(self.general) | {"chunker": default_chunker(media_type)}
        for each in said:
            values |= {name: value for name, value in each.items() if value is not None}
        return ChunkerSettings(**values)
