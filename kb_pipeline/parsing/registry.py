"""Which parser reads an item.

What belongs here: the table of parsers, and the choice by file name and first bytes. A version of this table is part of
what makes a stored result stale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kb_pipeline.parsing import code, html, latex, markdown, notebook, pdf, signatures, structured, tabular, text
from kb_pipeline.parsing.document import Document

# To be raised whenever any parser's output, or the choice of the parser, changes for any input.
PARSERS_VERSION = "1"

# What ``choose`` needs to see of an item, at most. Bytes.
HEAD_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class Parser:
    """How one format is read.

    ``id`` is stored with results. ``parse`` takes bytes and the file name, and raises ParseError. ``isolated`` parsers
    run native code over hostile input and belong in a process of their own (``IsolatedParser``).
    """

    id: str
    media_type: str
    parse: Callable[[bytes, str], Document]
    isolated: bool = False


_TEXT = Parser("text/1", "text/plain", text.parse)
_MARKDOWN = Parser("markdown/1", "text/markdown", markdown.parse)
_HTML = Parser("html/1", "text/html", html.parse, isolated=True)
_LATEX = Parser("latex/1", "text/x-tex", latex.parse)
_CODE = Parser("code/1", "text/x-source", code.parse)
_NOTEBOOK = Parser("notebook/1", "application/x-ipynb+json", notebook.parse)
_CSV = Parser("csv/1", "text/csv", tabular.parse_csv)
_TSV = Parser("tsv/1", "text/tab-separated-values", tabular.parse_tsv)
_JSON = Parser("json/1", "application/json", structured.parse_json)
_JSON_LINES = Parser("jsonl/1", "application/jsonl", structured.parse_json_lines)
_PDF = Parser("pdf/1", "application/pdf", pdf.parse, isolated=True)

_BY_EXTENSION: dict[str, Parser] = {
    **dict.fromkeys(["txt", "text", "log", "rst", "adoc", "org"], _TEXT),
    **dict.fromkeys(["md", "markdown", "mdown", "mkd", "mdx", "qmd", "rmd"], _MARKDOWN),
    **dict.fromkeys(["html", "htm", "xhtml"], _HTML),
    **dict.fromkeys(["tex", "latex", "ltx", "sty", "cls"], _LATEX),
    **dict.fromkeys(["jsonl", "ndjson"], _JSON_LINES),
    **dict.fromkeys(["json", "geojson"], _JSON),
    **dict.fromkeys(["tsv", "tab"], _TSV),
    **dict.fromkeys(code.LANGUAGES, _CODE),
    "csv": _CSV,
    "ipynb": _NOTEBOOK,
    "pdf": _PDF,
}

# Known, and without a parser in this version: never taken for text, whatever their first bytes.
_EXTENSIONS_WITHOUT_PARSER = """
    doc docx docm dot dotx xls xlsx xlsm xlsb ppt pptx pptm odt ods odp pages numbers key rtf epub mobi azw3 djvu ps eps
    eml msg mbox pst vcf ics
    zip tar gz tgz bz2 xz zst 7z rar jar war whl iso dmg deb rpm
    png jpg jpeg gif bmp tif tiff webp heic ico svg psd ai mp3 wav flac ogg m4a mp4 mkv mov avi webm
    exe dll so dylib o a class pyc pyd wasm bin ttf otf woff woff2
    npy npz pt pth safetensors onnx parquet feather arrow sqlite db h5 hdf5 pkl mat
"""
_WITHOUT_PARSER = frozenset(_EXTENSIONS_WITHOUT_PARSER.split())


def choose(name: str, head: bytes) -> Parser | None:
    """Return the parser for a file, or None when this version has none (the exclusion rule ``no_parser``).

    ``name``: the file name with its extension. ``head``: the first HEAD_BYTES bytes, or more.
    A PDF and a notebook are told by their bytes. Then the extension decides. Files with an unknown extension, or none,
    are read as HTML or plain text where their bytes look like it.
    """
    if head.startswith(signatures.PDF):
        return _PDF
    extension = _extension(name)
    if extension in _WITHOUT_PARSER:
        return None
    parser = _CODE if code.language(name) else _BY_EXTENSION.get(extension)
    if parser in (_JSON, None) and signatures.looks_like_notebook(head):
        return _NOTEBOOK
    if parser is not None:
        return parser
    if not signatures.looks_like_text(head):
        return None
    return _HTML if signatures.looks_like_html(head) else _TEXT


def _extension(name: str) -> str:
    base, dot, extension = name.rpartition("/")[2].rpartition(".")
    # A leading dot hides a file, and makes no extension.
    return extension.lower() if dot and base else ""
