"""The one document type that flows through the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kb_pipeline.statuses import Status


class BlockKind(StrEnum):
    """What a block of text is."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST = "list"
    CODE = "code"
    TABLE = "table"
    FORMULA = "formula"
    QUOTE = "quote"


@dataclass(frozen=True, slots=True)
class Block:
    """A span ``text[start:end]`` (characters) of a document.

    ``heading_path``: the headings above the block, outermost first; a heading's own block includes itself.
    ``page``: page or slide number, from 1, where the format has them.
    """

    kind: BlockKind
    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file inside an item, to be treated as an item of its own.

    ``name``: a file name; of a member of an archive, its path there, which leads nowhere else. ``known``: the status and
    the detail of one that isn't to be parsed (the rule, when it is EXCLUDED).
    """

    name: str
    media_type: str
    data: bytes
    known: tuple[Status, str] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed item. ``text`` is what chunks are cut from; blocks are ordered, inside the text, and don't overlap.

    Keys of ``metadata`` that mean the same in every format are in ``parsing.metadata``.
    """

    text: str
    media_type: str
    blocks: tuple[Block, ...] = ()
    title: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
