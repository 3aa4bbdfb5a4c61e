"""Messages of mail programs and of Outlook: nothing that is in them is lost without a word."""

from __future__ import annotations

import base64
import time

import pytest

from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.mail import file_name
from kb_pipeline.parsing.parse import parse_item
from kb_pipeline.statuses import Status
from kb_pipeline_tests.parsing.compound_builder import build_msg
from kb_pipeline_tests.parsing.goldens import parse

HTML, PLAIN = "Content-Type: text/html\n\n", "Content-Type: text/plain\n\n"
IMAGE = "<html><body><img src='cid:1'></body></html>"


def multipart(kind: str, *parts: str, behind: str = "", before: str = "", boundary: str = "b") -> str:
    inside = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\n\n{before}{inside}--{boundary}--\n{behind}'


def mail(message: str | bytes) -> Document:
    return parse("a.eml", b"From: a@b.example\n" + (message.encode() if isinstance(message, str) else message))


def body(document: Document) -> str:
    head, _, text = document.text.partition("From: a@b.example")
    assert not head or document.title
    return text.partition("\n\n")[2]


class TestAlternatives:
    @pytest.mark.parametrize(
        ("parts", "text"),
        [
            ([PLAIN + "plain", HTML + "<p>rich</p>"], "rich"),
            ([HTML + "<p>rich</p>", PLAIN + "plain"], "rich"),
            ([PLAIN + "plain", HTML], "plain"),
            ([PLAIN + "plain", HTML + IMAGE], "plain"),
            ([PLAIN + "plain", HTML + "<p>rich</p>", HTML], "rich"),
            ([PLAIN + "plain", HTML + "<p>first</p>", HTML + "<p>second</p>"], "second"),
            ([PLAIN + "plain", multipart("related", HTML + IMAGE, boundary="c")], "plain"),
            ([PLAIN + "plain", multipart("related", HTML + "<p>rich</p>", boundary="c")], "rich"),
            ([PLAIN + "first", PLAIN + " "], "first"),
        ],
    )
    def test_the_richest_that_holds_text_is_taken(self, parts: list[str], text: str) -> None:
        assert body(mail(multipart("alternative", *parts))) == text

    def test_what_is_attached_to_any_of_them_is_kept(self) -> None:
        image = "Content-Type: image/png; name=a.png\nContent-Transfer-Encoding: base64\n\nAAEC"
        related = multipart("related", HTML + IMAGE, image, boundary="c")
        document = mail(multipart("alternative", PLAIN + "plain", related))
        assert body(document) == "plain"
        assert [(file.name, file.data) for file in document.attachments] == [("a.png", b"\0\1\2")]


class TestReports:
    STATUS = (
        "Reporting-MTA: dns; a.example\n\n"
        "Final-Recipient: rfc822; b@c.example\nStatus: 5.1.1\nDiagnostic-Code: smtp;\n 550 none"
    )

    def test_a_bounce(self) -> None:
        returned = "Content-Type: message/rfc822\n\nSubject: Fares\n\nText."
        status = f"Content-Type: message/delivery-status\n\n{self.STATUS}"
        document = mail(multipart("report", PLAIN + "It failed.", status, returned))
        assert body(document) == f"It failed.\n\n{self.STATUS}"
        assert [(file.name, file.media_type, file.data) for file in document.attachments] == [
            ("Fares.eml", "message/rfc822", b"Subject: Fares\n\nText.")
        ]

    @pytest.mark.parametrize("kind", ["disposition-notification", "partial; number=1", "external-body", "feedback-report"])
    def test_other_reports(self, kind: str) -> None:
        report = f"Content-Type: message/{kind}\n\nDisposition: manual; displayed\nX: y\n\nBehind."
        document = mail(multipart("report", PLAIN + "Seen.", report))
        assert body(document) == "Seen.\n\nDisposition: manual; displayed\nX: y\n\nBehind."
        assert document.attachments == ()

    def test_a_report_by_itself_and_encoded(self) -> None:
        assert body(mail(f"Content-Type: message/delivery-status\n\n{self.STATUS}")) == self.STATUS
        encoded = base64.encodebytes(self.STATUS.encode()).decode()
        part = f"Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\n{encoded}"
        assert body(mail(multipart("report", part))) == self.STATUS

    @pytest.mark.parametrize("kind", ["rfc822", "global", "news"])
    def test_messages_are_attached(self, kind: str) -> None:
        document = mail(multipart("mixed", f"Content-Type: message/{kind}\n\nSubject: Offer 10/12\n\nText."))
        (file,) = document.attachments
        assert (file.name, file.media_type) == ("Offer 10_12.eml", "message/rfc822")
        assert parse(file.name, file.data).text == "# Offer 10/12\n\nText."

    def test_a_message_that_is_encoded(self) -> None:
        inner = base64.encodebytes(b"From: x@y.example\nSubject: Fares\n\nText.\n").decode()
        part = f"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n{inner}"
        (file,) = mail(multipart("mixed", part)).attachments
        assert file.name == "Fares.eml"
        assert parse(file.name, file.data).text == "# Fares\n\nFrom: x@y.example\n\nText."

    @pytest.mark.parametrize("kind", ["rfc822", "partial", "delivery-status"])
    @pytest.mark.parametrize("inner", ["multipart/mixed", "multipart/mixed; boundary=x", "text/plain; charset=undefined"])
    def test_bytes_in_damaged_messages_inside(self, kind: str, inner: str) -> None:
        document = mail(f"Content-Type: message/{kind}\n\nContent-Type: {inner}\n\nüber".encode())
        assert "über" in document.text + "".join(file.data.decode() for file in document.attachments)

    def test_a_message_inside_keeps_its_bytes(self) -> None:
        inner = "Subject: Grüße\nTo: " + "someone@somewhere.example, " * 20 + "x\n and more\n\nText ü.\n"
        (file,) = mail(multipart("mixed", f"Content-Type: message/rfc822\n\n{inner}")).attachments
        assert file.data.decode() == inner
        assert file.name == "Grüße.eml"


