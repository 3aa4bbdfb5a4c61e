"""Definitions in source code: functions, classes and the like, found in its syntax tree.

What belongs here: from a tree to nested spans of characters with names. What doesn't: grammars, and what becomes of the
spans (code).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from kb_pipeline.parsing import grammars

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_DEPTH = 20
"""Definitions nested deeper are part of the one around them."""
MAX_TREE_DEPTH = 300
"""Nodes deeper in the tree aren't looked at: in sound sources that is inside expressions."""
MAX_LINES_ABOVE = 200
MAX_NAME = 200
"""Characters of a name; a longer one is a mistake of the parse."""
MAX_PATHS_PER_CHARACTER = 4
"""Bound on the names of all definitions with those around them, per character of the source and of 64 Ki more."""

_SHORTEST = 6
"""Bytes of a definition; no smaller node holds one."""
# What a line above a definition begins with when it belongs to it: a comment, a decorator, an attribute, a template.
_BELONGS = re.compile(
    r"[ \t]*(?:#(?!(?:include|define|undef|if|ifdef|ifndef|else|elif|endif|pragma|error)\b)|//|/\*|\*|--|@|\[|template\b)"
)
# What may stand before a definition on its line: words like `export default`. And after it: a comment.
_WORDS = re.compile(r"[ \t]*(?:[a-z]+[ \t]+)*")
_REST = re.compile(r"[ \t;,)}\]]*(?:(?://|#|--)[^\n]*)?\r?(?:\n|\Z)")
_NAMES = frozenset(
    {"identifier", "field_expression", "operator", "object_reference", "constructor_name", "module_name", "class_name"}
    | {"module_type_name", "value_name", "type_identifier", "parenthesized_operator", "type_constructor"}
)
_CONTINUATION = bytes(range(0x80, 0xC0))


@dataclass(slots=True)
class Definition:
    """A span of characters, lines above it that belong to it included. ``path``: its name, after those around it."""

    start: int
    end: int
    path: tuple[str, ...]
    inside: list[Definition] = field(default_factory=list)


def find(text: str, grammar: str) -> list[Definition]:
    """Return the outermost definitions of a text, in order, each with those inside it.

    None at all where the text is too much for its grammar (``grammars``), or its names are.
    """
    source = text.encode("utf-8", "replace")
    tree = grammars.parse(grammar, source)
    if tree is None:
        return []
    nodes = list(_nodes(tree.root_node, grammars.load(grammar)[1]))
    position = _characters(source, {edge for node in nodes for edge in (node.start_byte, node.end_byte)})
    clauses = grammars.GRAMMARS[grammar].clauses
    left = MAX_PATHS_PER_CHARACTER * (len(text) + 65_536)
    outermost: list[Definition] = []
    around: list[Definition] = []
    for node in nodes:
        if clauses and node.child_by_field_name("name") is None:
            continue  # in Haskell, the type of a function is a node of the same kind as a function
        start, end = position[node.start_byte], position[node.end_byte]
        while around and around[-1].end <= start:
            around.pop()
        if len(around) == MAX_DEPTH:
            continue
        outer = around[-1] if around else None
        beside = outer.inside if outer else outermost
        low = beside[-1].end if beside else outer.start if outer else 0
        start, end = _lines_above(text, low, start), _line_end(text, end)
        if outer is not None:
            end = min(end, outer.end)
            if start <= outer.start:
                continue  # a definition without a body of its own, like the struct of a typedef
        path = (*(outer.path if outer else ()), _name(node, source))
        if clauses and beside and beside[-1].path == path and not text[low:start].strip():
            beside[-1].end = end
            around.append(beside[-1])
            continue
        left -= sum(map(len, path))
        if left < 0:
            return []
        each = Definition(start, end, path)
        beside.append(each)
        around.append(each)
    return outermost


def _nodes(root: Node, ids: frozenset[int]) -> Iterator[Node]:
    """Yield the nodes of these kinds, each before those inside it."""
    # Not by a query: its time grows with the square of the tree's depth.
    cursor = root.walk()
    depth = 0
    while True:
        node = cursor.node
        if node is not None:
            if node.kind_id in ids and node.end_byte - node.start_byte >= _SHORTEST:
                yield node
            if depth < MAX_TREE_DEPTH and node.end_byte - node.start_byte >= _SHORTEST and cursor.goto_first_child():
                depth += 1
                continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return
            depth -= 1


def _characters(source: bytes, edges: set[int]) -> dict[int, int]:
    """Return the position in characters of each of these positions in bytes."""
    found = {}
    characters = 0
    for before, edge in pairwise([0, *sorted(edges)]):
        characters += len(source[before:edge].translate(None, _CONTINUATION))
        found[edge] = characters
    return found


def _lines_above(text: str, low: int, start: int) -> int:
    """Return where the lines begin that belong to the definition at ``start``: comments, decorators; not before ``low``."""
    line = text.rfind("\n", low, start) + 1 or low
    if not _WORDS.fullmatch(text, line, start) and not _BELONGS.match(text, line, start):
        return start  # something else stands before it on its line
    for _ in range(MAX_LINES_ABOVE):
        if line <= low:
            break
        above = text.rfind("\n", low, line - 1) + 1 or low
        if not _BELONGS.match(text, above, line):
            break
        line = above
    return line


def _line_end(text: str, end: int) -> int:
    """Return the end of the line after a definition's last character, when only punctuation and a comment are on it."""
    rest = _REST.match(text, end)
    return rest.end() if rest else end


def _name(node: Node, source: bytes) -> str:
    """The name of a definition; what it is, where it has none."""
    if node.type == "impl_item":
        named = node.child_by_field_name("type")
    else:
        named = node.child_by_field_name("name") or _declared(node) or _leftmost(node)
    last = named
    if node.type == "instance":  # in Haskell: the class, and what it is an instance of
        last = node.child_by_field_name("patterns") or named
    text = source[named.start_byte : last.end_byte] if named is not None and last is not None else b""
    return " ".join(text.decode("utf-8", "replace").split())[:MAX_NAME] or node.type.partition("_")[0]


def _declared(node: Node) -> Node | None:
    """In C, the name is inside the declarator, under a pointer and a parameter list: `char *f(int x)`."""
    found = None
    while (inner := node.child_by_field_name("declarator")) is not None:
        found = node = inner
    return found


def _leftmost(node: Node) -> Node | None:
    """The name in languages whose grammar has no field for it: the first of the first children that is one."""
    body = node.child_by_field_name("body")
    for child in node.named_children[:8]:
        inner: Node | None = child
        if child == body:
            break
        for _ in range(6):
            if inner is None or inner.type in _NAMES:
                break
            inner = inner.child_by_field_name("name") or next(iter(inner.named_children), None)
        if inner is not None and inner.type in _NAMES:
            return inner
    return None
