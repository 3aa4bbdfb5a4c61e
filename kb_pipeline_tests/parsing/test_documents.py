"""What the parsers of documents make of particular features; whole examples are in test_goldens."""

from __future__ import annotations

import struct

import pytest

from kb_pipeline.parsing.compressed_rtf import unpack
from kb_pipeline.parsing.document import BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.metadata import common, iso_date
from kb_pipeline.statuses import Status
from kb_pipeline_tests.parsing.compound_builder import build_compound, build_msg, sample_msg
from kb_pipeline_tests.parsing.goldens import parse
from kb_pipeline_tests.parsing.packages import (
    STYLES,
    docx,
    omath,
    opendocument,
    pack,
    paragraph,
    pptx,
    run,
    shape,
    xlsx,
)


def outline(document: Document) -> list[tuple[str, str]]:
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


class TestMetadata:
    @pytest.mark.parametrize(
        ("written", "iso"),
        [
            ("2024-03-01", "2024-03-01"),
            ("2024-03-01T10:00:00Z", "2024-03-01T10:00:00+00:00"),
            ("2024-03-01 00:00:00", "2024-03-01"),
            ("2024", "2024"),
            ("2024-03", "2024-03"),
            ("D:20240301", "2024-03-01"),
            ("D:20240301100000Z", "2024-03-01T10:00:00+00:00"),
            ("D:20240301100000-05'30'", "2024-03-01T10:00:00-05:30"),
            ("Fri, 01 Mar 2024 10:00:00 +0100", "2024-03-01T10:00:00+01:00"),
            ("D:20249999", ""),
            ("D:20240301100000+99'99'", ""),
            ("yesterday", ""),
            ("99999-01-01", ""),
            ("", ""),
            (None, ""),
        ],
    )
    def test_dates(self, written: str | None, iso: str) -> None:
        assert iso_date(written) == iso

    def test_what_says_nothing_is_left_out(self) -> None:
        assert common(author=["", " Ada\n Tide ", "Ada Tide"], created="", language="not a tag") == {"author": "Ada Tide"}
        assert common(language="en_GB") == {"language": "en-GB"}