class TestFiles:
    @pytest.mark.parametrize(
        "part",
        [
            "Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\n",
            "Content-Type: text/plain; name=a.pdf\n\n",
            "Content-Type: text/plain\nContent-Disposition: attachment; filename=a.pdf\n\n",
        ],
    )
    def test_files_without_bytes(self, part: str) -> None:
        (file,) = mail(multipart("mixed", PLAIN + "text", part)).attachments
        assert (file.name, file.data) == ("a.pdf", b"")
        assert parse_item(file.name, file.data).status is Status.EMPTY

    def test_files_without_bytes_and_without_names(self) -> None:
        parts = ["Content-Type: image/png\n\n", "Content-Type: text/plain\nContent-Disposition: attachment\n\n"]
        files = mail(multipart("mixed", *parts)).attachments
        assert [(file.name, file.data) for file in files] == [("attachment", b""), ("attachment.txt", b"")]

    def test_damaged_files(self) -> None:
        part = "Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\n!!!!\n"
        (file,) = mail(multipart("mixed", part)).attachments
        assert file.data.strip() == b"!!!!"
        assert parse_item(file.name, file.data).status is Status.CORRUPT
        assert body(mail("Content-Transfer-Encoding: base64\n\n!!!!")) == "!!!!"

    @pytest.mark.parametrize(
        ("parameter", "name"),
        [
            ("filename*=undefined''x.txt", "x.txt"),
            ("filename*=idna''x.txt", "x.txt"),
            ("filename*=nonsense''%C3%BC.txt", "ü.txt"),
            ("filename*=utf-8''%C3%9Cbersicht.txt", "Übersicht.txt"),
            ('filename="Übersicht.txt"', "Übersicht.txt"),
            ('filename="=?utf-8?Q?=C3=9Cbersicht.txt?="', "Übersicht.txt"),
            (f"filename*{'9' * 5000}*=x", "attachment.txt"),
            ("filename*=a; filename*0=b", "attachment.txt"),
        ],
    )
    def test_names_in_any_encoding(self, parameter: str, name: str) -> None:
        part = f"Content-Type: text/plain\nContent-Disposition: attachment; {parameter}\n\nbytes"
        (file,) = mail(multipart("mixed", part)).attachments
        assert (file.name, file.data) == (name, b"bytes")

    @pytest.mark.parametrize("parameter", ["boundary*=undefined''b", "charset*=idna''x", "boundary*=a; boundary*0=b"])
    def test_other_parameters_that_cannot_be_read(self, parameter: str) -> None:
        document = mail(
            f"Content-Type: multipart/mixed; {parameter}\n\n--b\n\ntext \udce9\n--b--".encode("utf-8", "surrogateescape")
        )
        assert "text" in document.text or b"text" in document.attachments[0].data

    @pytest.mark.parametrize(
        ("name", "cleaned"),
        [
            ("__init__.py", "__init__.py"),
            (".env", ".env"),
            ("..\\a\\fares.csv", "fares.csv"),
            ("/etc/passwd", "passwd"),
            ("a\x01\x02b\x85.txt", "a_b_.txt"),
            ("..", "otherwise"),
            (". .", "otherwise"),
            ("a/..", "otherwise"),
            ("a/b/", "b"),
            ("", "otherwise"),
            ("x" * 300 + ".txt", "x" * 196 + ".txt"),
            ("a\ud800.txt", "a?.txt"),
        ],
    )
    def test_names_are_one_component(self, name: str, cleaned: str) -> None:
        assert file_name(name, "otherwise") == cleaned


