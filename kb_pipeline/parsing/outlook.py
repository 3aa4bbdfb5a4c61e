"""Outlook's messages (MS-OXMSG), turned into Markdown, with what is attached to them.

What belongs here: which properties of a message are text, and which are files. Bodies that exist as RTF only are left
out, and so are messages inside messages, which are named in the metadata.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

from kb_pipeline.parsing.compound import CompoundFile
from kb_pipeline.parsing.document import Attachment, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.mail import file_name, write_body
from kb_pipeline.parsing.metadata import common, one_line
from kb_pipeline.parsing.writer import Writer
from kb_pipeline.statuses import Status

_PROPERTIES = "__properties_version1.0"
_STREAM = "__substg1.0_"
_ATTACHED = "__attach_version1.0_"
# Properties by their tags (MS-OXPROPS).
_SUBJECT, _BODY, _HTML, _MESSAGE_ID = 0x0037, 0x1000, 0x1013, 0x1035
_SENDER, _SENDER_SMTP, _SENDER_ADDRESS, _TO, _CC = 0x0C1A, 0x5D01, 0x0C1F, 0x0E04, 0x0E03
_SUBMITTED, _DELIVERED, _CODE_PAGES = 0x0039, 0x0E06, (0x3FDE, 0x3FFD)
_FILE_NAMES, _MIME, _DATA = (0x3707, 0x3704, 0x3001), 0x370E, 0x3701
_TEXT, _BYTES_TEXT, _BINARY, _OBJECT = 0x001F, 0x001E, 0x0102, 0x000D
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


def parse(data: bytes, name: str) -> Document:
    """Parse a message: its subject is the title and the heading; sender and date go to the metadata; files are attached.

    Raises ParseError: CORRUPT, UNSUPPORTED for compound files that hold something else.
    """
    file = CompoundFile(data, "The message")
    if _PROPERTIES not in file:
        raise ParseError(Status.UNSUPPORTED, "The file is no message of Outlook.")
    message = _Properties(file, "")
    subject, sender = one_line(message.text(_SUBJECT)), one_line(message.text(_SENDER))
    address = one_line(message.text(_SENDER_SMTP)) or one_line(message.text(_SENDER_ADDRESS))
    author = f"{sender} <{address}>" if sender and "@" in address and address != sender else sender or address
    date = message.time(_SUBMITTED) or message.time(_DELIVERED)
    to, cc = one_line(message.text(_TO)), one_line(message.text(_CC))
    writer = Writer()
    writer.heading(1, subject)
    shown = (("From", author), ("To", to), ("Cc", cc), ("Date", date))
    writer.add(BlockKind.PARAGRAPH, "\n".join(f"{field}: {value}" for field, value in shown if value))
    html = message.text(_HTML)
    write_body(html or message.text(_BODY), writer, is_html=bool(html))
    attachments, inner = _attachments(file)
    metadata = common(author=author, created=date)
    found = {"to": to, "cc": cc, "message_id": one_line(message.text(_MESSAGE_ID)), "messages_inside": "; ".join(inner)}
    metadata |= {key: value for key, value in found.items() if value}
    return writer.document("application/vnd.ms-outlook", subject, metadata, attachments)


class _Properties:
    """The properties of a message or of an attachment."""

    def __init__(self, file: CompoundFile, folder: str) -> None:
        self._file = file
        self._folder = folder
        self._fixed: dict[int, bytes] = {}
        path = folder + _PROPERTIES
        content = file.read(path) if path in file else b""
        for start in range(8 if folder else 32, len(content) - 15, 16):
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

    def time(self, property_id: int) -> str:
        """Return a time (100 ns since 1601) in ISO 8601; "" where there is none."""
        value = self._fixed.get(property_id << 16 | 0x0040)
        if value is None:
            return ""
        try:
            return (_EPOCH + timedelta(microseconds=struct.unpack("<Q", value)[0] // 10)).isoformat(timespec="seconds")
        except OverflowError:
            return ""

    def holds_message(self) -> bool:
        prefix = f"{self._folder}{_STREAM}{_DATA:04X}{_OBJECT:04X}/"
        return f"{prefix}{_PROPERTIES}" in self._file

    def _encoding(self) -> str:
        for property_id in _CODE_PAGES:
            if (value := self._fixed.get(property_id << 16 | 0x0003)) is not None:
                number = struct.unpack_from("<I", value)[0]
                encoding = {65001: "utf-8", 20127: "ascii", 28591: "latin-1"}.get(number, f"cp{number}")
                try:
                    "".encode(encoding)
                except LookupError:
                    continue
                return encoding
        return "cp1252"


def _attachments(file: CompoundFile) -> tuple[tuple[Attachment, ...], list[str]]:
    """Return the files of a message, and the names of the messages in it."""
    folders = sorted({path.partition("/")[0] for path in file.paths() if path.startswith(_ATTACHED) and "/" in path})
    found: list[Attachment] = []
    inner: list[str] = []
    for folder in folders:
        properties = _Properties(file, f"{folder}/")
        name = next((text for each in _FILE_NAMES if (text := one_line(properties.text(each)))), "")
        if properties.holds_message():
            inner.append(name or "message")
        elif data := properties.binary(_DATA):
            media_type = one_line(properties.text(_MIME)) or "application/octet-stream"
            found.append(Attachment(file_name(name, "attachment"), media_type, data))
    return tuple(found), inner