class TestWord:
    def test_every_formula_stays_in_its_sentence(self) -> None:
        sentence = (
            "<w:p><w:r><w:t>Let </w:t></w:r>" + omath(run("a")) + "<w:r><w:t> or </w:t></w:r>" + omath(run("b")) + "</w:p>"
        )
        table = f"<w:tbl><w:tr><w:tc>{sentence}</w:tc><w:tc>{sentence}</w:tc></w:tr></w:tbl>"
        display = "<w:p><m:oMathPara>" + omath(run("c")) + omath(run("d")) + "</m:oMathPara></w:p>"
        document = parse("a.docx", docx(sentence + table + display))
        assert document.text.startswith("Let$a$ or$b$") or document.text.startswith("Let $a$ or $b$")
        assert [kind for kind, _ in outline(document)] == ["paragraph", "table", "formula", "formula"]
        assert document.text.count("$a$") == 3
        assert document.text.count("$b$") == 3

    def test_a_formula_between_lines_of_a_paragraph(self) -> None:
        both = (
            "<w:p><w:r><w:t>Before</w:t></w:r><m:oMathPara>"
            + omath(run("c"))
            + "</m:oMathPara><w:r><w:t>after</w:t></w:r></w:p>"
        )
        assert outline(parse("a.docx", docx(both))) == [
            ("paragraph", "Before"),
            ("formula", "$$c$$"),
            ("paragraph", "after"),
        ]

    def test_fields_show_their_result_and_not_their_code(self) -> None:
        field = "<w:p><w:r><w:instrText>PAGEREF x</w:instrText></w:r><w:r><w:t>7</w:t></w:r></w:p>"
        assert parse("a.docx", docx(field)).text == "7"

    def test_outline_levels_without_a_style(self) -> None:
        body = paragraph("One", properties='<w:outlineLvl w:val="0"/>') + paragraph(
            "Text", properties='<w:outlineLvl w:val="9"/>'
        )
        assert outline(parse("a.docx", docx(body))) == [("heading", "# One"), ("paragraph", "Text")]

    def test_headings_below_level_six(self) -> None:
        body = paragraph("One", properties='<w:outlineLvl w:val="7"/>')
        assert parse("a.docx", docx(body)).text == "###### One"

    def test_symbols_tabs_and_breaks(self) -> None:
        body = '<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:sym w:char="03B1"/><w:noBreakHyphen/></w:r></w:p>'
        assert parse("a.docx", docx(body)).text == "a\tb\nα-"

    def test_comments(self) -> None:
        body = '<w:p><w:r><w:t>Text</w:t><w:commentReference w:id="0"/></w:r></w:p>'
        comment = '<w:comment w:id="0" w:author="Bo">' + paragraph("Why?") + "</w:comment>"
        document = parse("a.docx", docx(body, parts={"comments": ("comments.xml", comment)}))
        assert document.text == "Text\n\n> Comment by Bo: Why?"

    def test_tables_in_cells_and_frames(self) -> None:
        cell = "<w:tc>{}</w:tc>".format
        inner = f"<w:tbl><w:tr>{cell(paragraph('in'))}{cell(paragraph('ner'))}</w:tr></w:tbl>"
        outer = f"<w:tbl><w:tr>{cell(paragraph('a') + inner)}{cell(paragraph('b'))}</w:tr></w:tbl>"
        assert parse("a.docx", docx(outer)).text == "| a in ner | b |\n| --- | --- |"
        framed = f"<w:tbl><w:tr>{cell(paragraph('x', 'berschrift1') + inner)}</w:tr></w:tbl>"
        document = parse("a.docx", docx(framed, parts={"styles": ("styles.xml", STYLES)}))
        assert document.text == "# x\n\n| in | ner |\n| --- | --- |"

    def test_styles_that_are_based_on_each_other(self) -> None:
        pairs = [("x", "y"), ("y", "x")]
        styles = "".join(
            f'<w:style w:styleId="{a}"><w:name w:val="n{a}"/><w:basedOn w:val="{b}"/></w:style>' for a, b in pairs
        )
        assert parse("a.docx", docx(paragraph("text", "x"), parts={"styles": ("s.xml", styles)})).text == "text"

    @pytest.mark.parametrize(
        "latent",
        [
            '<w:latentStyles w:count="1"><w:lsdException w:name="a"/></w:latentStyles>',
            '<w:latentStyles w:count="0"/>',
            '<!-- <w:latentStyles "-->',
        ],
    )
    def test_styles_behind_those_that_the_document_does_not_have(self, latent: str) -> None:
        styles = latent + '<w:style w:styleId="h"><w:name w:val="heading 1"/></w:style>'
        document = parse("a.docx", docx(paragraph("Title", "h"), parts={"styles": ("s.xml", styles)}))
        assert document.text == "# Title"

    def test_only_notes_that_are_referred_to_are_read(self) -> None:
        notes = '<w:footnote w:id="0"><w:p><w:r><w:t>a mere line</w:t></w:r></w:p></w:footnote>'
        data = docx(paragraph("text"), parts={"footnotes": ("footnotes.xml", notes)})
        assert parse("a.docx", data).text == "text"

    def test_nothing_in_it(self) -> None:
        assert parse("a.docx", docx("")).text == ""

    def test_charts(self) -> None:
        chart = """<c:chartSpace xmlns:c="c" xmlns:a="a"><c:chart><c:title><c:tx><a:t>Tides</a:t></c:tx></c:title>
          <c:plotArea>
          <c:barChart><c:ser><c:tx><c:v>High</c:v></c:tx><c:cat><c:pt idx="0"><c:v>Brest</c:v></c:pt></c:cat>
          <c:val><c:pt idx="0"><c:v>7</c:v></c:pt></c:val></c:ser></c:barChart></c:plotArea></c:chart></c:chartSpace>"""
        body = '<w:p><w:r><w:drawing><x:chart xmlns:x="c" r:id="r_chart"/></w:drawing></w:r></w:p>'
        document = parse("a.docx", docx(body, parts={"chart": ("chart.xml", chart)}))
        assert outline(document) == [("paragraph", "Tides"), ("table", "|  | High |\n| --- | --- |\n| Brest | 7 |")]


