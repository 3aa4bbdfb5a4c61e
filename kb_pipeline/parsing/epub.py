"""Electronic books (EPUB 2 and 3), turned into Markdown.

What belongs here: which files of a book are its text, in which order, and what the book says about itself. What its
pages say is HTML's.
"""

from __future__ import annotations

from urllib.parse import unquote
from xml.etree.ElementTree import Element

from kb_pipeline.parsing import html, trees
from kb_pipeline.parsing.containers import Container, resolve
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.metadata import common, one_line
from kb_pipeline.parsing.trees import attribute, child, children, descendants, text_of
from kb_pipeline.parsing.writer import Writer
from kb_pipeline.statuses import Status

_WHAT = "The book"
_PAGES = frozenset({"application/xhtml+xml", "text/html"})
# Fonts that are obfuscated, as licences ask for, are no obstacle to reading.
_OBFUSCATED = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def parse(data: bytes, name: str) -> Document:
    """Parse a book: the files of its spine, each as a page of HTML.

    Raises ParseError: ENCRYPTED (digital rights management), CORRUPT, TOO_LARGE, UNSUPPORTED.
    """
    container = Container(data, _WHAT)
    _refuse_encrypted(container)
    rootfile = next(descendants(trees.parse(container.read("META-INF/container.xml"), _WHAT), "rootfile"), None)
    package_name = attribute(rootfile, "full-path") or ""
    package = trees.parse(container.read(package_name), _WHAT)
    items = {attribute(each, "id"): each for each in children(child(package, "manifest"), "item")}
    writer = Writer()
    missing: list[str] = []
    for reference in children(child(package, "spine"), "itemref"):
        item = items.get(attribute(reference, "idref"))
        if attribute(item, "media-type") not in _PAGES:
            continue
        page = resolve(package_name, unquote(attribute(item, "href") or ""))
        if page not in container:
            missing.append(page)
        elif "nav" not in (attribute(item, "properties") or "").split():
            html.write(html.decode_page(container.read(page))[0], writer)
    if missing and writer.empty:
        raise ParseError(Status.CORRUPT, f"{_WHAT} lacks all the files of its text.")
    title, metadata = _metadata(package)
    if missing:
        metadata["missing"] = ", ".join(missing)
    return writer.document("application/epub+zip", title, metadata)


def _refuse_encrypted(container: Container) -> None:
    data = container.read_if_there("META-INF/encryption.xml")
    if data is None:
        return
    for each in descendants(trees.parse(data, _WHAT), "EncryptedData"):
        if attribute(child(each, "EncryptionMethod"), "Algorithm") not in _OBFUSCATED:
            raise ParseError(Status.ENCRYPTED, f"{_WHAT} is protected by digital rights management.")


def _metadata(package: Element) -> tuple[str, dict[str, str]]:
    head = child(package, "metadata")
    modified = next(
        (text_of(each) for each in children(head, "meta") if attribute(each, "property") == "dcterms:modified"), ""
    )
    metadata = common(
        author=[text_of(each) for each in children(head, "creator")],
        created=text_of(child(head, "date")),
        modified=modified,
        language=text_of(child(head, "language")),
    )
    for key in ("publisher", "description", "subject", "identifier"):
        if value := one_line("; ".join(filter(None, (one_line(text_of(each)) for each in children(head, key))))):
            metadata[key] = value
    return one_line(text_of(child(head, "title"))), metadata
