"""Writes small documents that are ZIP files: Office Open XML, OpenDocument and EPUB. The content is made up."""

from __future__ import annotations

import io
import zipfile

_RELATIONSHIPS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_W = f"""xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"
 xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" xmlns:r="{_RELATIONSHIPS}"
 xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"
 xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing"
 xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" xmlns:v="urn:schemas-microsoft-com:vml" """
_P = f"""xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" xmlns:r="{_RELATIONSHIPS}"
 xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"
 xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" """
_ODF = " ".join(
    f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for prefix, name in [
        ("office", "office"), ("text", "text"), ("table", "table"), ("draw", "drawing"), ("style", "style"),
        ("presentation", "presentation"), ("svg", "svg-compatible"), ("meta", "meta"),
    ]
)  # fmt: skip
_ODF += ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xlink="http://www.w3.org/1999/xlink"'


def pack(members: dict[str, str | bytes]) -> bytes:
    """Return a ZIP file; a member "mimetype" is stored as it is, the others are deflated."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            packing = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), content, packing)
    return file.getvalue()


def relationships(targets: dict[str, tuple[str, str]]) -> str:
    """Return a part of relationships: id -> (kind, target)."""
    entries = ""
    for name, (kind, target) in targets.items():
        namespace = f"{_PACKAGE}/relationships/metadata" if kind == "core-properties" else _RELATIONSHIPS
        entries += f'<Relationship Id="{name}" Type="{namespace}/{kind}" Target="{target}"/>'
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{entries}</Relationships>'


def core_properties(title: str) -> str:
    return f"""<cp:coreProperties xmlns:cp="{_PACKAGE}/metadata/core-properties" xmlns:dc="http://purl.org/dc/elements/1.1/"
      xmlns:dcterms="http://purl.org/dc/terms/"><dc:title>{title}</dc:title><dc:creator>Ada Tide</dc:creator>
      <dc:language>en-GB</dc:language><cp:keywords>tides, bridges</cp:keywords>
      <dcterms:created>2024-03-01T10:00:00Z</dcterms:created><dcterms:modified>2024-03-02T11:30:00Z</dcterms:modified>
      </cp:coreProperties>"""


def docx(body: str, *, title: str = "", parts: dict[str, tuple[str, str]] | None = None) -> bytes:
    """Return a Word document with a body (WordprocessingML) and further ``parts``: kind -> (file name, XML)."""
    members: dict[str, str | bytes] = {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": relationships(
            {"rId1": ("officeDocument", "word/document.xml"), "rId2": ("core-properties", "docProps/core.xml")}
        ),
        "docProps/core.xml": core_properties(title),
        "word/document.xml": f"<w:document {_W}><w:body>{body}</w:body></w:document>",
    }
    targets = {}
    for kind, (name, content) in (parts or {}).items():
        targets[f"r_{kind}"] = (kind, name)
        root = {"numbering": "numbering", "styles": "styles", "comments": "comments"}.get(kind, kind)
        members[f"word/{name}"] = f"<w:{root} {_W}>{content}</w:{root}>" if kind != "chart" else content
    members["word/_rels/document.xml.rels"] = relationships(targets)
    return pack(members)


def paragraph(text: str, style: str = "", properties: str = "") -> str:
    chosen = f'<w:pStyle w:val="{style}"/>' if style else ""
    return f"<w:p><w:pPr>{chosen}{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def omath(content: str) -> str:
    return f"<m:oMath>{content}</m:oMath>"


def run(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


STYLES = """
  <w:style w:styleId="Titel"><w:name w:val="Title"/></w:style>
  <w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
  <w:style w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style>
  <w:style w:styleId="Mine"><w:name w:val="My own"/><w:basedOn w:val="berschrift2"/></w:style>
  <w:style w:styleId="Code"><w:name w:val="Source Code"/></w:style>
  <w:style w:styleId="Zitat"><w:name w:val="Quote"/></w:style>
"""
NUMBERING = """
  <w:abstractNum w:abstractNumId="7"><w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/></w:lvl>
    <w:lvl w:ilvl="1"><w:numFmt w:val="bullet"/></w:lvl></w:abstractNum>
  <w:num w:numId="3"><w:abstractNumId w:val="7"/></w:num>
