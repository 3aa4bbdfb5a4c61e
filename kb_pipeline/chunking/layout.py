"""What a chunker knows of a document before it is cut: the contract between the chunkers and the cutter.

What belongs here: the shape of that knowledge. What doesn't: where it comes from (prose, code, tables, notebook).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kb_pipeline.parsing.document import Block, BlockKind

Span = tuple[int, int]
"""Start and end in characters of the document's text."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The structure of a text, as one chunker sees it. All positions are characters; everything is in order.

    ``blocks``    what headings, page and kind of a chunk come from, and where text is preferably cut.
    ``atoms``     disjoint spans that stay whole where they fit into a chunk, each with its kind. May be read once only.
    ``wholes``    larger spans that stay whole where they fit, whatever atoms are inside.
    ``sections``  positions that begin a new chunk when ``respect_headings`` is set.
    ``leads``     starts of blocks that no chunk may end with: they belong to what follows them.
    ``headers``   start of a table's block -> the span of its header, which chunks that begin below it repeat.
    """

    blocks: Sequence[Block]
    atoms: Iterable[tuple[int, int, BlockKind]]
    wholes: Sequence[Span] = ()
    sections: Sequence[int] = ()
    leads: frozenset[int] = frozenset()
    headers: Mapping[int, Span] = field(default_factory=dict)