class TestText:
    def test_fields_in_bytes(self) -> None:
        document = parse("a.eml", "From: Jörg <j@k.example>\nSubject: Grüße aus Köln\n\ntext".encode())
        assert document.title == "Grüße aus Köln"
        assert document.metadata["author"] == "Jörg <j@k.example>"
        assert parse("a.eml", "Subject: Grüße\n\ntext".encode("latin-1")).title == "Grüße"
        assert parse("a.eml", ("Subject: " + "ü" * 30_000 + "\n\ntext").encode()).title == "ü" * 1_000

    @pytest.mark.parametrize(
        ("field", "text"),
        [
            ("=?utf-8?q?a_b?= =?utf-8?q?c?=", "a bc"),
            ("x =?utf-8?q?=C3?=\n =?utf-8?q?=BC?= y", "x ü y"),
            ("=?iso-8859-1?q?=FC?= =?utf-8?b?w7w=?=", "üü"),
            ("ü =?utf-8?q?=C3=BC?=", "ü ü"),
            ("=?utf-8*de?b?w7w?=", "ü"),
            ("=?utf-8?q?why??=", "why?"),
            ("=?x?q?=C3=BC?=", "ü"),
            ("=?idna?q?a?=", "a"),
            ("=?utf-8?b?a?= b", "=?utf-8?b?a?= b"),
            ("=?a?q", "=?a?q"),
            ("=?utf-8?b?YQ==?=b", "ab"),
        ],
    )
    def test_encoded_words(self, field: str, text: str) -> None:
        assert parse("a.eml", f"Subject: {field}\n\nx".encode()).title == text

    @pytest.mark.parametrize(
        ("charset", "content", "text"),
        [
            ("us-ascii", b"caf\xe9 \0 and more words", "caf"),
            ("us-ascii", b"caf\xe9", "café"),
            ("us-ascii", b"caf\xe9\0", "café"),
            ("punycode", b"text", "text"),
            ("utf-8", b"%PDF \xff\xfe\xfa text", "text"),
        ],
    )
    def test_damaged_texts(self, charset: str, content: bytes, text: str) -> None:
        message = b"Content-Type: text/plain; charset=" + charset.encode() + b"\n\n" + content
        assert text in body(mail(message))

    def test_text_around_the_parts(self) -> None:
        before = "This is a multi-part message in MIME format.\n"
        parts = multipart("mixed", PLAIN + "text", before=before, behind="\nA footer: ü.\n")
        assert body(mail(parts)) == "text\n\nA footer: ü."
        assert body(mail(multipart("mixed", PLAIN + "text", before=before, behind=" \n\n"))) == "text"

    @pytest.mark.parametrize(
        ("kind", "status", "why"),
        [
            ("smime-type=signed-data", Status.UNSUPPORTED, "signed in a form that hides its text"),
            ('smime-type="Signed-Data"', Status.UNSUPPORTED, "signed in a form that hides its text"),
            ("smime-type=compressed-data", Status.UNSUPPORTED, "packed in a form"),
            ("smime-type=enveloped-data", Status.ENCRYPTED, "encrypted"),
            ("name=smime.p7m", Status.ENCRYPTED, "encrypted"),
        ],
    )
    def test_hidden_texts(self, kind: str, status: Status, why: str) -> None:
        with pytest.raises(ParseError, match=why) as caught:
            mail(f"Content-Type: application/pkcs7-mime; {kind}\nContent-Transfer-Encoding: base64\n\nMIIB")
        assert caught.value.status is status

    @pytest.mark.parametrize(
        "message",
        [
            "Subject: " + "=?x?q?a" * 100_000 + "\n\nx",
            "Subject: " + "=?x?q?" * 100_000 + "\n\nx",
            "Content-Type: text/plain; " + ";" * 1_000_000 + "\n\nx",
            'Content-Type: text/plain; a="' + ";" * 1_000_000 + "\n\nx",
            multipart("mixed", "Content-Type: message/rfc822\n\nTo: " + "a@b, " * 100_000 + "\n\nx"),
            "Content-Type: text/plain; charset=punycode\n\n" + "a-b" * 300_000,
            multipart("alternative", *[HTML + IMAGE] * 5_000),
        ],
        ids=lambda message: message[:30],
    )
    def test_what_is_made_to_take_long_does_not(self, message: str) -> None:
        start = time.monotonic()
        mail(message)
        assert time.monotonic() - start < 10


