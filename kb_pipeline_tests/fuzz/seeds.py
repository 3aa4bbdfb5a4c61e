"""Good files of every format, small, that mutations start from."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORPUS = Path("/work/shared/corpora/documents/mixed")
"""Real files of many formats, where they are present."""
_LARGEST = 300_000  # bytes: larger ones would make a hundred cases slow and bring nothing new

_PROSE = "The moon raises the tides twice a day. A pump lifts water; its seal held for nine years. "
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
_SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def zipped(members: Mapping[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive; all its times are the same, so that equal members give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, data in members.items():
            opened.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def _relations(*targets: tuple[str, str]) -> str:
    lines = "".join(
        f'<Relationship Id="rId{number}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, 1)
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{lines}</Relationships>'


def _office(main: str, kind: str, members: Mapping[str, str]) -> bytes:
    """A package of Office Open XML with one main part."""
    types = (
        f'<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/{main}" ContentType="application/vnd.openxmlformats-officedocument.{kind}.main+xml"/></Types>'
    )
    return zipped({"[Content_Types].xml": types, "_rels/.rels": _relations(("officeDocument", main)), **members})


def _docx() -> bytes:
    rows = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Part {n}</w:t></w:r></w:p>'
        f"<w:p><w:r><w:t>{_PROSE * 3}</w:t></w:r></w:p>"
        for n in range(8)
    )
    table = "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>cell</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
    body = f'<w:document xmlns:w="{_WORD}"><w:body>{rows}{table}</w:body></w:document>'
    return _office("word/document.xml", "wordprocessingml.document", {"word/document.xml": body})


def _xlsx() -> bytes:
    rows = "".join(
        f'<row r="{n}"><c r="A{n}" t="inlineStr"><is><t>pump {n}</t></is></c><c r="B{n}"><v>{n * 7}</v></c></row>'
        for n in range(1, 40)
    )
    sheets = '<sheets><sheet name="S" sheetId="1" r:id="rId1"/></sheets>'
    book = f'<workbook xmlns="{_SHEET}" xmlns:r="{_OFFICE}">{sheets}</workbook>'
    return _office(
        "xl/workbook.xml",
        "spreadsheetml.sheet",
        {
            "xl/workbook.xml": book,
            "xl/_rels/workbook.xml.rels": _relations(("worksheet", "worksheets/sheet1.xml")),
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_SHEET}"><sheetData>{rows}</sheetData></worksheet>',
        },
    )


def _pptx() -> bytes:
    shape = f"<p:sp><p:txBody><a:bodyPr/><a:p><a:r><a:t>{_PROSE}</a:t></a:r></a:p></p:txBody></p:sp>"
    names = f'xmlns:p="{_SLIDES}" xmlns:a="{_DRAWING}" xmlns:r="{_OFFICE}"'
    slides = '<p:sldIdLst><p:sldId id="256" r:id="rId1"/></p:sldIdLst>'
    return _office(
        "ppt/presentation.xml",
        "presentationml.presentation",
        {
            "ppt/presentation.xml": f"<p:presentation {names}>{slides}</p:presentation>",
            "ppt/_rels/presentation.xml.rels": _relations(("slide", "slides/slide1.xml")),
            "ppt/slides/slide1.xml": f"<p:sld {names}><p:cSld><p:spTree>{shape * 3}</p:spTree></p:cSld></p:sld>",
        },
    )


def _epub() -> bytes:
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
        '<rootfile full-path="b.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata/><manifest>'
        '<item id="c" href="c.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="c"/></spine></package>'
    )
    chapter = f'<html xmlns="http://www.w3.org/1999/xhtml"><body><h1>Tides</h1><p>{_PROSE * 4}</p></body></html>'
    members = {"mimetype": "application/epub+zip", "META-INF/container.xml": container, "b.opf": package}
    return zipped({**members, "c.xhtml": chapter})


def _odt() -> bytes:
    urn = "urn:oasis:names:tc:opendocument:xmlns"
    names = f'xmlns:office="{urn}:office:1.0" xmlns:text="{urn}:text:1.0"'
    body = f"<office:body><office:text><text:h>Tides</text:h><text:p>{_PROSE * 4}</text:p></office:text></office:body>"
    content = f"<office:document-content {names}>{body}</office:document-content>"
    return zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content})


def _notebook() -> str:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Tides\n", _PROSE]},
        {"cell_type": "code", "metadata": {}, "source": "print(1 + 1)", "outputs": [{"output_type": "stream", "text": "2"}]},
    ]
    return json.dumps({"cells": cells * 4, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def made() -> dict[str, bytes]:
    """Name -> bytes, one file a format."""
    mail = (
        "From: a@example.org\r\nTo: b@example.org\r\nSubject: =?utf-8?q?Tides?=\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/alternative; boundary="x"\r\n\r\n'
        f"--x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{_PROSE}\r\n"
        f"--x\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\nPHA+dGlkZTwvcD4=\r\n--x--\r\n"
    )
    texts = {
        "a.html": f"<html><head><title>T</title></head><body><h1>Tides</h1><p>{_PROSE * 5}</p>"
        "<table><tr><th>a<th>b<tr><td>1<td>2</table><pre><code>x = 1</code></pre><ul><li>one<li>two</ul></body></html>",
        "a.md": f"# Tides\n\n{_PROSE * 4}\n\n```python\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- $x^2$\n- two\n"
        * 3,
        "a.tex": "\\documentclass{article}\\begin{document}\\section{Tides}\n"
        + f"{_PROSE}\n\\begin{{equation}}x^2\\end{{equation}}\n" * 4
        + "\\end{document}\n",
        "a.ipynb": _notebook(),
        "a.csv": "pump,week,note\n" + "".join(f'{n},{n % 52},"held, ""well"""\n' for n in range(60)),
        "a.json": json.dumps({"pumps": [{"n": n, "note": _PROSE, "deep": [[[n]]]} for n in range(12)]}),
        "a.jsonl": "".join(json.dumps({"n": n, "text": _PROSE}) + "\n" for n in range(12)),
        "a.xml": f'<?xml version="1.0"?><doc><title>Tides</title>{"<p>" + _PROSE + "</p>"}</doc>',
        "a.eml": mail,
        "a.py": 'def f(x: int) -> int:\n    """Add."""\n    return x + 1\n\n\nclass C:\n    pass\n' * 5,
        "a.txt": _PROSE * 20,
    }
    office = {"a.docx": _docx(), "a.xlsx": _xlsx(), "a.pptx": _pptx(), "a.epub": _epub(), "a.odt": _odt()}
    pdf = {path.name: path.read_bytes() for path in sorted((ROOT / "demo").rglob("*.pdf"))}
    return {name: text.encode() for name, text in texts.items()} | office | pdf


def real() -> dict[str, bytes]:
    """Files of the corpus, where it is present."""
    paths = sorted(CORPUS.iterdir()) if CORPUS.is_dir() else []
    return {path.name: path.read_bytes() for path in paths if path.stat().st_size <= _LARGEST and path.suffix}


def pick(rng: random.Random, seeds: Mapping[str, bytes]) -> str:
    """A file's name: first a format, then one of its files, so that no format has more cases for having more files."""
    extensions = sorted({name.rpartition(".")[2].lower() for name in seeds})
    extension = rng.choice(extensions)
    return rng.choice(sorted(name for name in seeds if name.lower().endswith("." + extension)))
