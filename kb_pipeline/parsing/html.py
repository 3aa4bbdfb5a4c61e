"""HTML, turned into Markdown by a walk over its tree.

Runs in the parser process: the HTML library is native code, and takes time in proportion to size times depth, without
end on pages that were made for it.

What belongs here: which elements are text and what block they make. Formulas pass untouched: TeX in the text stays as
it is, and MathML is replaced by the TeX that it carries or converted (mathml).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from xml.etree.ElementTree import Element, SubElement

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from kb_pipeline.parsing import mathml
from kb_pipeline.parsing.document import BlockKind, Document
from kb_pipeline.parsing.fences import fence
from kb_pipeline.parsing.metadata import common, one_line
from kb_pipeline.parsing.text import decode
from kb_pipeline.parsing.writer import Writer

_DROPPED_NAMES = """
    script style nav noscript template svg iframe object embed canvas audio video map head
    button select option textarea input datalist dialog
"""
_DROPPED = frozenset(_DROPPED_NAMES.split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCK_NAMES = """
    address article aside body blockquote caption center dd details div dl dt fieldset figcaption figure footer form
    header hgroup hr html legend li main ol p section summary table tbody td tfoot th thead tr ul menu
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_CODE = frozenset({"code", "kbd", "samp", "tt"})
_NOT_IN_DATA_TABLES = frozenset({"table", "pre", "blockquote", *_HEADINGS})
_CELL_CHARACTERS = 1_000
# Deeper tables are layout without a look: a look at each level would take time in proportion to size times depth.
_TABLE_DEPTH = 8
_FORMULA_DEPTH = 100
_SPACE = re.compile(r"[ \t\n\r\f]+")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.I)
_HEAD_BYTES = 4_096
# What documentation tools put at the end of a heading as a link to it.
_PERMALINKS = "¶ \u200b"
_LANGUAGE = re.compile(r"(?:^|\s)(?:language-|lang-|highlight-source-)([\w+#-]+)")


def parse(data: bytes, name: str) -> Document:
    """Parse an HTML page: headings, lists, tables and code become Markdown; scripts, styles and menus are dropped.

    Title, author, dates and language are taken from the head.
    """
    text, encoding = decode_page(data)
    writer = Writer()
    title, metadata = write(text, writer)
    return writer.document("text/html", title, {**metadata, "encoding": encoding})


def write(text: str, writer: Writer, *, below: int = 0) -> tuple[str, dict[str, str]]:
    """Write a page, or a piece of one, to ``writer``; return its title ("" for none) and its metadata.

    ``below``: what is added to the levels of its headings.
    """
    try:
        tree = LexborHTMLParser(text)
    except SelectolaxError as error:
        # Any text is a page by the rules of HTML: what stops the parser is a refusal of memory.
        raise MemoryError from error
    if tree.body is not None:
        _Walk(writer, below).run(tree.body)
    head_title = tree.css_first("title")
    return one_line(head_title.text()) if head_title else "", _metadata(tree)


def _metadata(tree: LexborHTMLParser) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for meta in tree.css("head meta"):
        attributes = meta.attributes
        key, content = attributes.get("name") or attributes.get("property"), attributes.get("content")
        if key and content:
            found.setdefault(key.lower(), []).append(content)

    def first(keys: str) -> str | None:
        return next((found[key][0] for key in keys.split() if key in found), None)

    root = tree.root
    language = root.attributes.get("lang") or root.attributes.get("xml:lang") if root is not None else None
    metadata = common(
        # Some pages give the address of a profile for a name.
        author=[name for key in _AUTHORS.split() for name in found.get(key, ()) if not name.startswith("http")],
        created=first(_CREATED),
        modified=first(_MODIFIED),
        language=language or first("dc.language dcterms.language"),
    )
    if description := one_line(first("description dc.description dcterms.description og:description")):
        metadata["description"] = description
    return metadata


_AUTHORS = "author dc.creator dcterms.creator citation_author article:author"
_CREATED = "article:published_time date dc.date dcterms.created dcterms.date dc.date.created citation_publication_date"
_MODIFIED = "article:modified_time last-modified dcterms.modified dc.date.modified og:updated_time"


def decode_page(data: bytes) -> tuple[str, str]:
    """Return the text of a page, and the encoding that it declares or, where that is wrong or missing, is found."""
    declared = _CHARSET.search(data[:_HEAD_BYTES])
    if declared is not None:
        try:
            encoding = codecs.lookup(declared[1].decode("ascii")).name
            # What browsers do: Latin-1 is taken for its superset.
            encoding = "cp1252" if encoding in ("iso8859-1", "ascii") else encoding
            if not encoding.startswith(("utf-8", "utf-16", "utf-32")) and b"\0" not in data:
                return data.decode(encoding), encoding
        except (LookupError, ValueError):
            pass
    return decode(data)