class TestPresentations:
    def test_a_slide_without_a_title_is_below_none(self) -> None:
        document = parse("a.pptx", pptx([shape("title", "One"), shape(None, "text")]))
        assert [(block.page, block.heading_path) for block in document.blocks] == [(1, ("One",)), (2, ())]

    def test_numbered_paragraphs(self) -> None:
        numbered = "<a:pPr><a:buAutoNum/></a:pPr><a:r><a:t>{}</a:t></a:r>".format
        document = parse("a.pptx", pptx([shape("body", numbered("a"), numbered("b"))]))
        assert document.text == "1. a\n2. b"

    def test_formulas(self) -> None:
        math = '<m:oMath xmlns:m="m"><m:r><m:t>x</m:t></m:r></m:oMath>'
        choice = f'<mc:AlternateContent xmlns:mc="mc"><mc:Choice>{math}</mc:Choice><mc:Fallback><a:r><a:t>?</a:t></a:r></mc:Fallback></mc:AlternateContent>'  # noqa: E501
        assert parse("a.pptx", pptx([shape(None, choice)])).text == "$x$"

    def test_a_slide_that_is_missing(self) -> None:
        members: dict[str, str | bytes] = {
            "_rels/.rels": "<Relationships><Relationship Id='a' Type='x/officeDocument' Target='p.xml'/></Relationships>",
            "_rels/p.xml.rels": "<Relationships><Relationship Id='s' Type='x/slide' Target='gone.xml'/></Relationships>",
            "p.xml": "<p xmlns:r='http://schemas.openxmlformats.org/officeDocument/2006/relationships'><sldIdLst>"
            "<sldId r:id='s'/></sldIdLst></p>",
        }
        with pytest.raises(ParseError, match=r"lacks its member gone\.xml") as caught:
            parse("a.pptx", pack(members))
        assert caught.value.status is Status.CORRUPT


class TestOpenDocument:
    def test_a_number_of_spaces_that_no_one_wrote(self) -> None:
        document = parse("a.odt", opendocument("text", '<text:p>a<text:s text:c="99999999"/>b</text:p>'))
        assert len(document.text) < 2_000

    def test_the_wrong_kind(self) -> None:
        with pytest.raises(ParseError) as caught:
            parse("a.odt", opendocument("presentation", ""))
        assert caught.value.status is Status.CORRUPT

    def test_a_spreadsheet(self) -> None:
        cell = "<table:table-cell office:value-type='string'><text:p>Rope</text:p></table:table-cell>"
        table = f"<table:table table:name='Costs'><table:table-row>{cell}</table:table-row></table:table>"
        data = opendocument("spreadsheet", table, title="Accounts")
        document = parse("a.ods", data)
        assert document.text == "# Costs\n\n| Rope |"
        assert document.media_type == "application/vnd.oasis.opendocument.spreadsheet"
        assert document.title == "Accounts"


