"""The layout of source code: functions and classes stay whole where they fit, with what encloses them as headings.

What belongs here: from the blocks of definitions to the blocks of a layout. What doesn't: finding definitions, and
how blocks tell of them (``parsing.code``).

Method: the definitions, outermost first; one that fits into a chunk is a block, one that doesn't is opened, and its
parts are. What lies between definitions is a block by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kb_pipeline.chunking.layout import Layout
from kb_pipeline.parsing.document import Block, BlockKind


@dataclass(slots=True)
class _Definition:
    """A run of blocks: ``parts`` are its own blocks and the definitions inside it, in order."""

    start: int
    end: int
    path: tuple[str, ...]
    parts: list[_Definition | Block] = field(default_factory=list)


def layout(blocks: Sequence[Block], fits: Callable[[int, int], bool]) -> Layout:
    """Return the layout of source code. ``fits`` tells whether a span (characters) may be one chunk."""
    planned: list[Block] = []
    sections: list[int] = []
    leads: set[int] = set()
    waiting = [*reversed(_definitions(blocks).parts)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Block):
            planned.append(part)
            continue
        sections.append(part.start)
        if len(part.parts) == 1 or fits(part.start, part.end):
            planned.append(Block(BlockKind.CODE, part.start, part.end, part.path))
        else:
            leads.add(part.start)
            waiting += reversed(part.parts)
    atoms = [(block.start, block.end, BlockKind.CODE) for block in planned]
    return Layout(planned, atoms, sections=sections, leads=frozenset(leads))


def _definitions(blocks: Sequence[Block]) -> _Definition:
    """Return what is outside of all definitions, with the definitions in it."""
    around = [_Definition(0, 0, ())]
    for block in blocks:
        path = block.heading_path
        while path[: len(around[-1].path)] != around[-1].path:
            around.pop()
        last = around[-1].parts[-1] if around[-1].parts else None
        if path and path == around[-1].path and isinstance(last, Block):
            around.pop()  # two blocks side by side with the same path: another definition of the same name
        while len(around[-1].path) < len(path):
            inside = _Definition(block.start, block.end, path[: len(around[-1].path) + 1])
            around[-1].parts.append(inside)
            around.append(inside)
        around[-1].parts.append(block)
        for each in around:
            each.end = block.end
    return around[0]
