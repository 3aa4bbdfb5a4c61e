"""Packages of Office Open XML (ECMA-376-2): what documents and presentations have in common.

What belongs here: parts, relationships, properties, drawings. What doesn't: text (docx, pptx).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from xml.etree.ElementTree import Element

from kb_pipeline.parsing import trees
from kb_pipeline.parsing.containers import Container, resolve
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.metadata import common, one_line
from kb_pipeline.parsing.trees import attribute, child, children, local, text_of
from kb_pipeline.statuses import Status

_RELATIONSHIPS = frozenset(
    {
        "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
        "http://purl.oclc.org/ooxml/officeDocument/relationships",
    }
)


@dataclass(frozen=True, slots=True)
class Relationship:
    """A reference from one part to another. ``kind``: the last word of its type; ``target``: the name of a member."""

    id: str
    kind: str
    target: str


class Package:
    """A package that has passed the checks of ``Container``, whose errors it raises."""

    def __init__(self, data: bytes, what: str) -> None:
        self._what = what
        self._container = Container(data, what)
        self._relationships: dict[str, list[Relationship]] = {}

    def main_part(self) -> str:
        """Return the name of the part that the package is about. Raises ParseError(CORRUPT) where none is named."""
        for each in self.relationships(""):
            if each.kind == "officeDocument" and each.target in self._container:
                return each.target
        raise ParseError(Status.CORRUPT, f"{self._what} names no main part.")

    def relationships(self, part: str) -> list[Relationship]:
        """Return the references from a part ("": the package) to other parts, in the order of the file."""
        if part not in self._relationships:
            self._relationships[part] = self._read_relationships(part)
        return self._relationships[part]

    def _read_relationships(self, part: str) -> list[Relationship]:
        folder, _, name = part.rpartition("/")
        data = self._container.read_if_there(f"{folder}/_rels/{name}.rels".lstrip("/"))
        if data is None:
            return []
        return [
            Relationship(
                each.get("Id") or "",
                (each.get("Type") or "").rpartition("/")[2],
                resolve(part, each.get("Target") or ""),
            )
            for each in children(trees.parse(data, self._what), "Relationship")
            if each.get("TargetMode") != "External"
        ]

    def related(self, part: str, kind: str) -> list[str]:
        """Return the names of the parts that a part refers to as ``kind`` and that are there."""
        return [each.target for each in self.relationships(part) if each.kind == kind and each.target in self._container]

    def tree(self, part: str, *, without: bytes = b"") -> Element:
        """Return the root element of a part. Raises ParseError(CORRUPT) where it is missing or not sound.

        ``without``: the name, as it is commonly written, of an element that need not be there.
        """
        return trees.parse(_cut(self._container.read(part), without), self._what)

    @cached_property
    def properties(self) -> tuple[str, dict[str, str]]:
        """The title ("" for none) and the metadata of the package."""
        core = next(iter(self.related("", "core-properties")), None)
        if core is None:
            return "", {}
        found = {local(each): text_of(each) for each in self.tree(core)}
        metadata = common(
            author=found.get("creator"),
            created=found.get("created"),
            modified=found.get("modified"),
            language=found.get("language"),
        )
        metadata |= {key: one_line(found[key]) for key in ("subject", "keywords", "description") if found.get(key)}
        return one_line(found.get("title")), {key: value for key, value in metadata.items() if value}


def _cut(data: bytes, name: bytes) -> bytes:
    """Return XML without the first element of this name, where it is written as expected; else all of it."""
    if name and (start := data.find(b"<%s " % name)) >= 0:
        closing = b"</%s>" % name
        if (end := data.find(closing, start)) >= 0:
            return data[:start] + data[end + len(closing) :]
    return data


def relationship_id(element: Element | None, name: str = "id") -> str:
    """Return the value of an ``r:id`` or another attribute of its namespace; "" where there is none."""
    if element is None:
        return ""
    return next((value for key, value in element.items() if _is_reference(key, name)), "")


def _is_reference(key: str, name: str) -> bool:
    namespace, _, local_name = key.lstrip("{").rpartition("}")
    return local_name == name and namespace in _RELATIONSHIPS


def chosen(element: Element) -> Iterator[Element]:
    """Yield the children of an element, those of the preferred alternative in place of each ``mc:AlternateContent``.

    The first choice goes before the fallback, which says the same for older programs.
    """
    for each in element:
        if local(each) != "AlternateContent":
            yield each
        else:
            alternative = child(each, "Choice")
            alternative = child(each, "Fallback") if alternative is None else alternative
            if alternative is not None:
                yield from chosen(alternative)


def chart_tables(root: Element) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield, for each plot of a chart, its title and a table: a column of categories, and one for each series."""
    title = one_line(" ".join(text_of(each) for each in trees.descendants(root, "title") for each in _texts(each)))
    for plot in child(root, "chart", "plotArea") or ():
        series = children(plot, "ser")
        if not series:
            continue
        categories: dict[str, str] = {}
        columns: list[dict[str, str]] = []
        for each in series:
            categories |= _points(child(each, "cat") if child(each, "cat") is not None else child(each, "xVal"))
            columns.append(_points(child(each, "val") if child(each, "val") is not None else child(each, "yVal")))
        indices = sorted({*categories, *(i for column in columns for i in column)}, key=lambda i: (len(i), i))
        names = [one_line(" ".join(text_of(v) for v in trees.descendants(each, "v"))) for each in map(_name, series)]
        rows = [["", *names]]
        rows += [[categories.get(i, i), *(column.get(i, "") for column in columns)] for i in indices]
        yield title, rows


def _name(series: Element) -> Element:
    found = child(series, "tx")
    return Element("tx") if found is None else found


def _texts(element: Element) -> Iterator[Element]:
    return trees.descendants(element, "t")


def _points(data: Element | None) -> dict[str, str]:
    if data is None:
        return {}
    return {each.get("idx") or "": one_line(text_of(child(each, "v"))) for each in trees.descendants(data, "pt")}


def drawing_text(element: Element) -> str:
    """Return what a drawing says about itself: the description of the first picture in it."""
    for each in element.iter():
        if local(each) in ("docPr", "cNvPr") and (description := one_line(attribute(each, "descr"))):
            return description
    return ""