class _Walk:
    """One walk over the tree, without recursion: pages can be nested deeper than Python's stack."""

    def __init__(self, writer: Writer, below: int) -> None:
        self._below = below
        self._writer = writer
        self._inline: list[str] = []
        self._lists: list[int | None] = []  # Open lists: the next number, or None for bullets.
        self._marker: str | None = None
        self._in_list = False  # The last block written belongs to the list that is open.
        self._quotes = 0
        self._tables = 0

    def run(self, root: LexborNode) -> None:
        """Write everything under ``root``."""
        for node, entering in _visit(root, self._skips):
            tag = node.tag or ""
            if tag == "-text":
                if entering:
                    self._inline.append(node.text_content or "")
            elif entering:
                self._enter(node, tag)
            else:
                self._leave(tag)
        self._flush()

    def _skips(self, node: LexborNode) -> bool:
        """Handle the elements that are read as a whole. True: do not walk their children."""
        tag = node.tag
        if (inline := _atom(node)) is not None:
            if inline.startswith("$$") and not self._lists and not self._quotes:
                # A display formula stands by itself, though it is written inside a paragraph.
                self._flush()
                self._writer.add(BlockKind.FORMULA, inline)
            else:
                self._inline.append(inline)
            return True
        if tag in _HEADINGS:
            self._flush()
            title = _inline_text(node).strip(_PERMALINKS)
            self._end_list()
            self._writer.heading(_HEADINGS[tag] + self._below, title.replace("\n", " "))
            return True
        if tag == "pre":
            self._flush()
            code = node.text(deep=True)
            if code.strip():
                self._writer.add(BlockKind.CODE, fence(code.removeprefix("\n"), _language(node)))
                self._in_list = False
            return True
        if tag == "table" and self._tables < _TABLE_DEPTH and _is_data(node):
            self._flush()
            self._write_table(node)
            return True
        return False

    def _enter(self, node: LexborNode, tag: str) -> None:
        if tag == "br":
            self._inline.append("\n" if self._marker is None and not self._lists else " ")
            return
        if tag not in _BLOCKS:
            return
        self._flush()
        if tag in ("ul", "ol", "menu"):
            self._lists.append(_number(node.attributes.get("start")) if tag == "ol" else None)
        elif tag == "li":
            self._marker = self._next_marker()
        elif tag == "blockquote":
            self._quotes += 1
        elif tag == "table":
            self._tables += 1

    def _leave(self, tag: str) -> None:
        if tag not in _BLOCKS:
            return
        self._flush()
        if tag in ("ul", "ol", "menu") and self._lists:
            self._lists.pop()
            if not self._lists:
                self._end_list()
        elif tag == "li":
            self._marker = None
        elif tag == "blockquote":
            self._quotes -= 1
        elif tag == "table":
            self._tables -= 1

    def _next_marker(self) -> str:
        number = self._lists[-1] if self._lists else None
        if number is None:
            return "- "
        self._lists[-1] = number + 1
        return f"{number}. "

    def _end_list(self) -> None:
        self._in_list = False

    def _flush(self) -> None:
        text = _collapse(self._inline)
        self._inline.clear()
        if not text:
            return
        if self._lists or self._marker is not None:
            marker = self._marker if self._marker is not None else "  "
            level = max(len(self._lists) - 1, 0)
            self._writer.item(text.replace("\n", " "), marker=marker, level=level, joined=self._in_list)
            self._marker = None
            self._in_list = True
        elif self._quotes:
            self._writer.add(BlockKind.QUOTE, "\n".join(f"> {line}" for line in text.split("\n")))
        else:
            self._writer.add(BlockKind.PARAGRAPH, text)

    def _write_table(self, table: LexborNode) -> None:
        rows: list[list[str]] = []
        header = False
        for node in table.traverse(include_text=False):
            if node.tag == "caption":
                self._writer.add(BlockKind.PARAGRAPH, _inline_text(node))
                continue
            if node.tag != "tr":
                continue
            cells = [cell for cell in node.iter() if cell.tag in ("td", "th")]
            texts = [_inline_text(cell) for cell in cells]
            if any(texts):
                header = header or (not rows and any(cell.tag == "th" for cell in cells))
                rows.append(texts)
        self._writer.table(rows, header=header)
        self._in_list = False


