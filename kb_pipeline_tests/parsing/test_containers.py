"""Documents that are ZIP files: what is refused before anything is unpacked."""

from __future__ import annotations

import io
import random
import struct
import zipfile

import pytest

from kb_pipeline.parsing.containers import MAX_MEMBERS, Container, resolve
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.statuses import Status
from kb_pipeline_tests.parsing.goldens import parse
from kb_pipeline_tests.parsing.packages import docx, epub, opendocument, pack, paragraph

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
NAMES = ["a.docx", "a.pptx", "a.odt", "a.odp", "a.xlsx", "a.ods", "a.epub"]


def refused(name: str, data: bytes) -> tuple[Status, str]:
    with pytest.raises(ParseError) as caught:
        parse(name, data)
    return caught.value.status, str(caught.value)


@pytest.mark.parametrize("name", NAMES)
class TestEveryFormat:
    def test_no_zip_file(self, name: str) -> None:
        assert refused(name, b"plain text")[0] is Status.CORRUPT

    def test_truncated(self, name: str) -> None:
        assert refused(name, docx(paragraph("text"))[:-30])[0] is Status.CORRUPT

    def test_another_zip_file(self, name: str) -> None:
        assert refused(name, pack({"a.txt": "text"}))[0] is Status.CORRUPT

    def test_encrypted_office(self, name: str) -> None:
        data = OLE + bytes(600) + "EncryptedPackage".encode("utf-16-le") + bytes(600)
        assert refused(name, data)[0] is Status.ENCRYPTED

    def test_a_bomb(self, name: str) -> None:
        status, why = refused(name, pack({"[Content_Types].xml": b" " * (64 << 20)}))
        assert status is Status.TOO_LARGE
        assert "times its size" in why

    def test_a_name_that_leads_outside(self, name: str) -> None:
        status, why = refused(name, pack({"word/../../evil": "x"}))
        assert status is Status.CORRUPT
        assert "leads outside" in why

    def test_encrypted_members(self, name: str) -> None:
        data = bytearray(pack({"content.xml": "x"}))
        data[data.index(b"PK\x01\x02") + 8] |= 1
        assert refused(name, bytes(data))[0] is Status.ENCRYPTED


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.odt"])
def test_the_formats_of_office_97(name: str) -> None:
    status, why = refused(name, OLE + bytes(600))
    assert status is Status.UNSUPPORTED
    assert "Office 97" in why


def test_more_members_than_any_document_has() -> None:
    data = pack({str(i): "" for i in range(MAX_MEMBERS + 1)})
    with pytest.raises(ParseError) as caught:
        Container(data, "The document")
    assert caught.value.status is Status.TOO_LARGE


def test_another_packing() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a", "a" * 1_000)
    with pytest.raises(ParseError) as caught:
        Container(file.getvalue(), "The document")
    assert caught.value.status is Status.UNSUPPORTED


def test_no_more_is_unpacked_than_the_directory_says() -> None:
    data = bytearray(pack({"a": b"x" * 100_000}))
    at = data.index(b"PK\x01\x02") + 24
    assert struct.unpack_from("<I", data, at)[0] == 100_000
    struct.pack_into("<I", data, at, 10)
    with pytest.raises(ParseError) as caught:
        Container(bytes(data), "The document").read("a")
    assert caught.value.status is Status.CORRUPT


def test_members_that_share_their_bytes() -> None:
    data = bytearray(pack({"a": b"x" * 1_000, "b": b"y" * 1_000}))
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 1)
    struct.pack_into("<I", data, second + 42, 0)  # the second member's offset: where the first begins
    with pytest.raises(ParseError, match="overlap") as caught:
        Container(bytes(data), "The document")
    assert caught.value.status is Status.CORRUPT


@pytest.mark.parametrize("name", ["/etc/passwd", "C:/a", "..\\a", "a/../../b"])
def test_names_that_lead_outside(name: str) -> None:
    with pytest.raises(ParseError, match="leads outside") as caught:
        Container(pack({name: "x"}), "The document")
    assert caught.value.status is Status.CORRUPT


def test_a_dense_member_among_many_bytes() -> None:
    """The whole is not dense, one member is: a guard that looks at the sum alone lets it through."""
    noise = random.Random(1).randbytes(256 << 10)
    with pytest.raises(ParseError, match="claim to unpack") as caught:
        Container(pack({"a": noise, "b": b" " * (24 << 20)}), "The document")
    assert caught.value.status is Status.TOO_LARGE


def test_a_directory_larger_than_any() -> None:
    data = bytearray(pack({"a": "x"}))
    struct.pack_into("<I", data, data.rindex(b"PK\x05\x06") + 12, 100 << 20)
    with pytest.raises(ParseError, match="a directory of"):
        Container(bytes(data), "The document")


def test_a_damaged_member() -> None:
    data = pack({"word/document.xml": b"x" * 1_000})
    start = data.index(b"document.xml") + len("document.xml")
    damaged = data[:start] + b"\xff\xff" + data[start + 2 :]
    with pytest.raises(ParseError) as caught:
        Container(damaged, "The document").read("word/document.xml")
    assert caught.value.status is Status.CORRUPT


@pytest.mark.parametrize(
    ("base", "target", "name"),
    [
        ("word/document.xml", "styles.xml", "word/styles.xml"),
        ("ppt/slides/slide1.xml", "../notes/n.xml", "ppt/notes/n.xml"),
        ("", "word/document.xml", "word/document.xml"),
        ("word/document.xml", "/word/a.xml", "word/a.xml"),
        ("a/b.xml", "../../../etc/passwd", "../../etc/passwd"),
        ("a.xml", "b.xml#part", "b.xml"),
    ],
)
def test_references(base: str, target: str, name: str) -> None:
    assert resolve(base, target) == name


def test_encrypted_opendocument() -> None:
    manifest = "<manifest><file-entry><encryption-data/></file-entry></manifest>"
    plain = opendocument("text", "")
    with zipfile.ZipFile(io.BytesIO(plain)) as archive:
        members: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
    assert refused("a.odt", pack({**members, "META-INF/manifest.xml": manifest}))[0] is Status.ENCRYPTED


def test_books_with_rights_management_and_with_obfuscated_fonts() -> None:
    encryption = "<encryption><EncryptedData><EncryptionMethod Algorithm='{}'/></EncryptedData></encryption>".format
    pages = {"a.xhtml": "<p>text</p>"}
    locked = epub(pages, extra={"META-INF/encryption.xml": encryption("http://www.w3.org/2001/04/xmlenc#aes256-cbc")})
    assert refused("a.epub", locked)[0] is Status.ENCRYPTED
    fonts = epub(pages, extra={"META-INF/encryption.xml": encryption("http://www.idpf.org/2008/embedding")})
    assert parse("a.epub", fonts).text == "text"


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("doctype", [BOMB, OUTSIDE])
def test_entities_in_a_part(doctype: str) -> None:
    document = f"{doctype}<w:document xmlns:w='w'><w:body><w:p><w:r><w:t>&a;</w:t></w:r></w:p></w:body></w:document>"
    members = {
        "_rels/.rels": "<Relationships><Relationship Id='a' Type='x/officeDocument' Target='d.xml'/></Relationships>",
        "d.xml": document,
    }
    status, why = refused("a.docx", pack(dict(members)))
    assert status is Status.CORRUPT
    assert "entities" in why


def test_a_part_nested_without_end() -> None:
    status, why = refused("a.docx", docx("<w:sdt>" * 50_000 + "</w:sdt>" * 50_000))
    assert status is Status.CORRUPT
    assert "deep" in why