class TestSpreadsheets:
    def test_an_empty_workbook(self) -> None:
        document = parse("a.xlsx", xlsx({"A": {}}))
        assert document.text == ""
        assert document.title == "Accounts"

    def test_no_xls_at_all(self) -> None:
        with pytest.raises(ParseError) as caught:
            parse("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
        assert caught.value.status is Status.CORRUPT


class TestBooks:
    def test_a_missing_page(self) -> None:
        manifest = '<item id="x" href="gone.xhtml" media-type="application/xhtml+xml"/>'
        book = (
            f'<package><manifest>{manifest}<item id="y" href="b.xhtml" media-type="text/html"/></manifest>'
            '<spine><itemref idref="x"/><itemref idref="y"/><itemref idref="z"/></spine></package>'
        )
        members: dict[str, str | bytes] = {
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>',
            "b.opf": book,
        }
        document = parse("a.epub", pack({**members, "b.xhtml": "<p>here</p>"}))
        assert document.text == "here"
        assert document.metadata["missing"] == "gone.xhtml"
        with pytest.raises(ParseError, match="lacks all the files"):
            parse("a.epub", pack({**members, "b.xhtml": ""}))

    def test_no_package(self) -> None:
        with pytest.raises(ParseError) as caught:
            parse("a.epub", pack({"mimetype": "application/epub+zip", "META-INF/container.xml": "<container/>"}))
        assert caught.value.status is Status.CORRUPT


class TestMail:
    def test_a_plain_message(self) -> None:
        document = parse("a.eml", b"From: a@b.example\nSubject: Hi\n\nText.\n\n> quoted\n> text\n")
        assert outline(document) == [
            ("heading", "# Hi"),
            ("paragraph", "From: a@b.example"),
            ("paragraph", "Text."),
            ("quote", "> quoted\n> text"),
        ]
        assert document.attachments == ()

    @pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c.txt", "\x00\n.txt", "..", "x" * 500 + ".txt"])
    def test_names_of_attachments_are_one_path_component(self, name: str) -> None:
        encoded = name.encode().hex(" ").upper().replace(" ", "%")
        data = f"From: a\nContent-Type: text/plain\nContent-Disposition: attachment; filename*=utf-8''%{encoded}\n\nbytes"
        (attachment,) = parse("a.eml", data.encode()).attachments
        assert attachment.data == b"bytes"
        assert attachment.name not in ("", ".", "..")
        assert not set(attachment.name) & set("/\\\x00\n")
        assert len(attachment.name) <= 200

    @pytest.mark.parametrize(
        "data",
        [
            b"Subject: =?x?q?a?=\n\nx",
            b"Subject: =?utf-8?b?!!!?=\n\nx",
            b"Subject: \xff\xfe\n\nx",
            b"Content-Type: text/plain; charset=nonsense\nSubject: a\n\n\xe9",
            b"Content-Type: multipart/mixed; boundary=b\nSubject: a\n\n--b\nContent-Type: multipart/mixed\n\n--b",
            b"Content-Type: multipart/mixed\nSubject: a\n\nx",
            b"Content-Transfer-Encoding: base64\nSubject: a\n\n!!!!",
            b"Content-Type: message/rfc822\nSubject: a\n\n",
            b"Date: Fri, 99 Foo 2024\nSubject: a\n\nx",
            b"Subject: a\nContent-Type: message/rfc822\n\nSubject: \xff\n\nx",
        ],
    )
    def test_defects_are_no_failures(self, data: bytes) -> None:
        parse("a.eml", data)

    def test_no_header(self) -> None:
        with pytest.raises(ParseError) as caught:
            parse("a.eml", b"\njust text\n")
        assert caught.value.status is Status.CORRUPT

    def test_encrypted(self) -> None:
        part = b"--b\nContent-Type: application/pgp-encrypted\n\nx\n--b--"
        message = b"Subject: a\nContent-Type: multipart/encrypted; boundary=b\n\n" + part
        with pytest.raises(ParseError) as caught:
            parse("a.eml", message)
        assert caught.value.status is Status.ENCRYPTED


class TestXml:
    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"<a><b></a>", "not well-formed"),
            (b"<a", "not well-formed"),
            (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "entities"),
            (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "entities"),
            (b'<!DOCTYPE a [<!ENTITY % b SYSTEM "http://x.example/">%b;]><a/>', "entities"),
            ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode("utf-16"), "entities"),
            (b"<a>" * 100_000 + b"</a>" * 100_000, "deep"),
            (b'<?xml version="1.0" encoding="ascii"?><a>\xff</a>', "declares"),
        ],
    )
    def test_hostile_and_broken(self, data: bytes, why: str) -> None:
        with pytest.raises(ParseError, match=why) as caught:
            parse("a.xml", data)
        assert caught.value.status is Status.CORRUPT

    def test_nothing_outside_is_loaded(self) -> None:
        data = b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a>x&nbsp;y</a>'
        assert parse("a.xml", data).text == data.decode()

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "windows-1252"])
    def test_encodings(self, encoding: str) -> None:
        text = f'<?xml version="1.0" encoding="{encoding}"?>\n<a>é</a>'
        assert parse("a.xml", text.encode(encoding)).text == text

    def test_xhtml_is_a_page(self) -> None:
        assert parse("a.xml", b'<html xmlns="http://www.w3.org/1999/xhtml"><body><h1>A</h1></body></html>').text == "# A"

    def test_rdf_feeds(self) -> None:
        data = b"<RDF><channel><title>T</title></channel><item><title>A &lt;b&gt;bold&lt;/b&gt; one</title></item></RDF>"
        assert parse("a.rdf", data).text == "# T\n\n## A bold one"


