"""What the first bytes of a file say about it.

What belongs here: magic numbers and the looks of text. What doesn't: file names (registry) and decoding (text).
"""

from __future__ import annotations

import codecs
import re

PDF = b"%PDF-"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # OLE compound files: DOC, XLS, PPT, MSG
ZIP = b"PK\x03\x04"  # ZIP, and what is built on it: Office Open XML, OpenDocument, EPUB, JAR
RTF = b"{\\rtf"

# Longest first where one is the beginning of another: UTF-32-LE begins with the mark of UTF-16-LE.
BYTE_ORDER_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_BINARY = (
    # Only those that may show no NUL byte for long; NUL bytes give all other binary files away.
    ZIP,
    b"PK\x05\x06",
    OLE,
    RTF,  # text, but only a parser of its own makes sense of it
    b"%!PS",
    b"\x1f\x8b",
    b"BZh91AY",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"(\xb5/\xfd",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
)
_HTML = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,1000}?-->\s*)*<(?:!doctype\s+html|html[\s>])", re.I | re.S)
_XML = re.compile(rb"\s*<\?xml[\s?]")
_MAIL_HEADER = re.compile(rb"([\x21-\x39\x3b-\x7e]{1,76}):(?:[^\r\n]|\r?\n[ \t])*(?:\r?\n|\Z)")
_MAIL_HEADERS = frozenset(
    b"from to cc bcc subject date received message-id mime-version return-path reply-to sender x-mailer".split()
)
_ENCRYPTED_OFFICE = "EncryptedPackage".encode("utf-16-le")
_NOTEBOOK = re.compile(rb'"cells"\s*:\s*\[')
_CONTROLS = bytes(c for c in range(32) if c not in b"\t\n\r\f\x1b\x08")


def byte_order_mark(head: bytes) -> tuple[bytes, str] | None:
    """Return the byte-order mark that ``head`` begins with, and its encoding."""
    return next(((mark, name) for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), None)


def is_binary(head: bytes) -> bool:
    """Tell whether ``head`` begins a known binary file, or holds NUL bytes that no byte-order mark explains."""
    if head.startswith(_BINARY):
        return True
    mark = byte_order_mark(head)
    return b"\0" in head and (mark is None or mark[1] == "utf-8")


def looks_like_text(head: bytes) -> bool:
    """Tell whether ``head`` reads as text: UTF-8 that may stop inside a character, or 8-bit text with few controls."""
    if is_binary(head):
        return False
    if byte_order_mark(head):
        return True
    controls = len(head) - len(head.translate(None, _CONTROLS))
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return controls == 0
    return controls * 100 <= len(head)


def looks_like_html(head: bytes) -> bool:
    """Tell whether ``head`` begins an HTML page."""
    return _HTML.match(head) is not None


def looks_like_xml(head: bytes) -> bool:
    """Tell whether ``head`` begins with an XML declaration."""
    mark = byte_order_mark(head)
    if mark is not None and mark[1] != "utf-8":
        head = head[len(mark[0]) :].replace(b"\0", b"")
    elif mark is not None:
        head = head[len(mark[0]) :]
    return _XML.match(head) is not None


def looks_like_mail(head: bytes) -> bool:
    """Tell whether ``head`` begins with header fields of a message (RFC 5322), three or more of them well known."""
    found: set[bytes] = set()
    position = 0
    while len(found) < 3 and (header := _MAIL_HEADER.match(head, position)):
        found |= {header[1].lower()} & _MAIL_HEADERS
        position = header.end()
    return len(found) >= 3


def encrypted_office(data: bytes) -> bool:
    """Tell whether an OLE compound file holds an encrypted Office Open XML document (MS-OFFCRYPTO, 2.3.4.4)."""
    return data.startswith(OLE) and _ENCRYPTED_OFFICE in data


def zipped_format(head: bytes) -> str | None:
    """Return the extension that a ZIP file's first members stand for, or None when they don't say.

    OpenDocument and EPUB begin with a member ``mimetype`` that is stored as it is; Office Open XML names its folder.
    """
    if not head.startswith(ZIP):
        return None
    if head[30:38] == b"mimetype":
        return next((ext for media_type, ext in _MIMETYPES if head.startswith(media_type, 38)), None)
    if b"[Content_Types].xml" not in head and b"_rels/.rels" not in head:
        return None
    return next((ext for folder, ext in ((b"word/", "docx"), (b"ppt/", "pptx"), (b"xl/", "xlsx")) if folder in head), None)


_MIMETYPES = (
    (b"application/epub+zip", "epub"),
    (b"application/vnd.oasis.opendocument.text", "odt"),
    (b"application/vnd.oasis.opendocument.presentation", "odp"),
    (b"application/vnd.oasis.opendocument.spreadsheet", "ods"),
)


def looks_like_notebook(head: bytes) -> bool:
    """Tell whether ``head`` begins a JSON object that holds Jupyter cells."""
    return head.lstrip()[:1] == b"{" and _NOTEBOOK.search(head) is not None and b'"cell_type"' in head
