"""XML: feeds (RSS 0.9 to 2.0, Atom) turned into Markdown, everything else kept as it is.

What belongs here: what a feed says, and which XML is a page of HTML. Entities are never expanded (trees).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element

from kb_pipeline.parsing import html, trees
from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.metadata import common, iso_date, one_line
from kb_pipeline.parsing.signatures import byte_order_mark
from kb_pipeline.parsing.spans import stripped_span
from kb_pipeline.parsing.text import decode
from kb_pipeline.parsing.trees import attribute, child, children, local, text_of
from kb_pipeline.parsing.writer import Writer
from kb_pipeline.statuses import Status

_WHAT = "The XML"
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
_TITLE_DEPTH = 3


def parse(data: bytes, name: str) -> Document:
    """Parse XML: a feed's entries become sections, XHTML is read as HTML, and any other text is kept as one block.

    Raises ParseError(CORRUPT) for what is not well-formed, declares entities, or is nested more than 200 deep.
    """
    text, encoding = _decode(data)
    root = trees.parse(text.encode("utf-8", "replace"), _WHAT, encoding="utf-8")
    kind = local(root)
    if kind == "html":
        return html.parse(data, name)
    if kind in ("rss", "RDF") and (channel := child(root, "channel")) is not None:
        items = children(channel, "item") or children(root, "item")
        return _feed("application/rss+xml", channel, items, {**_rss(channel), "encoding": encoding})
    if kind == "feed":
        return _feed("application/atom+xml", root, children(root, "entry"), {**_atom(root), "encoding": encoding})
    blocks = tuple(Block(BlockKind.CODE, start, end) for start, end in stripped_span(text, 0, len(text)))
    return Document(text, "application/xml", blocks, _title(root), {"encoding": encoding})


def _decode(data: bytes) -> tuple[str, str]:
    declared = _DECLARED.match(data.lstrip())
    if declared is not None and byte_order_mark(data) is None:
        encoding = declared[1].decode("ascii")
        try:
            return data.decode(encoding), encoding.lower()
        except LookupError:
            pass
        except UnicodeDecodeError as error:
            raise ParseError(Status.CORRUPT, f"{_WHAT} is not the {encoding} it declares: {error}.") from None
    return decode(data)


def _title(root: Element) -> str | None:
    level: list[Element] = [root]
    for _ in range(_TITLE_DEPTH):
        for element in level:
            if local(element) == "title" and (title := one_line(text_of(element))):
                return title
        level = [each for element in level for each in element]
    return None


def _rss(channel: Element) -> dict[str, str]:
    return common(
        author=_first(channel, "managingEditor", "creator"),
        created=_first(channel, "pubDate"),
        modified=_first(channel, "lastBuildDate", "date"),
        language=_first(channel, "language"),
    )


def _atom(feed: Element) -> dict[str, str]:
    language = feed.get("{http://www.w3.org/XML/1998/namespace}lang")
    return common(author=_names(feed), modified=_first(feed, "updated"), language=language)


def _names(element: Element) -> list[str]:
    return [text_of(child(author, "name")) for author in children(element, "author")]


def _first(element: Element, *names: str) -> str:
    return next((value for name in names if (value := one_line(text_of(child(element, name))))), "")


def _feed(media_type: str, feed: Element, entries: Iterable[Element], metadata: dict[str, str]) -> Document:
    writer = Writer()
    title = _markup_line(child(feed, "title"))
    writer.heading(1, title)
    _write(child(feed, "description") if child(feed, "description") is not None else child(feed, "subtitle"), writer)
    for entry in entries:
        path = writer.headings.path
        writer.heading(2, _markup_line(child(entry, "title")) or "Untitled")
        when = iso_date(_first(entry, "published", "pubDate", "date", "updated"))
        who = _first(entry, "author" if not _names(entry) else "", "creator") or "; ".join(filter(None, _names(entry)))
        link = child(entry, "link")
        where = one_line(text_of(link)) or attribute(link, "href") or ""
        writer.add(BlockKind.PARAGRAPH, "\n".join(filter(None, (when, one_line(who), where))))
        content = next((found for name in _CONTENT if (found := child(entry, name)) is not None), None)
        _write(content, writer)
        # Headings inside an entry end with it.
        writer.headings.leave_to(path)
    return writer.document(media_type, title, metadata)


_CONTENT = ("encoded", "content", "description", "summary")


def _write(element: Element | None, writer: Writer) -> None:
    """Write a text that may hold HTML, escaped or as elements; its headings go below those of the feed."""
    if element is None:
        return
    content = _inner(element)
    if "<" in content or "&" in content:
        html.write(content, writer, below=2)
    else:
        writer.add(BlockKind.PARAGRAPH, content.strip())


def _inner(element: Element) -> str:
    """Return the HTML in an element: its text where that is escaped HTML, its elements where they are XHTML."""
    if not len(element):
        return element.text or ""
    copied = trees.without_namespaces(element)
    return "".join([copied.text or "", *(trees.serialised(each) for each in copied)])


def _markup_line(element: Element | None) -> str:
    """Return a title on one line. Titles may hold HTML as well."""
    if element is None:
        return ""
    content = _inner(element)
    if "<" not in content and "&" not in content:
        return one_line(content)
    writer = Writer()
    html.write(content, writer)
    return one_line(writer.document("", None, {}).text)