"""


def _numbered(level: int) -> str:
    return f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="3"/></w:numPr>'


def sample_docx() -> bytes:
    fraction = f"<m:f><m:num>{run('m')}</m:num><m:den>{run('2V')}</m:den></m:f>"
    row = "<w:tr>{}</w:tr>".format
    cell = "<w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>".format
    body = [
        paragraph("On Bridges", "Titel"),
        paragraph("Loads", "berschrift1"),
        "<w:p><w:r><w:t xml:space='preserve'>The load </w:t></w:r>" + omath(run("q=3"))
        + "<w:r><w:t xml:space='preserve'> is spread</w:t></w:r><w:r><w:footnoteReference w:id='2'/></w:r>"
        + "<w:del><w:r><w:delText>never</w:delText></w:r></w:del><w:ins><w:r><w:t> evenly.</w:t></w:r></w:ins></w:p>",
        f"<w:p><m:oMathPara>{omath(run('ρ=') + fraction)}</m:oMathPara></w:p>",
        paragraph("Steps", "Mine"),
        paragraph("Measure.", properties=_numbered(0)),
        paragraph("Twice.", properties=_numbered(1)),
        paragraph("Build.", properties=_numbered(0)),
        "<w:tbl>" + row(cell("Span") + cell("Cost")) + row(cell("10 m") + cell("5 | 6")) + "</w:tbl>",
        paragraph("for span in spans:", "Code"),
        paragraph("    build(span)", "Code"),
        paragraph("Measure twice, cut once.", "Zitat"),
        "<w:p><w:r><mc:AlternateContent><mc:Choice><w:drawing><wp:docPr descr='A stone bridge'/><wps:txbx><w:txbxContent>"
        + paragraph("In the box.")
        + "</w:txbxContent></wps:txbx></w:drawing></mc:Choice><mc:Fallback><w:pict><v:textbox><w:txbxContent>"
        + paragraph("In the box.") + "</w:txbxContent></v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r></w:p>",
        "<w:sdt><w:sdtContent>" + paragraph("The last word.") + "</w:sdtContent></w:sdt>",
    ]  # fmt: skip
    note = '<w:footnote w:id="2">' + paragraph("By hand.") + "</w:footnote>"
    parts = {"styles": ("styles.xml", STYLES), "numbering": ("numbering.xml", NUMBERING), "footnotes": ("notes.xml", note)}
    return docx("".join(body), parts=parts)


def pptx(slides: list[str], *, title: str = "", notes: dict[int, str] | None = None) -> bytes:
    """Return a presentation whose slides hold the given shapes; the file names of slides run backwards."""
    names = [f"slide{len(slides) - i}.xml" for i in range(len(slides))]
    members: dict[str, str | bytes] = {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": relationships(
            {"rId1": ("officeDocument", "ppt/presentation.xml"), "rId2": ("core-properties", "docProps/core.xml")}
        ),
        "docProps/core.xml": core_properties(title),
        "ppt/presentation.xml": f"<p:presentation {_P}><p:sldIdLst>"
        + "".join(f'<p:sldId id="{i}" r:id="s{i}"/>' for i in range(len(slides)))
        + "</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": relationships(
            {f"s{i}": ("slide", f"slides/{name}") for i, name in enumerate(names)}
        ),
    }
    for i, (name, shapes) in enumerate(zip(names, slides, strict=True)):
        members[f"ppt/slides/{name}"] = f"<p:sld {_P}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>"
        if notes and i in notes:
            members[f"ppt/slides/_rels/{name}.rels"] = relationships({"n": ("notesSlide", f"../notes/{name}")})
            members[f"ppt/notes/{name}"] = (
                f"<p:notes {_P}><p:cSld><p:spTree>{shape('body', notes[i])}{shape('sldNum', '1')}"
                "</p:spTree></p:cSld></p:notes>"
            )
    return pack(members)


def shape(placeholder: str | None, *paragraphs: str) -> str:
    """Return a shape; each paragraph is text, or the inside of an ``a:p``."""
    ph = "" if placeholder is None else f'<p:ph type="{placeholder}"/>' if placeholder else "<p:ph/>"
    inside = "".join(f"<a:p>{p if p.startswith('<') else f'<a:r><a:t>{p}</a:t></a:r>'}</a:p>" for p in paragraphs)
    return f"<p:sp><p:nvSpPr><p:nvPr>{ph}</p:nvPr></p:nvSpPr><p:txBody>{inside}</p:txBody></p:sp>"


def sample_pptx() -> bytes:
    cell = "<a:tc><a:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></a:txBody></a:tc>".format
    table = f"<a:tbl><a:tr>{cell('Port')}{cell('Tide')}</a:tr><a:tr>{cell('Brest')}{cell('7 m')}</a:tr></a:tbl>"
    return pptx(
        [
            shape("ctrTitle", "On Tides") + shape("subTitle", "A short course") + shape("sldNum", "1"),
            shape("title", "Causes")
            + shape("", "The moon", '<a:pPr lvl="1"/><a:r><a:t>and the sun</a:t></a:r>', "<a:pPr><a:buNone/></a:pPr>")
            + "<p:grpSp>" + shape(None, "A caption") + "</p:grpSp>"
            + f"<p:graphicFrame>{table}</p:graphicFrame>",
            shape(None, "No title here"),
        ],
        title="Tides",
        notes={1: "Mention Newton."},
    )  # fmt: skip


def opendocument(kind: str, body: str, *, styles: str = "", title: str = "", objects: dict[str, str] | None = None) -> bytes:
    """Return an OpenDocument file of a kind ("text", "presentation") with the content of its body."""
    members: dict[str, str | bytes] = {
        "mimetype": f"application/vnd.oasis.opendocument.{kind}",
        "META-INF/manifest.xml": "<manifest/>",
        "content.xml": f"<office:document-content {_ODF}><office:automatic-styles>{styles}</office:automatic-styles>"
        f"<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document-content>",
        "meta.xml": f"<office:document-meta {_ODF}><office:meta><dc:title>{title}</dc:title>"
        "<meta:initial-creator>Ada Tide</meta:initial-creator><meta:creation-date>2024-03-01T10:00:00</meta:creation-date>"
        "<dc:date>2024-03-02T11:30:00.123456789</dc:date><dc:language>fr-FR</dc:language></office:meta>"
        "</office:document-meta>",
        **{f"{name}/content.xml": content for name, content in (objects or {}).items()},
    }
    return pack(members)


def sample_odt() -> bytes:
    styles = (
        '<style:style style:name="P1" style:parent-style-name="Preformatted_20_Text"/>'
        '<text:list-style style:name="L1"><text:list-level-style-number text:level="1" style:num-format="1"/>'
        '<text:list-level-style-bullet text:level="2"/></text:list-style>'
    )
    formula = '<math xmlns="http://www.w3.org/1998/Math/MathML"><semantics><mfrac><mi>a</mi><mi>b</mi></mfrac><annotation encoding="StarMath 5.0">{a} over {b}</annotation></semantics></math>'  # noqa: E501
    frame = '<draw:frame><draw:object xlink:href="./Object 1"/></draw:frame>'
    row = "<table:table-row>{}</table:table-row>".format
    cell = "<table:table-cell><text:p>{}</text:p></table:table-cell>".format
    body = (
        '<text:p text:style-name="Title">On Walls</text:p><text:h text:outline-level="1">Stones</text:h>'
        "<text:tracked-changes><text:p>gone</text:p></text:tracked-changes>"
        '<text:p>Heavy<text:s text:c="2"/>ones<text:note><text:note-citation>1</text:note-citation><text:note-body>'
        f"<text:p>Granite.</text:p></text:note-body></text:note>, with {frame} between.</text:p><text:p>{frame}</text:p>"
        '<text:list text:style-name="L1"><text:list-item><text:p>Lift</text:p><text:list><text:list-item>'
        "<text:p>with care</text:p></text:list-item></text:list></text:list-item><text:list-item><text:p>Set</text:p>"
        '</text:list-item></text:list><text:section><text:h text:outline-level="2">Sizes</text:h>'
        f"<table:table><table:table-header-rows>{row(cell('Kind') + cell('kg'))}</table:table-header-rows>"
        f"{row(cell('small') + cell('5'))}</table:table></text:section>"
        '<text:p text:style-name="P1">lift(5)</text:p><text:p text:style-name="P1">set(5)</text:p>'
        '<text:p text:style-name="Quotations">Stone on stone.</text:p>'
        "<text:p><draw:frame><draw:text-box><text:p>In the box.</text:p></draw:text-box>"
        "<svg:desc>A dry wall</svg:desc></draw:frame></text:p>"
    )
    return opendocument("text", body, styles=styles, objects={"Object 1": formula})


def sample_odp() -> bytes:
    frame = "<draw:frame {}><draw:text-box>{}</draw:text-box></draw:frame>".format
    body = (
        "<draw:page>"
        + frame('presentation:class="title"', "<text:p>On Wells</text:p>")
        + frame(
            'presentation:class="outline"',
            "<text:list><text:list-item><text:p>Dig</text:p></text:list-item>"
            "<text:list-item><text:p>Line</text:p></text:list-item></text:list>",
        )
        + frame('presentation:class="page-number"', "<text:p>1</text:p>")
        + "<presentation:notes>"
        + frame('presentation:class="notes"', "<text:p>Bring a rope.</text:p>")
        + "</presentation:notes></draw:page><draw:page>"
        + frame("", "<text:p>Untitled</text:p>")
        + "</draw:page>"
    )
    return opendocument("presentation", body, title="Wells")


def xlsx(sheets: dict[str, dict[str, str]]) -> bytes:
    """Return a workbook: sheet name -> cell reference -> the inside of a ``c`` element, attributes first."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    members: dict[str, str | bytes] = {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": relationships(
            {"rId1": ("officeDocument", "xl/workbook.xml"), "rId2": ("core-properties", "docProps/core.xml")}
        ),
        "docProps/core.xml": core_properties("Accounts"),
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{_RELATIONSHIPS}"><sheets>'
        + "".join(f'<sheet name="{name}" sheetId="{i}" r:id="s{i}"/>' for i, name in enumerate(sheets, 1))
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": relationships(
            {f"s{i}": ("worksheet", f"worksheets/sheet{i}.xml") for i in range(1, len(sheets) + 1)}
            | {"st": ("styles", "styles.xml")}
        ),
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
        "</styleSheet>",
    }
    for i, cells in enumerate(sheets.values(), 1):
        rows: dict[int, str] = {}
        for reference, inside in cells.items():
            number = int(reference.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
            rows[number] = rows.get(number, "") + f'<c r="{reference}" {inside}</c>'
        content = "".join(f'<row r="{number}">{inside}</row>' for number, inside in rows.items())
        members[f"xl/worksheets/sheet{i}.xml"] = f'<worksheet xmlns="{main}"><sheetData>{content}</sheetData></worksheet>'
    return pack(members)


def _text(value: str) -> str:
    return f't="inlineStr"><is><t>{value}</t></is>'


def sample_xlsx() -> bytes:
    number = "><v>{}</v>".format
    first = {
        "B2": _text("Item"), "C2": _text("Price"), "D2": _text("Bought"),
        "B3": _text("Rope"), "C3": number("12.5"), "D3": 's="1"><v>45352</v>',
        "B4": _text("Pail"), "C4": "><f>SUM(1,2)</f><v>3</v>", "D4": 't="b"><v>1</v>',
        "B7": _text("A table of its own"),
    }  # fmt: skip
    return xlsx({"Costs": first, "Nothing": {}, "Last": {"A1": _text("The last word.")}})


def epub(pages: dict[str, str], *, metadata: str = "", extra: dict[str, str] | None = None) -> bytes:
    """Return a book: file name -> XHTML of its body."""
    items = "".join(
        f'<item id="i{i}" href="{name.replace(" ", "%20")}" media-type="application/xhtml+xml"/>'
        for i, name in enumerate(pages)
    )
    spine = "".join(f'<itemref idref="i{i}"/>' for i in range(len(pages)))
    return pack(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
            "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f'<metadata>{metadata}</metadata><manifest>{items}<item id="c" href="c.css" media-type="text/css"/></manifest>'
            f'<spine><itemref idref="c"/>{spine}</spine></package>',
            **{f"OEBPS/{name}": f"<html><body>{body}</body></html>" for name, body in pages.items()},
            **(extra or {}),
        }
    )


def sample_epub() -> bytes:
    metadata = (
        "<dc:title>The Ferry</dc:title><dc:creator>Ada Tide</dc:creator><dc:creator>Bo Reed</dc:creator>"
        '<dc:language>en</dc:language><dc:date>2023</dc:date><meta property="dcterms:modified">2024-01-02T03:04:05Z</meta>'
    )
    return epub(
        {
            "two words.xhtml": "<h1>Morning</h1><p>The river &amp; the rope.</p><ul><li>oar</li><li>hook</li></ul>",
            "b.xhtml": "<h1>Evening</h1><h2>Fares</h2><table><tr><th>Who</th><th>Pence</th></tr><tr><td>A cow</td><td>4</td>"
            "</tr></table><p>So <math><msup><mi>x</mi><mn>2</mn></msup></math>.</p><blockquote>Goodnight.</blockquote>",
        },
        metadata=metadata,
    )
