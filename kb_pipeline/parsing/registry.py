"""Which parser reads an item.

What belongs here: the table of parsers, and the choice by file name, first bytes and the media type that a source tells. A
version of this table is part of what makes a stored result stale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kb_pipeline.parsing import (
    archive,
    code,
    docx,
    epub,
    html,
    latex,
    mail,
    markdown,
    markup,
    notebook,
    odf,
    outlook,
    pdf,
    pptx,
    rst,
    rtf,
    signatures,
    spreadsheet,
    structured,
    tabular,
    text,
)
from kb_pipeline.parsing.document import Document

# To be raised whenever any parser's output, or the choice of the parser, changes for any input.
PARSERS_VERSION = "3"

# What ``choose`` needs to see of an item, at most. Bytes.
HEAD_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class Parser:
    """How one format is read.

    ``id`` is stored with results. ``parse`` takes bytes and the file name, and raises ParseError. Parsers run native code
    over hostile input, unpack it and build trees of it: the pipeline calls them in processes of their own (``pool``).
    """

    id: str
    media_type: str
    parse: Callable[[bytes, str], Document]


_TEXT = Parser("text/1", "text/plain", text.parse)
_MARKDOWN = Parser("markdown/2", "text/markdown", markdown.parse)
_RST = Parser("rst/1", "text/x-rst", rst.parse)
_HTML = Parser("html/2", "text/html", html.parse)
_XML = Parser("xml/1", "application/xml", markup.parse)
_LATEX = Parser("latex/2", "text/x-tex", latex.parse)
_CODE = Parser("code/3", "text/x-source", code.parse)
_NOTEBOOK = Parser("notebook/2", "application/x-ipynb+json", notebook.parse)
_CSV = Parser("csv/1", "text/csv", tabular.parse_csv)
_TSV = Parser("tsv/1", "text/tab-separated-values", tabular.parse_tsv)
_JSON = Parser("json/1", "application/json", structured.parse_json)
_JSON_LINES = Parser("jsonl/1", "application/jsonl", structured.parse_json_lines)
_PDF = Parser("pdf/2", "application/pdf", pdf.parse)
_DOCX = Parser("docx/1", docx.MEDIA_TYPE, docx.parse)
_PPTX = Parser("pptx/1", pptx.MEDIA_TYPE, pptx.parse)
_ODT = Parser("odt/1", odf.TEXT, odf.parse_text)
_ODP = Parser("odp/1", odf.PRESENTATION, odf.parse_presentation)
_SPREADSHEET = Parser("spreadsheet/1", spreadsheet.XLSX, spreadsheet.parse)
_EPUB = Parser("epub/1", "application/epub+zip", epub.parse)
_OUTLOOK = Parser("outlook/1", "application/vnd.ms-outlook", outlook.parse)
_RTF = Parser("rtf/1", "application/rtf", rtf.parse)
_MAIL = Parser("mail/1", "message/rfc822", mail.parse)
_ARCHIVE = Parser("archive/1", archive.MEDIA_TYPE, archive.parse)

_BY_EXTENSION: dict[str, Parser] = {
    **dict.fromkeys(["txt", "text", "log", "adoc", "org"], _TEXT),
    **dict.fromkeys(["md", "markdown", "mdown", "mkd", "mdx", "qmd", "rmd"], _MARKDOWN),
    **dict.fromkeys(["rst", "rest"], _RST),
    **dict.fromkeys(["html", "htm", "xhtml"], _HTML),
    **dict.fromkeys(["xml", "xsd", "xsl", "xslt", "rss", "atom", "rdf"], _XML),
    **dict.fromkeys(["tex", "latex", "ltx", "sty", "cls"], _LATEX),
    **dict.fromkeys(["jsonl", "ndjson"], _JSON_LINES),
    **dict.fromkeys(["json", "geojson"], _JSON),
    **dict.fromkeys(["tsv", "tab"], _TSV),
    **dict.fromkeys(["docx", "docm", "dotx", "dotm"], _DOCX),
    **dict.fromkeys(["pptx", "pptm", "ppsx", "potx"], _PPTX),
    **dict.fromkeys(["odt", "ott"], _ODT),
    **dict.fromkeys(["odp", "otp"], _ODP),
    **dict.fromkeys(["xlsx", "xlsm", "xltx", "xlsb", "xls", "ods"], _SPREADSHEET),
    **dict.fromkeys(code.LANGUAGES, _CODE),
    "csv": _CSV,
    "epub": _EPUB,
    "eml": _MAIL,
    "msg": _OUTLOOK,
    "ipynb": _NOTEBOOK,
    "pdf": _PDF,
    "rtf": _RTF,
}

# Known, and without a parser in this version: never taken for text, whatever their first bytes.
_EXTENSIONS_WITHOUT_PARSER = """
    doc dot ppt pot pps pages numbers key mobi azw3 djvu ps eps
    mbox pst vcf ics
    zip tar gz tgz bz2 xz zst 7z rar jar war whl iso dmg deb rpm
    png jpg jpeg gif bmp tif tiff webp heic ico svg psd ai mp3 wav flac ogg m4a mp4 mkv mov avi webm
    exe dll so dylib o a class pyc pyd wasm bin ttf otf woff woff2
    npy npz pt pth safetensors onnx parquet feather arrow sqlite db h5 hdf5 pkl mat