def _visit(root: LexborNode, skips: Callable[[LexborNode], bool]) -> Iterator[tuple[LexborNode, bool]]:
    """Yield every node under ``root`` with True, and elements again with False after their children.

    A node for which ``skips`` is true is left out with all that is under it.
    """
    stack: list[LexborNode] = []
    node = root.child
    while node is not None or stack:
        if node is None:
            node = stack.pop()
            yield node, False
        elif not skips(node):
            yield node, True
            if node.child is not None:
                stack.append(node)
                node = node.child
                continue
            if node.tag != "-text":
                yield node, False
        node = node.next


def _atom(node: LexborNode) -> str | None:
    """Return the text of an element that is read as a whole inside a line ("" drops it), or None for any other."""
    tag = node.tag
    if tag == "-text":
        return None
    if tag == "script":
        kind = node.attributes.get("type") or ""
        if not kind.startswith("math/tex"):
            return ""
        return _formula(node.text(deep=True), display="mode=display" in kind)
    if tag in _DROPPED or tag is None or tag.startswith(("-", "!", "_")):
        return ""
    attributes = node.attributes
    if "hidden" in attributes or attributes.get("aria-hidden") == "true" or attributes.get("role") == "navigation":
        return ""
    if tag == "math":
        return _math(node)
    if tag == "img":
        return attributes.get("alt") or ""
    if tag in _CODE:
        code = _SPACE.sub(" ", node.text(deep=True)).strip()
        ticks = "``" if "`" in code else "`"
        return f"{ticks}{code}{ticks}" if code else ""
    return None


def _math(node: LexborNode) -> str:
    return _formula(mathml.to_latex(_element(node)), display=node.attributes.get("display") == "block")


def _element(root: LexborNode) -> Element:
    """Return a formula as a tree of its own. What is nested more than 100 deep is flattened."""
    built = Element("math", {key: value for key, value in root.attributes.items() if value is not None})
    stack = [built]
    for node, entering in _visit(root, lambda _: False):
        tag = node.tag or ""
        if tag == "-text":
            if entering:
                _append_text(stack[-1], node.text_content or "")
        elif not tag.startswith(("-", "!", "_")):
            if not entering:
                stack.pop()
            elif len(stack) > _FORMULA_DEPTH:
                stack.append(stack[-1])
            else:
                attributes = {key: value for key, value in node.attributes.items() if value is not None}
                stack.append(SubElement(stack[-1], tag, attributes))
    return built


def _append_text(element: Element, text: str) -> None:
    if len(element):
        element[-1].tail = (element[-1].tail or "") + text
    else:
        element.text = (element.text or "") + text


def _formula(tex: str, *, display: bool) -> str:
    tex = mathml.unwrap(tex)
    ends = "$$" if display else "$"
    return f"{ends}{tex}{ends}" if tex else ""


def _is_data(table: LexborNode) -> bool:
    """Tell a table of data from one that lays out a page: its cells are short, without blocks, and it has columns."""
    nodes = table.traverse(include_text=False)
    next(nodes, None)
    widest = 0
    for node in nodes:
        if node.tag in _NOT_IN_DATA_TABLES:
            return False
        if node.tag == "tr":
            widest = max(widest, sum(1 for cell in node.iter() if cell.tag in ("td", "th")))
        elif node.tag in ("td", "th") and len(node.text(deep=True)) > _CELL_CHARACTERS:
            return False
    return widest > 1


def _inline_text(root: LexborNode) -> str:
    """Return the text of an element whose content is one line or a few."""
    parts: list[str] = []

    def skips(node: LexborNode) -> bool:
        inline = _atom(node)
        if inline is not None:
            parts.append(inline)
        return inline is not None

    for node, entering in _visit(root, skips):
        if node.tag == "-text":
            if entering:
                parts.append(node.text_content or "")
        elif node.tag == "br" or node.tag in _BLOCKS:
            parts.append(" ")
    return _collapse(parts)


def _collapse(parts: list[str]) -> str:
    # A line feed of its own is a <br>; those inside the source's text are spaces.
    text = "".join(part if part == "\n" else _SPACE.sub(" ", part) for part in parts)
    return "\n".join(line for line in (" ".join(line.split(" ")).strip() for line in text.split("\n")) if line)


def _language(pre: LexborNode) -> str:
    for node in pre.traverse(include_text=False):
        if match := _LANGUAGE.search(node.attributes.get("class") or ""):
            return match[1]
    return ""


def _number(value: str | None) -> int:
    return int(value) if value and re.fullmatch(r"\d{1,9}", value) else 1
