"""Outlook's messages (MS-OXMSG), turned into Markdown, with what is attached to them.

What belongs here: which properties of a message are text, and which are files. Messages inside messages are attached in
the form of RFC 5322.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.header import Header
from email.mime.application import MIMEApplication
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from functools import partial

from kb_pipeline.parsing import rtf
from kb_pipeline.parsing.compound import CompoundFile
from kb_pipeline.parsing.compressed_rtf import unpack
from kb_pipeline.parsing.document import Attachment, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.mail import MailWriter, file_name, message_name, write_body, write_first
from kb_pipeline.parsing.metadata import common, one_line
from kb_pipeline.statuses import Status

_PROPERTIES = "__properties_version1.0"
_STREAM = "__substg1.0_"
_ATTACHED = "__attach_version1.0_"
# Properties by their tags (MS-OXPROPS).
_SUBJECT, _BODY, _RICH, _HTML, _MESSAGE_ID = 0x0037, 0x1000, 0x1009, 0x1013, 0x1035
_SENDER, _SENDER_SMTP, _SENDER_ADDRESS, _TO, _CC = 0x0C1A, 0x5D01, 0x0C1F, 0x0E04, 0x0E03
_SUBMITTED, _DELIVERED, _CODE_PAGES = 0x0039, 0x0E06, (0x3FDE, 0x3FFD)
_FILE_NAMES, _MIME, _DATA, _METHOD, _REFERENCE = (0x3707, 0x3704, 0x3001), 0x370E, 0x3701, 0x3705, 0x370D
_EMBEDDED_OBJECT = 6
_TEXT, _BYTES_TEXT, _BINARY, _OBJECT = 0x001F, 0x001E, 0x0102, 0x000D
# Bytes before the properties: of the file's message, of one inside it, of an attachment (MS-OXMSG, 2.4.1).
_HEADER_BYTES, _INNER_HEADER_BYTES, _PART_HEADER_BYTES = 32, 24, 8
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


def parse(data: bytes, name: str) -> Document:
    """Parse a message: its subject is the title and the heading; sender and date go to the metadata; files are attached.

    Raises ParseError: CORRUPT, UNSUPPORTED for compound files that hold something else.
    """
    file = CompoundFile(data, "The message")
    if _PROPERTIES not in file:
        raise ParseError(Status.UNSUPPORTED, "The file is no message of Outlook.")
    message = _Message(file, "", file.paths())
    writer = MailWriter()
    writer.heading(1, message.subject)
    writer.add(BlockKind.PARAGRAPH, "\n".join(f"{field}: {value}" for field, value in message.header.items()))
    write_first((partial(write_body, text, writer, is_html=is_html) for text, is_html in message.bodies()), writer)
    metadata = common(author=message.header.get("From", ""), created=message.header.get("Date", ""))
    found = {"to": message.header.get("To"), "cc": message.header.get("Cc"), "message_id": message.id}
    metadata |= {key: value for key, value in found.items() if value}
    return writer.document("application/vnd.ms-outlook", message.subject, metadata, tuple(message.attachments()))


class _Message:
    """The message in a folder of the file: the file's own one, or one that is attached to another."""

    def __init__(self, file: CompoundFile, folder: str, paths: Sequence[str]) -> None:
        """``paths``: those of all streams of the file, in order."""
        self._file = file
        self._folder = folder
        self._paths = paths
        self._properties = properties = _Properties(file, folder, _INNER_HEADER_BYTES if folder else _HEADER_BYTES)
        self.subject = properties.line(_SUBJECT)
        self.id = properties.line(_MESSAGE_ID)
        sender, address = properties.line(_SENDER), properties.line(_SENDER_SMTP) or properties.line(_SENDER_ADDRESS)
        author = f"{sender} <{address}>" if sender and "@" in address and address != sender else sender or address
        date = properties.time(_SUBMITTED) or properties.time(_DELIVERED)
        fields = {"From": author, "To": properties.line(_TO), "Cc": properties.line(_CC), "Date": date}
        self.header = {field: value for field, value in fields.items() if value}

    def bodies(self) -> Iterator[tuple[str, bool]]:
        """Yield the forms of the text, (text, is HTML), the best first: as HTML, as plain text, and out of rich text.

        Rich text is unpacked where there is no plain text; a damaged one is a defect where there is no other form.
        """
        if html := self._properties.text(_HTML):
            yield html, True
        if (text := self._properties.text(_BODY)).strip():
            yield text, False
        elif packed := self._properties.binary(_RICH):
            try:
                yield rtf.parse(unpack(packed), "").text, False
            except ParseError:
                if not html.strip():
                    raise

    def attachments(self) -> Iterator[Attachment]:
        """Yield the files and the messages that are attached."""
        start = len(self._folder)
        first = self._folder + _ATTACHED
        below = (path[start:] for path in _under(self._paths, first))
        for folder in sorted({path.partition("/")[0] for path in below if "/" in path}):
            properties = _Properties(self._file, f"{self._folder}{folder}/", _PART_HEADER_BYTES)
            name = next((text for each in _FILE_NAMES if (text := properties.line(each))), "")
            media_type = properties.line(_MIME) or "application/octet-stream"
            stored = f"{self._folder}{folder}/{_STREAM}{_DATA:04X}{_OBJECT:04X}"
            inner = f"{stored}/"
            if inner + _PROPERTIES in self._file:
                message = _Message(self._file, inner, self._paths)
                yield Attachment(
                    message_name(name.removesuffix(".msg") or message.subject), "message/rfc822", message.as_mail()
                )
            elif (data := properties.binary(_DATA)) is not None:
                yield Attachment(file_name(name, "attachment"), media_type, data)
            elif properties.number(_METHOD) == _EMBEDDED_OBJECT or _under(self._paths, stored):
                known = (Status.UNSUPPORTED, "An embedded object (OLE) can't be opened.")
                yield Attachment(file_name(name, "object"), "application/x-ole-storage", b"", known)
            elif path := properties.line(_REFERENCE):
                known = (Status.UNSUPPORTED, f"Attached by reference: {path}")
                yield Attachment(file_name(name or path, "attachment"), media_type, b"", known)
            else:
                yield Attachment(file_name(name, "attachment"), media_type, b"")

    def as_mail(self) -> bytes:
        """Return the message in the form that every parser of mail reads."""
        # The parser of mail chooses among the forms: the last is the best.
        forms = [_mime_text(text, "html" if is_html else "plain") for text, is_html in self.bodies()]
        forms = forms or [_mime_text("", "plain")]
        parts: list[MIMEBase] = [_multipart("alternative", forms[::-1])] if len(forms) > 1 else [*forms]
        for attachment in self.attachments():
            if attachment.known is not None:
                # A message in this form can't say so of a file of its own.
                parts.append(_mime_text(f"{attachment.name}: {attachment.known[1]}", "plain"))
                continue
            part = MIMEApplication(attachment.data)
            part.add_header("Content-Disposition", "attachment", filename=("utf-8", "", attachment.name))
            parts.append(part)
        mail = _multipart("mixed", parts)
        for field, value in {"Subject": self.subject, **self.header, "Message-ID": self.id}.items():
            if value:
                mail[field] = Header(value.encode("utf-8", "replace").decode(), "utf-8").encode()
        return mail.as_bytes()