"""
_WITHOUT_PARSER = frozenset(_EXTENSIONS_WITHOUT_PARSER.split())


_BY_MEDIA_TYPE: dict[str, Parser] = {
    **{
        parser.media_type: parser
        for parser in (_MARKDOWN, _RST, _HTML, _XML, _LATEX, _NOTEBOOK, _CSV, _TSV, _JSON, _JSON_LINES, _PDF, _DOCX, _PPTX)
    },
    **{parser.media_type: parser for parser in (_ODT, _ODP, _SPREADSHEET, _EPUB, _OUTLOOK, _RTF, _MAIL)},
    **dict.fromkeys(["text/x-markdown"], _MARKDOWN),
    **dict.fromkeys(["application/xhtml+xml"], _HTML),
    **dict.fromkeys(["text/xml"], _XML),
    **dict.fromkeys(["application/x-tex", "application/x-latex", "text/x-latex"], _LATEX),
    **dict.fromkeys(["application/x-ndjson", "application/ndjson"], _JSON_LINES),
    **dict.fromkeys(["text/rtf"], _RTF),
    **dict.fromkeys(
        [
            "application/vnd.ms-excel",
            "application/vnd.ms-excel.sheet.macroenabled.12",
            "application/vnd.ms-excel.sheet.binary.macroenabled.12",
            "application/vnd.oasis.opendocument.spreadsheet",
        ],
        _SPREADSHEET,
    ),
    "application/vnd.ms-word.document.macroenabled.12": _DOCX,
    "application/vnd.ms-powerpoint.presentation.macroenabled.12": _PPTX,
}
"""Not text/plain and application/octet-stream: servers say so of whatever they don't know. Not source code: its language is
told by its name."""
_OF_TEXT = frozenset({_MARKDOWN, _RST, _HTML, _XML, _LATEX, _NOTEBOOK, _CSV, _TSV, _JSON, _JSON_LINES, _MAIL})


def choose(name: str, head: bytes, *, inside: bool = False, media_type: str | None = None) -> Parser | None:
    """Return the parser for a file, or None when this version has none (the exclusion rule ``no_parser``).

    ``name``: the file name with its extension. ``head``: the first HEAD_BYTES bytes, or more.
    PDF, rich text and notebooks are told by their bytes. Then the extension decides. With an unknown extension, or none,
    or one that has no parser, the members of a ZIP file tell documents. Then ``media_type`` decides, which the source
    tells, unless it speaks of text and the bytes are none. Other files are read as HTML, XML, mail or plain text where
    their bytes look like it.

    So a name that says something wins over the media type: most servers guess that from the name, with a table older
    than ours. An extension that is known to have no parser says something too.

    ``inside``: the file was found in another one. Only then there is a parser for archives.
    """
    if head.startswith(signatures.PDF):
        return _PDF
    if head.startswith(signatures.RTF):
        return _RTF
    extension = _extension(name)
    parser = _by_name(name)
    if parser in (_JSON, None) and extension not in _WITHOUT_PARSER and signatures.looks_like_notebook(head):
        return _NOTEBOOK
    if parser is not None:
        return parser
    if (zipped := signatures.zipped_format(head)) is not None:
        return _BY_EXTENSION[zipped]
    if inside and (
        extension in archive.EXTENSIONS or (extension not in _WITHOUT_PARSER and head.startswith(signatures.ZIP))
    ):
        return _ARCHIVE
    if extension in _WITHOUT_PARSER:
        return None
    told = stated(name, media_type)
    if told is not None and told not in _OF_TEXT:
        return told
    if not signatures.looks_like_text(head):
        return None
    if told is not None:
        return told
    for looks_like, found in _LOOKS:
        if looks_like(head):
            return found
    return _TEXT


_LOOKS = ((signatures.looks_like_html, _HTML), (signatures.looks_like_xml, _XML), (signatures.looks_like_mail, _MAIL))


def stated(name: str, media_type: str | None) -> Parser | None:
    """The parser that a file's name stands for or, where that says nothing, its media type; None: its bytes must tell.

    Two media types that state the same make no difference to ``choose``.
    """
    parser = _by_name(name)
    if parser is not None or media_type is None or _extension(name) in _WITHOUT_PARSER:
        return parser
    essence = media_type.partition(";")[0].strip().lower()
    if essence in _BY_MEDIA_TYPE:
        return _BY_MEDIA_TYPE[essence]
    if essence.startswith("application/"):
        return {"json": _JSON, "xml": _XML}.get(essence.rpartition("+")[2])
    return None


def _by_name(name: str) -> Parser | None:
    return _CODE if code.language(name) else _BY_EXTENSION.get(_extension(name))


def _extension(name: str) -> str:
    base, dot, extension = name.rpartition("/")[2].rpartition(".")
    # A leading dot hides a file, and makes no extension.
    return extension.lower() if dot and base else ""
