"""The ledger of formulas: how many a document holds, and how many of them came whole into a chunk.

What belongs here: counting, for audits and benchmarks. What doesn't: cutting.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from kb_pipeline.chunking.atoms import find_formulas
from kb_pipeline.chunking.cutter import Chunk
from kb_pipeline.parsing.document import BlockKind, Document

MAX_CHARACTERS = 16_384
"""The longest formula inside a paragraph that is looked for; blocks of any length count."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Formulas of documents: ``found`` = ``intact`` (whole in a chunk) + ``oversize`` (cut, and marked) + ``cut``."""

    found: int = 0
    intact: int = 0
    oversize: int = 0
    cut: int = 0

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.found + other.found,
            self.intact + other.intact,
            self.oversize + other.oversize,
            self.cut + other.cut,
        )


def formulas(document: Document, chunks: Sequence[Chunk]) -> Ledger:
    """Count the formulas of a document and what became of them in its chunks, which are in order."""
    starts = [each.start for each in chunks]
    ends = [each.end for each in chunks]
    intact = oversize = cut = 0
    for start, end in find_formulas(document.text, document.blocks, MAX_CHARACTERS):
        touching = chunks[bisect_right(ends, start) : bisect_right(starts, end - 1)]
        if any(each.start <= start and end <= each.end for each in touching):
            intact += 1
        elif touching and all(each.partial == BlockKind.FORMULA.value for each in touching):
            oversize += 1
        else:
            cut += 1
    return Ledger(intact + oversize + cut, intact, oversize, cut)