def _under(paths: Sequence[str], beginning: str) -> Sequence[str]:
    """Return the paths with that beginning out of ordered ones."""
    return paths[bisect_left(paths, beginning) : bisect_left(paths, beginning + "\U0010ffff")]


def _mime_text(text: str, kind: str) -> MIMEText:
    return MIMEText(text.encode("utf-8", "replace").decode(), kind, "utf-8")


def _multipart(kind: str, parts: Sequence[MIMEBase]) -> MIMEMultipart:
    # By default the boundary is drawn by lot.
    boundary = hashlib.sha256(b"".join(part.as_bytes() for part in parts)).hexdigest()
    return MIMEMultipart(kind, boundary=boundary, _subparts=parts)


class _Properties:
    """The properties of a message or of an attachment."""

    def __init__(self, file: CompoundFile, folder: str, header_bytes: int) -> None:
        self._file = file
        self._folder = folder
        self._fixed: dict[int, bytes] = {}
        path = folder + _PROPERTIES
        content = file.read(path) if path in file else b""
        for start in range(header_bytes, len(content) - 15, 16):
            (tag,) = struct.unpack_from("<I", content, start)
            self._fixed[tag] = content[start + 8 : start + 16]

    def binary(self, property_id: int, kind: int = _BINARY) -> bytes | None:
        path = f"{self._folder}{_STREAM}{property_id:04X}{kind:04X}"
        return self._file.read(path) if path in self._file else None

    def text(self, property_id: int) -> str:
        """Return a text, whether it is kept as Unicode, in a code page, or (HTML) as bytes; "" where there is none."""
        if (found := self.binary(property_id, _TEXT)) is not None:
            return found.decode("utf-16-le", "replace").rstrip("\0")
        found = self.binary(property_id, _BYTES_TEXT)
        found = self.binary(property_id) if found is None else found
        return "" if found is None else found.decode(self._encoding(), "replace").rstrip("\0")

    def number(self, property_id: int) -> int | None:
        value = self._fixed.get(property_id << 16 | 0x0003)
        return None if value is None else int.from_bytes(value[:4], "little")

    def time(self, property_id: int) -> str:
        """Return a time (100 ns since 1601) in ISO 8601; "" where there is none."""
        value = self._fixed.get(property_id << 16 | 0x0040)
        if value is None:
            return ""
        try:
            return (_EPOCH + timedelta(microseconds=struct.unpack("<Q", value)[0] // 10)).isoformat(timespec="seconds")
        except OverflowError:
            return ""

    def line(self, property_id: int) -> str:
        """Return a text on one line."""
        return one_line(self.text(property_id))

    def _encoding(self) -> str:
        for property_id in _CODE_PAGES:
            if (number := self.number(property_id)) is not None:
                encoding = {65001: "utf-8", 20127: "ascii", 28591: "latin-1"}.get(number, f"cp{number}")
                try:
                    "".encode(encoding)
                except LookupError:
                    continue
                return encoding
        return "cp1252"
