"""PDF, read with PDFium. Runs in the parser process: PDFium is native code that hostile files can crash.

What belongs here: the text of pages, and where it lies. Pages are not rendered, and nothing is recognised in images.
"""

from __future__ import annotations

import re
from itertools import islice

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.headings import HeadingStack
from kb_pipeline.parsing.metadata import common
from kb_pipeline.parsing.spans import stripped_span
from kb_pipeline.statuses import Status

_PAGE_GAP = "\n\n"
_OUTLINE_ENTRIES = 10_000
_LANGUAGE_CHARACTERS = 100
# What PDFium puts, a noncharacter, for a hyphen and the line end after it.
_BROKEN_WORD = re.compile(r"(\w*)\ufffe[ \n]?(\w*)")
_WORD = re.compile(r"[^\W\d_]+")
_PLACEHOLDERS = frozenset({"", "untitled", "(anonymous)", "anonymous", "(unspecified)", "unspecified"})


def parse(data: bytes, name: str) -> Document:
    """Parse a PDF: the text of its pages, two line feeds between them, one block per page with its number (from 1).

    A page's heading path is taken from the outline. Pages that can't be read are named in ``metadata``.
    Raises ParseError: ENCRYPTED when a password is needed, CORRUPT when PDFium can't read the file or any page of it.
    """
    # Imported here, so that the registry can name this parser without loading PDFium into the main process.
    import pypdfium2
    import pypdfium2.raw as pdfium

    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
            raise ParseError(Status.ENCRYPTED, "The PDF needs a password.") from None
        raise ParseError(Status.CORRUPT, f"The PDF can't be opened: {error}") from None
    paths = _outline_paths(pdf)
    pages: list[str] = []
    unreadable: list[str] = []
    for index in range(len(pdf)):
        try:
            pages.append(_page_text(pdf, index))
        except pypdfium2.PdfiumError:
            pages.append("")
            unreadable.append(str(index + 1))
    if len(unreadable) == len(pages):
        raise ParseError(Status.CORRUPT, "No page of the PDF can be read.")
    pages = _mend_words(pages)
    blocks: list[Block] = []
    path: tuple[str, ...] = ()
    position = 0
    for number, text in enumerate(pages, 1):
        path = paths.get(number, path)
        for start, end in stripped_span(text, 0, len(text)):
            blocks.append(Block(BlockKind.PARAGRAPH, position + start, position + end, path, number))
        position += len(text) + len(_PAGE_GAP)
    title, metadata = _metadata(pdf)
    metadata["pages"] = str(len(pages))
    if unreadable:
        metadata["unreadable_pages"] = ", ".join(unreadable)
    return Document(_PAGE_GAP.join(pages), "application/pdf", tuple(blocks), title, metadata)


def _metadata(pdf: object) -> tuple[str | None, dict[str, str]]:
    """Return the title, and the other entries that say something."""
    raw: dict[str, str] = pdf.get_metadata_dict(skip_empty=True)  # type: ignore[attr-defined]
    found = {key.lower(): value.replace("\0", "").strip() for key, value in raw.items()}
    # Placeholders of the tools that write PDF are no metadata.
    found = {key: value for key, value in found.items() if value.lower() not in _PLACEHOLDERS}
    metadata = common(
        author=found.pop("author", None),
        created=found.pop("creationdate", None),
        modified=found.pop("moddate", None),
        language=_language(pdf),
    )
    return found.pop("title", None), found | metadata


def _language(pdf: object) -> str:
    """Return the language that the catalog declares, or ""."""
    import ctypes

    import pypdfium2.raw as pdfium

    length = pdfium.FPDFCatalog_GetLanguage(pdf, None, 0)
    if not 2 < length <= 2 * _LANGUAGE_CHARACTERS:
        return ""
    buffer = (ctypes.c_ushort * (length // 2))()
    pdfium.FPDFCatalog_GetLanguage(pdf, buffer, length)
    return bytes(buffer).decode("utf-16-le", "replace").rstrip("\0")


def _page_text(pdf: object, index: int) -> str:
    page = pdf[index]  # type: ignore[index]
    try:
        text_page = page.get_textpage()
        try:
            text: str = text_page.get_text_range()
        finally:
            text_page.close()
    finally:
        page.close()
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", " ")


def _mend_words(pages: list[str]) -> list[str]:
    """Join words that were parted at the end of a line.

    The hyphen stays where the document uses both halves as words of their own, and the whole nowhere.
    """
    if not any("\ufffe" in page for page in pages):
        return pages
    words = {word.lower() for page in pages for word in _WORD.findall(_BROKEN_WORD.sub(" ", page))}

    def mend(match: re.Match[str]) -> str:
        first, second = match[1], match[2]
        halves_are_words = first.lower() in words and second.lower() in words
        joined = first and second and not first[-1].isdigit() and not second[0].isupper()
        if not joined or (halves_are_words and (first + second).lower() not in words):
            return f"{first}-{second}"
        return first + second

    return [_BROKEN_WORD.sub(mend, page) for page in pages]


def _outline_paths(pdf: object) -> dict[int, tuple[str, ...]]:
    """Return, for each page on which an entry of the outline begins, the path of the first such entry."""
    import pypdfium2

    headings = HeadingStack()
    paths: dict[int, tuple[str, ...]] = {}
    try:
        for entry in islice(pdf.get_toc(), _OUTLINE_ENTRIES):  # type: ignore[attr-defined]
            title = " ".join(entry.get_title().split())
            target = entry.get_dest()
            index = target.get_index() if target else None
            if title and index is not None:
                paths.setdefault(index + 1, headings.push(entry.level + 1, title))
    except pypdfium2.PdfiumError:
        # A broken outline costs the paths after the break, not the text.
        pass
    return paths
