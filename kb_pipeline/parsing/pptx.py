"""PowerPoint presentations (Office Open XML), turned into Markdown. Read from the XML itself: ECMA-376-1, 19 and 21.

What belongs here: the text of slides, in the order in which it is shown, and of their notes. Slide numbers, dates and
footers are left out.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from kb_pipeline.parsing import omml, ooxml
from kb_pipeline.parsing.document import BlockKind, Document
from kb_pipeline.parsing.trees import attribute, child, children, descendants, local
from kb_pipeline.parsing.writer import Writer

MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
_WHAT = "The presentation"
_TITLES = frozenset({"title", "ctrTitle"})
_LEFT_OUT = frozenset({"sldNum", "dt", "ftr", "hdr", "sldImg"})
# Placeholders whose paragraphs have bullets unless they say otherwise.
_BULLETED = frozenset({"", "body", "obj"})


def parse(data: bytes, name: str) -> Document:
    """Parse a presentation: the title of a slide is a heading, its number (from 1) the page; notes come after a slide.

    Raises ParseError: ENCRYPTED, CORRUPT, TOO_LARGE, UNSUPPORTED (a presentation of PowerPoint 97).
    """
    package = ooxml.Package(data, _WHAT)
    part = package.main_part()
    targets = {each.id: each.target for each in package.relationships(part) if each.kind == "slide"}
    writer = Writer()
    slides = [ooxml.relationship_id(each) for each in children(child(package.tree(part), "sldIdLst"), "sldId")]
    for number, slide in enumerate(slides, 1):
        if slide in targets:
            writer.page = number
            _Slide(package, targets[slide], writer).write()
    title, metadata = package.properties
    return writer.document(MEDIA_TYPE, title, {**metadata, "pages": str(len(slides))})


class _Slide:
    def __init__(self, package: ooxml.Package, part: str, writer: Writer) -> None:
        self._package = package
        self._part = part
        self._writer = writer
        self._targets = {each.id: each.target for each in package.relationships(part)}

    def write(self) -> None:
        """Write the slide and its notes."""
        shapes = child(self._package.tree(self._part), "cSld", "spTree")
        if shapes is not None:
            titles = [each for each in shapes.iter() if local(each) == "sp" and _placeholder(each) in _TITLES]
            title = " ".join(" ".join(_inline(p) for p in _paragraphs(each)) for each in titles)
            # A slide without a title is no longer below the title of the one before.
            self._writer.headings.clear()
            self._writer.heading(1, " ".join(title.split()))
            self._shapes(shapes)
        for notes in self._package.related(self._part, "notesSlide"):
            for each in descendants(self._package.tree(notes), "sp"):
                if _placeholder(each) == "body":
                    text = "\n".join(filter(None, (_inline(p).strip() for p in _paragraphs(each))))
                    self._writer.add(BlockKind.PARAGRAPH, f"Notes: {text}" if text else "")

    def _shapes(self, container: Element) -> None:
        for element in ooxml.chosen(container):
            name = local(element)
            if name == "sp":
                if _placeholder(element) not in _TITLES | _LEFT_OUT:
                    self._text(element)
            elif name == "pic":
                self._writer.add(BlockKind.PARAGRAPH, ooxml.drawing_text(element))
            elif name == "graphicFrame":
                self._graphic(element)
            elif name == "grpSp":
                self._shapes(element)

    def _text(self, shape: Element) -> None:
        bulleted = _placeholder(shape) in _BULLETED
        joined, counts = False, [0] * 9
        for paragraph in _paragraphs(shape):
            text = _inline(paragraph).strip()
            if not text:
                continue
            properties = child(paragraph, "pPr")
            level = attribute(properties, "lvl") or "0"
            depth = int(level) if level in "012345678" and len(level) == 1 else 0
            numbered = child(properties, "buAutoNum") is not None
            item = numbered or child(properties, "buChar") is not None or (bulleted and child(properties, "buNone") is None)
            if not item:
                self._writer.add(BlockKind.PARAGRAPH, text)
            else:
                counts[depth] += 1
                counts[depth + 1 :] = [0] * (8 - depth)
                marker = f"{counts[depth]}. " if numbered else "- "
                self._writer.item(" ".join(text.split()), marker=marker, level=depth, joined=joined)
            joined = item

    def _graphic(self, frame: Element) -> None:
        for table in descendants(frame, "tbl"):
            rows = [
                [" ".join(_inline(p) for p in _paragraphs(cell)) for cell in children(row, "tc")]
                for row in children(table, "tr")
            ]
            self._writer.table(rows, header=True)
        for chart in descendants(frame, "chart"):
            if (target := self._targets.get(ooxml.relationship_id(chart))) is not None:
                for title, rows in ooxml.chart_tables(self._package.tree(target)):
                    self._writer.add(BlockKind.PARAGRAPH, title)
                    self._writer.table(rows, header=True)
        for diagram in descendants(frame, "relIds"):
            if (target := self._targets.get(ooxml.relationship_id(diagram, "dm"))) is not None:
                texts = (_inline(p).strip() for p in descendants(self._package.tree(target), "p"))
                self._writer.add(BlockKind.LIST, "\n".join(f"- {text}" for text in texts if text))


def _placeholder(shape: Element) -> str | None:
    """Return the type of the placeholder that a shape fills ("" for one without a type), or None for a shape of its own."""
    found = next((each for each in (child(part, "nvPr", "ph") for part in shape) if each is not None), None)
    return None if found is None else found.get("type") or ""


def _paragraphs(shape: Element) -> list[Element]:
    return children(child(shape, "txBody"), "p")


def _inline(element: Element) -> str:
    pieces: list[str] = []
    for each in ooxml.chosen(element):
        name = local(each)
        if name == "t":
            pieces.append(each.text or "")
        elif name == "br":
            pieces.append("\n")
        elif name == "oMathPara":
            pieces += [f"$${omml.to_latex(formula)}$$" for formula in children(each, "oMath")]
        elif name == "oMath":
            pieces.append(f"${omml.to_latex(each)}$")
        elif not name.endswith("Pr"):
            pieces.append(_inline(each))
    return "".join(pieces)
