"""YAML to plain data that remembers its lines.

What belongs here: parsing kb.yaml safely and saying on which line a key stands. What doesn't: what the keys mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from kb_pipeline.settings.errors import Problem

_MOST_NODES = 100_000  # aliases make a small file large; no honest kb.yaml has that many
_DEEPEST = 50  # levels of nesting
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_ALIAS = re.compile(r"found undefined alias .*")

Location = tuple[int | str, ...]


@dataclass(slots=True)
class Document:
    """A parsed file: plain data (mappings with str keys, lists, scalars), its problems, and the line of each place."""

    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    lines: dict[Location, int] = field(default_factory=dict)

    def line(self, location: Sequence[int | str]) -> int | None:
        """The line (from 1) of the deepest existing place on the way to ``location``."""
        for length in range(len(location), -1, -1):
            if (found := self.lines.get(tuple(location[:length]))) is not None:
                return found
        return None


def key_path(location: Sequence[int | str]) -> str:
    """A location as people write it: ``sources[1].include``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse(raw: bytes) -> Document:
    """Parse a file. Never raises for what is in it: ``problems`` says what is wrong, ``data`` is None if nothing is."""
    document = Document()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        document.problems.append(Problem("expected a text file in UTF-8", line))
        return document
    loader: Any = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            document.data = _Builder(loader, document).build(node, (), frozenset())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.problems.append(Problem(_explain(error), mark.line + 1 if mark else None))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.problems.append(Problem("not valid YAML: a control character", line))
    except RecursionError:
        document.problems.append(Problem("not valid YAML: nested too deeply"))
    finally:
        if loader is not None:
            loader.dispose()
    return document


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "it can't be parsed"
    if "'\\t'" in problem:
        return "a tab where YAML allows only spaces: indent with spaces"
    if "single document" in (error.context or "") + problem:
        return "expected one YAML document, but there is a second one (---)"
    # The text behind the star may be a secret that begins with one.
    problem = _ALIAS.sub("found a * with no anchor of that name: put the text in quotes", problem)
    return f"not valid YAML: {problem}"


class _Builder:
    def __init__(self, loader: Any, document: Document) -> None:
        self._loader = loader
        self._document = document
        self._left = _MOST_NODES

    def build(self, node: yaml.Node, location: Location, above: frozenset[int]) -> Any:
        document = self._document
        document.lines.setdefault(location, node.start_mark.line + 1)
        self._left -= 1
        if id(node) in above or self._left < 0 or len(location) > _DEEPEST:
            if self._left >= 0 or not self._document.problems:
                self._report(node, location, "expected plain nesting: aliases in a circle, or too much of it")
            return None
        above = above | {id(node)}
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*location, i), above) for i, child in enumerate(node.value)]
        return self._scalar(node, location)

    def _mapping(self, node: yaml.MappingNode, location: Location, above: frozenset[int]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                self._report(key_node, location, "merge keys (<<) are not supported: write the keys out")
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(key_node, location, "expected a plain word as a key")
                continue
            key = str(key_node.value)
            place = (*location, key)
            line = key_node.start_mark.line + 1
            if key in result:
                first = self._document.lines[place]
                self._document.problems.append(
                    Problem(f"duplicate key: it already stands on line {first}", line, key_path(place))
                )
                continue
            self._document.lines[place] = line
            result[key] = self.build(value_node, place, above)
        return result

    def _scalar(self, node: yaml.Node, location: Location) -> Any:
        if node.tag == _TIMESTAMP:
            return node.value  # a date is text here: nothing in kb.yaml is a time
        try:
            value = self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            value = _MOST_NODES, node  # no plain value: reported below
        if not isinstance(value, str | int | float | bool | None):
            self._report(node, location, "expected plain text, a number, true or false (no YAML tags)")
            return None
        if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
            self._report(node, location, "expected valid Unicode text")
            return None
        return value

    def _report(self, node: yaml.Node, location: Location, message: str) -> None:
        self._document.problems.append(Problem(message, node.start_mark.line + 1, key_path(location)))


_SURROGATE = re.compile("[\ud800-\udfff]")