class TestRestructuredText:
    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("Title\n=====\n\ntext", ["heading", "paragraph"]),
            ("text\n\n----\n\nmore", ["paragraph", "paragraph"]),
            ("::\n\n  code\n\ntext", ["paragraph", "code", "paragraph"]),
            ("- a\n\n  - b\n\n- c\n\ntext", ["list", "paragraph"]),
            ("#. a\n#. b", ["list"]),
            ("a. b\n", ["list"]),
            ("1. a::\n\n     code\n\ntext", ["list", "code", "paragraph"]),
            (".. math:: x^2\n\ntext", ["formula", "paragraph"]),
            (".. csv-table::\n\n   a,b\n\ntext", ["table", "paragraph"]),
            ("=== ===\na   b\n=== ===\n1   2\n=== ===\n\ntext", ["table", "paragraph"]),
            (">>> 1\n1\n\ntext", ["code", "paragraph"]),
            (".. note:: x\n\n   .. code:: py\n\n      y\n", ["paragraph", "code"]),
            ("text\n\n   quoted", ["paragraph", "quote"]),
            (".. [1] A footnote.\n\n.. _link: https://x.example", ["paragraph", "paragraph"]),
            ("===", ["paragraph"]),
            ("====\n", []),
            ("-\n-\n", ["paragraph"]),
        ],
    )
    def test_blocks(self, source: str, expected: list[str]) -> None:
        assert [kind for kind, _ in outline(parse("a.rst", source.encode()))] == expected

    def test_levels_are_told_by_their_order(self) -> None:
        source = "A\n=\n\nAA\n==\n\nTwo\n---\n\nThree\n~~~~~\n\nAgain\n-----\n\n====\nOver\n====\n"
        document = parse("a.rst", source.encode())
        assert [block.heading_path for block in document.blocks if block.kind is BlockKind.HEADING] == [
            ("A",),
            ("AA",),
            ("AA", "Two"),
            ("AA", "Two", "Three"),
            ("AA", "Again"),
            ("AA", "Again", "Over"),
        ]

    def test_a_long_list_takes_no_long_time(self) -> None:
        source = "- a::\n\n" * 20_000 + "   x\n\n" * 20_000
        assert parse("a.rst", source.encode()).text == source


