"""Word documents (Office Open XML), turned into Markdown. Read from the XML itself: ECMA-376-1, 17 and 22.1.

What belongs here: paragraphs, lists, tables, notes and formulas of WordprocessingML. Headers and footers, which repeat
on every page, field codes and deleted text are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from kb_pipeline.parsing import omml, ooxml
from kb_pipeline.parsing.document import BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.fences import fence
from kb_pipeline.parsing.metadata import one_line
from kb_pipeline.parsing.trees import attribute, child, children, descendants, local
from kb_pipeline.parsing.writer import Writer
from kb_pipeline.statuses import Status

MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_WHAT = "The Word document"
_HEADING_NAME = re.compile(r"heading ([1-9])", re.I)
_CODE_NAME = re.compile(r"\b(?:code|source|verbatim|preformatted)", re.I)
_QUOTE_NAME = re.compile(r"\bquote\b", re.I)
_LEFT_OUT = frozenset(
    {"del", "moveFrom", "sectPr", "instrText", "delText", "rPr", "pPr", "tblPr", "tblGrid", "trPr", "tcPr"}
)
_BASED_ON = 20
# What Word would show of styles that the document doesn't have: most of what there is to parse in most documents.
_LATENT_STYLES = b"w:latentStyles"


def parse(data: bytes, name: str) -> Document:
    """Parse a Word document: headings by their outline level, lists, tables, formulas as LaTeX, notes at the end.

    Raises ParseError: ENCRYPTED, CORRUPT, TOO_LARGE, UNSUPPORTED (a document of Word 97).
    """
    package = ooxml.Package(data, _WHAT)
    part = package.main_part()
    body = child(package.tree(part), "body")
    if body is None:
        raise ParseError(Status.CORRUPT, f"{_WHAT} has no body.")
    walk = _Walk(package, part)
    walk.blocks(body)
    walk.notes()
    title, metadata = package.properties
    return walk.writer.document(MEDIA_TYPE, title or walk.title, metadata)


@dataclass(slots=True)
class _Style:
    """A paragraph style: what it says about the paragraphs in it."""

    name: str = ""
    based_on: str = ""
    level: int | None = None  # 0 is a title, 1 to 9 are headings
    numbering: tuple[str, int] | None = None


@dataclass(slots=True)
class _Numbering:
    """Which lists count, and how far they have."""

    ordered: dict[tuple[str, int], bool]
    counts: dict[tuple[str, int], int] = field(default_factory=dict)

    def marker(self, number: str, level: int) -> str:
        if not self.ordered.get((number, level), False):
            return "- "
        # A list begins anew below each item of the list that holds it.
        for key in [key for key in self.counts if key[0] == number and key[1] > level]:
            del self.counts[key]
        self.counts[number, level] = self.counts.get((number, level), 0) + 1
        return f"{self.counts[number, level]}. "


class _Walk:
    def __init__(self, package: ooxml.Package, part: str) -> None:
        self.writer = Writer()
        self.title = ""
        self._package = package
        self._part = part
        self._relations = {each.id: each.target for each in package.relationships(part)}
        self._styles = _styles(package, part)
        self._numbering = _Numbering(_ordered_lists(package, part))
        self._noted: list[tuple[str, str]] = []  # (kind, id), in the order of their references
        self._boxes: list[Element] = []
        self._charts: list[str] = []
        self._code: list[str] = []
        self._in_list = False

    def blocks(self, container: Element) -> None:
        """Write the paragraphs and tables of a body, a cell, a text box or a note."""
        for element in ooxml.chosen(container):
            name = local(element)
            if name == "p":
                self._paragraph(element)
            elif name == "tbl":
                self._flush_code()
                self._table(element)
            elif name not in _LEFT_OUT:
                # Content controls, insertions and custom XML wrap blocks.
                self.blocks(element)
        self._flush_code()

    def notes(self) -> None:
        """Write the footnotes and endnotes that were referred to, and the comments."""
        for kind, marker in (("footnotes", "^"), ("endnotes", "^e"), ("comments", "")):
            # Word writes notes that are mere lines into every document.
            if not any(noted_kind == kind for noted_kind, _ in self._noted):
                continue
            for part in self._package.related(self._part, kind):
                texts = {attribute(each, "id"): each for each in self._package.tree(part)}
                for noted_kind, number in list(self._noted):
                    if noted_kind == kind and number in texts:
                        self._note(texts[number], f"[{marker}{number}]: " if marker else "")

    def _note(self, note: Element, prefix: str) -> None:
        content = "\n".join(filter(None, (self._inline(each).strip() for each in descendants(note, "p"))))
        if content and prefix:
            self.writer.add(BlockKind.PARAGRAPH, prefix + content)
        elif content:
            author = one_line(attribute(note, "author"))
            lines = f"Comment by {author}: {content}" if author else f"Comment: {content}"
            self.writer.add(BlockKind.QUOTE, "\n".join(f"> {line}" for line in lines.split("\n")))

    def _paragraph(self, paragraph: Element) -> None:
        properties = child(paragraph, "pPr")
        style = self._styles.get(attribute(child(properties, "pStyle"), "val") or "", _Style())
        text = self._inline(paragraph)
        level, numbered = _level(properties, style), _numbering(properties) or style.numbering
        if _CODE_NAME.search(style.name) and level is None:
            self._code.append(text)
        else:
            self._flush_code()
            self._write(text.strip(), style, level, numbered)
        self._extras()

    def _write(self, text: str, style: _Style, level: int | None, numbered: tuple[str, int] | None) -> None:
        if not text:
            return
        if level is not None:
            title = " ".join(text.split())
            self.writer.heading(max(level, 1), title)
            self.title = self.title or (title if level == 0 else "")
        elif numbered and numbered[0] != "0":
            marker = self._numbering.marker(*numbered)
            text = " ".join(text.split())
            self.writer.item(text, marker=marker, level=numbered[1], joined=self._in_list)
        elif _QUOTE_NAME.search(style.name):
            self.writer.add(BlockKind.QUOTE, "\n".join(f"> {line}" for line in text.split("\n")))
        else:
            for piece in _parted(text):
                self.writer.add(BlockKind.PARAGRAPH, piece)
        self._in_list = level is None and bool(numbered)

    def _extras(self) -> None:
        """Write what hangs on the paragraph before: text boxes and charts."""
        boxes, self._boxes = self._boxes, []
        charts, self._charts = self._charts, []
        for box in boxes:
            self.blocks(box)
        for chart in charts:
            for title, rows in ooxml.chart_tables(self._package.tree(chart)):
                self.writer.add(BlockKind.PARAGRAPH, title)
                self.writer.table(rows, header=True)

    def _flush_code(self) -> None:
        code, self._code = "\n".join(self._code), []
        if code.strip():
            self.writer.add(BlockKind.CODE, fence(code.strip("\n")))
            self._in_list = False

    def _table(self, table: Element) -> None:
        rows = [[self._cell(cell) for cell in _wrapped(row, "tc")] for row in _wrapped(table, "tr")]
        if max(map(len, rows), default=0) > 1:
            self.writer.table(rows, header=True)
        else:
            # One column is a frame around text.
            for row in _wrapped(table, "tr"):
                for cell in _wrapped(row, "tc"):
                    self.blocks(cell)
        self._in_list = False
        self._extras()

    def _cell(self, cell: Element) -> str:
        return " ".join(filter(None, (self._inline(each).strip() for each in _paragraphs(cell))))

    def _inline(self, element: Element) -> str:
        """Return the text in a paragraph or a part of one."""
        return "".join(map(self._piece, ooxml.chosen(element)))

    def _piece(self, element: Element) -> str:
        name = local(element)
        if name == "t":
            return element.text or ""
        if name in ("tab", "ptab"):
            return "\t"
        if name in ("br", "cr"):
            return "\n"
        if name == "noBreakHyphen":
            return "-"
        if name == "sym":
            code = attribute(element, "char") or ""
            return chr(int(code, 16)) if re.fullmatch(r"[0-9A-Fa-f]{1,4}", code) else ""
        if name == "oMathPara":
            return "".join(f"\n$${tex}$$\n" for each in children(element, "oMath") if (tex := omml.to_latex(each)))
        if name == "oMath":
            tex = omml.to_latex(element)
            return f"${tex}$" if tex else ""
        if name in ("footnoteReference", "endnoteReference", "commentReference"):
            return self._reference(name, attribute(element, "id") or "")
        if name in ("drawing", "pict", "object"):
            return self._drawing(element)
        return "" if name in _LEFT_OUT else self._inline(element)

    def _reference(self, name: str, number: str) -> str:
        kind = {"footnoteReference": "footnotes", "endnoteReference": "endnotes"}.get(name, "comments")
        self._noted.append((kind, number))
        return {"footnotes": f"[^{number}]", "endnotes": f"[^e{number}]"}.get(kind, "")

    def _drawing(self, drawing: Element) -> str:
        # Boxes inside boxes are written with the outer one.
        self._boxes += _outermost(drawing, "txbxContent")
        for chart in descendants(drawing, "chart"):
            if (target := self._relations.get(ooxml.relationship_id(chart))) is not None:
                self._charts.append(target)
        return ooxml.drawing_text(drawing)


def _parted(text: str) -> Iterator[str]:
    """Yield the lines of a paragraph, each display formula by itself."""
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("$$") and line.endswith("$$"):
            yield "\n".join(lines).strip()
            yield line
            lines = []
        else:
            lines.append(line)
    yield "\n".join(lines).strip()


def _level(properties: Element | None, style: _Style) -> int | None:
    outline = attribute(child(properties, "outlineLvl"), "val")
    if outline is not None and outline.isdecimal():
        return int(outline) + 1 if int(outline) < 9 else None
    return style.level


def _numbering(properties: Element | None) -> tuple[str, int] | None:
    found = child(properties, "numPr")
    number = attribute(child(found, "numId"), "val")
    level = attribute(child(found, "ilvl"), "val") or "0"
    return (number, int(level)) if number is not None and level.isdecimal() and len(level) < 3 else None


def _styles(package: ooxml.Package, part: str) -> dict[str, _Style]:
    styles: dict[str, _Style] = {}
    for target in package.related(part, "styles"):
        for element in children(package.tree(target, without=_LATENT_STYLES), "style"):
            name = attribute(child(element, "name"), "val") or ""
            properties = child(element, "pPr")
            heading = _HEADING_NAME.fullmatch(name)
            level = 0 if name.lower() == "title" else int(heading[1]) if heading else _level(properties, _Style())
            based_on = attribute(child(element, "basedOn"), "val") or ""
            styles[attribute(element, "styleId") or ""] = _Style(name, based_on, level, _numbering(properties))
    for style in styles.values():
        _inherit(style, styles)
    return styles


def _inherit(style: _Style, styles: dict[str, _Style]) -> None:
    base = style
    for _ in range(_BASED_ON):
        if base.based_on not in styles:
            return
        base = styles[base.based_on]
        style.level = base.level if style.level is None and base.level != 0 else style.level
        style.numbering = style.numbering or base.numbering


def _ordered_lists(package: ooxml.Package, part: str) -> dict[tuple[str, int], bool]:
    """Return, for each level of each list, whether its items are counted."""
    ordered: dict[tuple[str, int], bool] = {}
    for target in package.related(part, "numbering"):
        root = package.tree(target)
        formats = {
            attribute(abstract, "abstractNumId"): {
                attribute(level, "ilvl") or "": attribute(child(level, "numFmt"), "val")
                for level in children(abstract, "lvl")
            }
            for abstract in children(root, "abstractNum")
        }
        for number in children(root, "num"):
            levels = formats.get(attribute(child(number, "abstractNumId"), "val"), {})
            for level, kind in levels.items():
                if level.isdecimal():
                    ordered[attribute(number, "numId") or "", int(level)] = kind not in ("bullet", "none", None)
    return ordered


def _wrapped(element: Element, name: str) -> Iterator[Element]:
    """Yield the rows of a table, or the cells of a row, those in content controls too."""
    for each in ooxml.chosen(element):
        if local(each) == name:
            yield each
        elif local(each) in ("sdt", "sdtContent", "ins", "customXml"):
            yield from _wrapped(each, name)


def _paragraphs(element: Element) -> Iterator[Element]:
    """Yield the paragraphs in a cell, those of tables in it too, but not those of text boxes in those."""
    for each in ooxml.chosen(element):
        if local(each) == "p":
            yield each
        elif local(each) not in _LEFT_OUT:
            yield from _paragraphs(each)


def _outermost(element: Element, name: str) -> list[Element]:
    found: list[Element] = []
    for each in ooxml.chosen(element):
        found += [each] if local(each) == name else _outermost(each, name)
    return found
