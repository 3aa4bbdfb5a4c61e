"""OpenDocument texts and presentations (ODF 1.3), turned into Markdown.

What belongs here: ODT and ODP; they share their elements. Spreadsheets are another module's (spreadsheet). Deleted text,
headers and footers are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from kb_pipeline.parsing import mathml, trees
from kb_pipeline.parsing.containers import Container, resolve
from kb_pipeline.parsing.document import BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.fences import fence
from kb_pipeline.parsing.metadata import common, one_line
from kb_pipeline.parsing.trees import attribute, child, children, descendants, local, text_of
from kb_pipeline.parsing.writer import Writer
from kb_pipeline.statuses import Status

TEXT = "application/vnd.oasis.opendocument.text"
PRESENTATION = "application/vnd.oasis.opendocument.presentation"
_WHAT = "The OpenDocument file"
_LEFT_OUT = frozenset({"tracked-changes", "sequence-decls", "forms", "desc", "title", "settings", "soft-page-break"})
_CODE_STYLES = ("Preformatted", "Source", "Code")
_QUOTE_STYLES = ("Quotations", "Quote")
# Placeholders of presentations that repeat on every slide.
_REPEATED = frozenset({"page-number", "date-time", "footer", "header", "page"})
_SPACES = 1_000


def parse_text(data: bytes, name: str) -> Document:
    """Parse a text document (ODT): headings, lists, tables, formulas as LaTeX, notes at the end.

    Raises ParseError: ENCRYPTED, CORRUPT, TOO_LARGE, UNSUPPORTED.
    """
    container, content = _open(data)
    walk = _Walk(container, content)
    walk.blocks(_body(content, "text"))
    walk.notes()
    title, metadata = document_metadata(container)
    return walk.writer.document(TEXT, title or walk.title, metadata)


def parse_presentation(data: bytes, name: str) -> Document:
    """Parse a presentation (ODP): the title of a slide is a heading, its number (from 1) the page.

    Raises ParseError: ENCRYPTED, CORRUPT, TOO_LARGE, UNSUPPORTED.
    """
    container, content = _open(data)
    walk = _Walk(container, content)
    slides = children(_body(content, "presentation"), "page")
    for number, slide in enumerate(slides, 1):
        walk.slide(slide, number)
    walk.notes()
    title, metadata = document_metadata(container)
    metadata["pages"] = str(len(slides))
    return walk.writer.document(PRESENTATION, title, metadata)


def _open(data: bytes) -> tuple[Container, Element]:
    container = Container(data, _WHAT)
    manifest = container.read_if_there("META-INF/manifest.xml")
    if manifest is not None and next(trees.descendants(trees.parse(manifest, _WHAT), "encryption-data"), None) is not None:
        raise ParseError(Status.ENCRYPTED, f"{_WHAT} needs a password.")
    return container, trees.parse(container.read("content.xml"), _WHAT)


def _body(content: Element, kind: str) -> Element:
    body = child(content, "body", kind)
    if body is None:
        raise ParseError(Status.CORRUPT, f"{_WHAT} has no {kind} in it.")
    return body


def document_metadata(container: Container) -> tuple[str, dict[str, str]]:
    """Return the title ("" for none) and the metadata of any OpenDocument file."""
    data = container.read_if_there("meta.xml")
    meta = child(trees.parse(data, _WHAT), "meta") if data is not None else None
    found = {local(each): text_of(each) for each in (meta if meta is not None else ())}
    metadata = common(
        author=found.get("initial-creator") or found.get("creator"),
        created=found.get("creation-date"),
        modified=found.get("date"),
        language=found.get("language"),
    )
    metadata |= {key: one_line(found[key]) for key in ("subject", "description") if one_line(found.get(key))}
    return one_line(found.get("title")), metadata


class _Walk:
    def __init__(self, container: Container, content: Element) -> None:
        self.writer = Writer()
        self.title = ""
        self._container = container
        self._parents = _automatic_styles(content)
        self._ordered = _ordered_lists(container, content)
        self._notes: list[tuple[str, str]] = []
        self._code: list[str] = []
        self._after: list[Element] = []

    def slide(self, slide: Element, number: int) -> None:
        """Write one slide and its notes."""
        self.writer.page = number
        self.writer.headings.clear()
        frames = [each for each in descendants(slide, "frame") if attribute(each, "class") == "title"]
        self.writer.heading(1, " ".join(" ".join(map(self._text, frames)).split()))
        for element in slide:
            if local(element) == "notes":
                boxes = [each for each in descendants(element, "frame") if attribute(each, "class") == "notes"]
                text = "\n".join(filter(None, (self._text(p).strip() for box in boxes for p in descendants(box, "p"))))
                self.writer.add(BlockKind.PARAGRAPH, f"Notes: {text}" if text else "")
            elif element not in frames and attribute(element, "class") not in _REPEATED:
                self._block(element)
                self._flush()

    def blocks(self, container: Element) -> None:
        """Write what is in a body, a section or a text box."""
        for element in container:
            self._block(element)
        self._flush()

    def notes(self) -> None:
        """Write the footnotes, endnotes and comments."""
        for mark, text in self._notes:
            if mark:
                self.writer.add(BlockKind.PARAGRAPH, f"[^{mark}]: {text}")
            else:
                self.writer.add(BlockKind.QUOTE, f"> {text}")

    def _block(self, element: Element) -> None:
        name = local(element)
        if name not in ("p", ""):
            self._flush()
        if name == "h":
            level = attribute(element, "outline-level") or "1"
            self.writer.heading(int(level) if level.isdecimal() else 1, " ".join(self._text(element).split()))
            self._write_after()
        elif name == "p":
            self._paragraph(element)
        elif name == "list":
            self._list(element, 0, joined=False)
        elif name == "table":
            self._table(element)
        elif name == "frame":
            self._frame(element)
        elif name and name not in _LEFT_OUT:
            # Sections, indices, numbered paragraphs, groups and shapes hold blocks.
            self.blocks(element)

    def _paragraph(self, paragraph: Element) -> None:
        style = self._style(paragraph)
        text = self._text(paragraph)
        if style.startswith(_CODE_STYLES):
            self._code.append(text)
            return
        self._flush()
        text = text.strip()
        if style == "Title" and text:
            self.title = self.title or " ".join(text.split())
            self.writer.heading(1, " ".join(text.split()))
        elif style.startswith(_QUOTE_STYLES):
            self.writer.add(BlockKind.QUOTE, "\n".join(f"> {line}" for line in text.split("\n")))
        else:
            # A formula that is all there is in a paragraph is shown by itself.
            display = text.startswith("$") and text.endswith("$") and text.count("$") == 2
            self.writer.add(BlockKind.PARAGRAPH, f"${text}$" if display else text)
        self._write_after()

    def _flush(self) -> None:
        code, self._code = "\n".join(self._code), []
        if code.strip():
            self.writer.add(BlockKind.CODE, fence(code.strip("\n")))

    def _list(self, element: Element, level: int, *, joined: bool, style: str = "") -> bool:
        """Write a list. ``style`` is that of the list around it. Returns whether anything was written, or ``joined``."""
        style = attribute(element, "style-name") or style
        ordered = (style, level + 1) in self._ordered
        for number, item in enumerate((each for each in element if local(each) in ("list-item", "list-header")), 1):
            marker = f"{number}. " if ordered else "- "
            for each in item:
                if local(each) == "list":
                    joined = self._list(each, level + 1, joined=joined, style=style)
                elif text := " ".join(self._text(each).split()):
                    self.writer.item(text, marker=marker, level=level, joined=joined)
                    marker, joined = "  ", True
        self._write_after()
        return joined

    def _table(self, table: Element) -> None:
        rows = [
            [self._cell(cell) for cell in row if local(cell) in ("table-cell", "covered-table-cell")] for row in _rows(table)
        ]
        self.writer.table(rows, header=True)
        self._write_after()

    def _cell(self, cell: Element) -> str:
        return " ".join(filter(None, (self._text(each).strip() for each in cell)))

    def _frame(self, frame: Element) -> None:
        for each in frame:
            name = local(each)
            if name == "text-box":
                self.blocks(each)
            elif name == "table":
                self._table(each)
            elif name == "object":
                self.writer.add(BlockKind.PARAGRAPH, f"${formula}$" if (formula := self._formula(each)) else "")
        self.writer.add(BlockKind.PARAGRAPH, _description(frame))

    def _write_after(self) -> None:
        """Write the text boxes that hang on the paragraph before."""
        boxes, self._after = self._after, []
        for box in boxes:
            self.blocks(box)

    def _text(self, element: Element) -> str:
        """Return the text in a paragraph or a part of one."""
        return "".join([element.text or "", *(self._piece(each) + (each.tail or "") for each in element)])

    def _piece(self, element: Element) -> str:
        name = local(element)
        if name == "s":
            count = attribute(element, "c") or "1"
            return " " * min(int(count), _SPACES) if count.isdecimal() and len(count) < 9 else " "
        if name == "tab":
            return "\t"
        if name == "line-break":
            return "\n"
        if name == "note":
            mark = " ".join(text_of(child(element, "note-citation")).split())
            body = child(element, "note-body")
            self._notes.append((mark or "*", " ".join(self._text(body).split()) if body is not None else ""))
            return f"[^{mark or '*'}]"
        if name == "annotation":
            author = one_line(text_of(child(element, "creator")))
            said = " ".join(text for each in element if local(each) in ("p", "list") for text in [self._text(each)])
            self._notes.append(("", f"Comment by {author}: {said}" if author else f"Comment: {said}"))
            return ""
        if name == "frame":
            self._after += children(element, "text-box")
            return next((f for each in children(element, "object") if (f := self._formula(each))), "") or _description(
                element
            )
        return "" if name in _LEFT_OUT else self._text(element)

    def _formula(self, element: Element) -> str:
        """Return the formula that an object is, between dollars, or "" where it is something else."""
        formula = next(descendants(element, "math"), None)
        if formula is None:
            name = resolve("content.xml", (attribute(element, "href") or "").removeprefix("./")) + "/content.xml"
            data = self._container.read_if_there(name)
            root = trees.parse(data, _WHAT) if data is not None else None
            formula = root if root is not None and local(root) == "math" else None
        tex = mathml.to_latex(formula) if formula is not None else ""
        return f"${tex}$" if tex else ""

    def _style(self, paragraph: Element) -> str:
        """Return the name of the named style of a paragraph."""
        style = attribute(paragraph, "style-name") or ""
        return self._parents.get(style, style).replace("_20_", " ")


def _automatic_styles(content: Element) -> dict[str, str]:
    """Return the named style that each automatic one is based on."""
    return {
        attribute(each, "name") or "": attribute(each, "parent-style-name") or ""
        for each in children(child(content, "automatic-styles"), "style")
    }


def _ordered_lists(container: Container, content: Element) -> set[tuple[str, int]]:
    """Return the list styles and levels (from 1) that are numbered."""
    data = container.read_if_there("styles.xml")
    roots = [content] if data is None else [trees.parse(data, _WHAT), content]
    return {
        (attribute(style, "name") or "", int(level))
        for root in roots
        for style in descendants(root, "list-style")
        for each in children(style, "list-level-style-number")
        if (level := attribute(each, "level") or "").isdecimal() and attribute(each, "num-format")
    }


def _rows(table: Element) -> Iterator[Element]:
    for each in table:
        if local(each) == "table-row":
            yield each
        elif local(each) in ("table-header-rows", "table-rows", "table-row-group"):
            yield from _rows(each)


def _description(frame: Element) -> str:
    return one_line(text_of(child(frame, "desc"))) or one_line(text_of(child(frame, "title")))