class TestOutlook:
    def test_a_text_in_a_code_page(self) -> None:
        properties = bytes(32) + struct.pack("<IIQ", 0x3FFD0003, 0, 1251)
        streams = {"__properties_version1.0": properties, "__substg1.0_1000001E": "Привет".encode("cp1251")}
        assert parse("a.msg", build_compound(streams)).text == "Привет"

    def test_a_text_that_is_rich_text_alone(self) -> None:
        packed = "2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320af32068656c090020627705b06c647d0a800fa0"
        assert parse("a.msg", build_msg({0x0037: "Hi"}, {"__substg1.0_10090102": bytes.fromhex(packed)})).text.endswith(
            "hello world"
        )
        repeated = "1a0000001c0000004c5a4675e2d44b51410004205758595a0d6e7d010eb0"  # MS-OXRTFCP, 3.2: overlapping
        assert unpack(bytes.fromhex(repeated)) == b"{\\rtf1 WXYZWXYZWXYZWXYZWXYZ}"
        for cut in (0, 10, 20, 40):
            with pytest.raises(ParseError):
                unpack(bytes.fromhex(packed)[:cut])

    def test_a_message_inside_is_attached_as_one_that_can_be_parsed_with_its_files(self) -> None:
        (_, inner) = parse("a.msg", sample_msg()).attachments
        assert inner.name == "Ropes.eml"
        document = parse(inner.name, inner.data)
        assert document.title == "Rôpes"
        assert document.text.endswith("Two hawsers, please.")
        assert document.metadata == {"author": "Bo Reed", "created": "2024-03-01T12:00:00+00:00"}
        assert [(file.name, file.data) for file in document.attachments] == [("list.txt", b"hawser, 20 fathoms")]
        assert parse("a.msg", sample_msg()).attachments[1] == inner

    def test_a_compound_file_that_is_no_message(self) -> None:
        with pytest.raises(ParseError) as caught:
            parse("a.msg", build_compound({"WordDocument": b"text"}))
        assert caught.value.status is Status.UNSUPPORTED

    @pytest.mark.parametrize("data", [b"plain text", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), sample_msg()[:700]])
    def test_no_compound_file(self, data: bytes) -> None:
        with pytest.raises(ParseError) as caught:
            parse("a.msg", data)
        assert caught.value.status is Status.CORRUPT

    @pytest.mark.parametrize("number", [0, 1, 5, 0xFFFFFFF0])
    def test_chains_that_run_in_circles(self, number: int) -> None:
        data = bytearray(sample_msg())
        start = struct.unpack_from("<I", data, 76)[0] * 512 + 512
        struct.pack_into("<100I", data, start, *[number] * 100)
        with pytest.raises(ParseError) as caught:
            parse("a.msg", bytes(data))
        assert caught.value.status is Status.CORRUPT


class TestRichText:
    @pytest.mark.parametrize(
        ("source", "text"),
        [
            (r"{\rtf1 a\par b}", "a\n\nb"),
            (r"{\rtf1\ansicpg1251 \'cf\'f0\'e8}", "При"),
            (r"{\rtf1\ansicpg932 \'93\'fa\'96\'7b}", "日本"),
            (r"{\rtf1\uc1 \u-10179?\u-8704?}", "😀"),
            (r"{\rtf1\uc2 \u945 ab c}", "α c"),
            (r"{\rtf1\uc0 \u945 a}", "αa"),
            (r"{\rtf1{\uc2\u945 ab}\u946 ab}", "αβb"),
            (r"{\rtf1 \ansicpg99999 \'e9}", "é"),
            (r"{\rtf1 a{\pict\bin3 }{{}b}", "ab"),
            (r"{\rtf1 {\pict 0011}{\*\x y}z} after", "z"),
            (r"{\rtf1 \trowd\intbl a\par b\cell c\cell\row\pard d}", "| a b | c |\n| --- | --- |\n\nd"),
        ],
    )
    def test_text(self, source: str, text: str) -> None:
        assert parse("a.rtf", source.encode()).text == text

    @pytest.mark.parametrize("source", [b"plain", b"{\\rtf1 {text}", b"{\\rtf1" + b"{" * 20_000])
    def test_no_rich_text(self, source: bytes) -> None:
        with pytest.raises(ParseError) as caught:
            parse("a.rtf", source)
        assert caught.value.status is Status.CORRUPT