class TestOutlook:
    FOLDER = "__attach_version1.0_#00000000/"
    INNER = FOLDER + "__substg1.0_3701000D/"

    def attached(self, streams: dict[str, bytes], folder: str = FOLDER) -> dict[str, bytes]:
        return {folder + "__properties_version1.0": bytes(8), **{folder + name: data for name, data in streams.items()}}

    @pytest.mark.parametrize("html", [b"", b" ", IMAGE.encode()])
    def test_html_without_text_gives_way(self, html: bytes) -> None:
        stream = {"__substg1.0_10130102": html}
        assert parse("a.msg", build_msg({0x1000: "plain"}, stream)).text.endswith("\n\nplain")
        rich = "2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320af32068656c090020627705b06c647d0a800fa0"
        stream["__substg1.0_10090102"] = bytes.fromhex(rich)
        assert parse("a.msg", build_msg({}, stream)).text.endswith("\n\nhello world")

    def test_html_without_text_gives_way_in_a_message_inside(self) -> None:
        inner = {
            "__properties_version1.0": bytes(24),
            "__substg1.0_1000001F": "plain".encode("utf-16-le"),
            "__substg1.0_10130102": IMAGE.encode(),
            **self.attached({"__substg1.0_370D001F": "\\\\host\\a.csv".encode("utf-16-le")}),
        }
        streams = self.attached({f"__substg1.0_3701000D/{name}": data for name, data in inner.items()})
        (file,) = parse("a.msg", build_msg({0x0037: "Out"}, streams)).attachments
        assert parse(file.name, file.data).text == "plain\n\na.csv: Attached by reference: \\\\host\\a.csv"
        assert file == parse("a.msg", build_msg({0x0037: "Out"}, streams)).attachments[0]
        inner["__substg1.0_10130102"] = b"<p>rich</p>"
        streams = self.attached({f"__substg1.0_3701000D/{name}": data for name, data in inner.items()})
        (file,) = parse("a.msg", build_msg({0x0037: "Out"}, streams)).attachments
        assert parse(file.name, file.data).text.startswith("rich\n\na.csv")

    @pytest.mark.parametrize("streams", [{"__substg1.0_37010102": b""}, {}])
    def test_files_without_bytes(self, streams: dict[str, bytes]) -> None:
        name = {"__substg1.0_3707001F": "a.txt".encode("utf-16-le")}
        (file,) = parse("a.msg", build_msg({}, self.attached({**name, **streams}))).attachments
        assert (file.name, file.data, file.known) == ("a.txt", b"", None)

    @pytest.mark.parametrize("stream", ["__substg1.0_3701000D/CONTENTS", "__substg1.0_3701000D"])
    def test_embedded_objects(self, stream: str) -> None:
        (file,) = parse("a.msg", build_msg({}, self.attached({stream: b"x"}))).attachments
        assert (file.name, file.media_type, file.data) == ("object", "application/x-ole-storage", b"")
        assert file.known == (Status.UNSUPPORTED, "An embedded object (OLE) can't be opened.")

    def test_files_by_reference(self) -> None:
        path = "\\\\host\\share\\fares.csv"
        (file,) = parse(
            "a.msg", build_msg({}, self.attached({"__substg1.0_370D001F": path.encode("utf-16-le")}))
        ).attachments
        assert (file.name, file.data) == ("fares.csv", b"")
        assert file.known == (Status.UNSUPPORTED, f"Attached by reference: {path}")

    def test_names_of_messages_inside(self) -> None:
        inner = {"__properties_version1.0": bytes(24), "__substg1.0_0037001F": ("x" * 300 + " 1/2").encode("utf-16-le")}
        streams = self.attached({f"__substg1.0_3701000D/{name}": data for name, data in inner.items()})
        (file,) = parse("a.msg", build_msg({}, streams)).attachments
        assert file.name.endswith("xx 1_2.eml")
        assert len(file.name) == 200
