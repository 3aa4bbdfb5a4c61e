"""Messages (RFC 5322 and MIME), turned into Markdown, with what is attached to them.

What belongs here: header fields, the body, and which parts are files. What doesn't: the files, which become items of
their own.
"""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32

from kb_pipeline.parsing import html
from kb_pipeline.parsing.document import Attachment, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.metadata import common, one_line
from kb_pipeline.parsing.spans import paragraph_spans
from kb_pipeline.parsing.text import decode
from kb_pipeline.parsing.writer import Writer
from kb_pipeline.statuses import Status

_SHOWN = ("From", "To", "Cc", "Date")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]+")
_NAME_CHARACTERS = 200
_ENCRYPTED = frozenset({"multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"})


def parse(data: bytes, name: str) -> Document:
    """Parse a message: its subject is the title and the heading; sender and date go to the metadata; files are attached.

    Of several forms of one text the HTML is taken. Messages in it (message/rfc822) are attachments.
    Raises ParseError: CORRUPT for what has no header, ENCRYPTED for encrypted messages.
    """
    # The older policy: the newer one's parsers of header fields take time without end on hostile ones.
    try:
        message = BytesParser(policy=compat32).parsebytes(data)
        bodies, attachments = _parts(message)
    except RecursionError:
        raise ParseError(Status.CORRUPT, "The message's parts are nested too deep.") from None
    if not message.keys():
        raise ParseError(Status.CORRUPT, "The message has no header.")
    if message.get_content_type() in _ENCRYPTED and not bodies:
        raise ParseError(Status.ENCRYPTED, "The message is encrypted.")
    writer = Writer()
    subject = header(message, "Subject")
    writer.heading(1, subject)
    shown = [f"{field}: {value}" for field in _SHOWN if (value := header(message, field))]
    writer.add(BlockKind.PARAGRAPH, "\n".join(shown))
    for is_html, text in bodies:
        write_body(text, writer, is_html=is_html)
    metadata = common(
        author=header(message, "From"), created=header(message, "Date"), language=header(message, "Content-Language")
    )
    for key, field in (("to", "To"), ("cc", "Cc"), ("message_id", "Message-ID"), ("in_reply_to", "In-Reply-To")):
        if value := header(message, field):
            metadata[key] = value
    return writer.document("message/rfc822", subject, metadata, tuple(attachments))


def write_body(text: str, writer: Writer, *, is_html: bool) -> None:
    """Write the text of a message; its headings go below the subject."""
    if is_html:
        html.write(text, writer, below=1)
        return
    text = text.replace("\r\n", "\n")
    for start, end in paragraph_spans(text):
        quoted = all(line.startswith(">") for line in text[start:end].split("\n"))
        writer.add(BlockKind.QUOTE if quoted else BlockKind.PARAGRAPH, text[start:end])


def header(message: Message, field: str) -> str:
    """Return a header field, decoded (RFC 2047), on one line; "" where there is none."""
    raw = message.get(field)
    if raw is None:
        return ""
    try:
        return one_line(str(make_header(decode_header(raw))))
    except (HeaderParseError, LookupError, ValueError):
        return one_line(str(raw).encode("ascii", "replace").decode("ascii"))


def file_name(name: str, otherwise: str) -> str:
    """Return a name of one path component, without control characters; ``otherwise`` where nothing is left."""
    cleaned = _UNSAFE.sub("_", name).strip(" ._")[-_NAME_CHARACTERS:]
    return cleaned.encode("utf-8", "replace").decode("utf-8") or otherwise


def _parts(message: Message) -> tuple[list[tuple[bool, str]], list[Attachment]]:
    """Return the texts of a message, (is HTML, text), and its files."""
    kind = message.get_content_type()
    if kind == "message/rfc822":
        return [], [_message(message)]
    if message.is_multipart():
        found = [_parts(part) for part in message.get_payload() if isinstance(part, Message)]
        bodies = [body for texts, _ in found for body in texts]
        if kind == "multipart/alternative":
            richest = [texts for texts, _ in found if any(is_html for is_html, _ in texts)] or [t for t, _ in found if t]
            bodies = richest[-1] if richest else []
        return bodies, [file for _, files in found for file in files]
    payload = message.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    name = _name(message)
    if kind in ("text/plain", "text/html") and not name and message.get_content_disposition() != "attachment":
        return [(kind == "text/html", _text(message, data))], []
    return [], [Attachment(file_name(name, f"attachment{_EXTENSIONS.get(kind, '')}"), kind, data)] if data else []


_EXTENSIONS = {"text/plain": ".txt", "text/html": ".html", "text/calendar": ".ics", "application/pdf": ".pdf"}


def _message(part: Message) -> Attachment:
    inner = part.get_payload(0) if part.is_multipart() else None
    if not isinstance(inner, Message):
        payload = part.get_payload(decode=True)
        return Attachment("message.eml", "message/rfc822", payload if isinstance(payload, bytes) else b"")
    name = _name(part) or header(inner, "Subject") or "message"
    # The parser of what is inside an item is chosen by its name.
    name = name if name.lower().endswith(".eml") else f"{name}.eml"
    return Attachment(file_name(name, "message.eml"), "message/rfc822", inner.as_bytes())


def _name(part: Message) -> str:
    name = part.get_filename()
    if not name:
        return ""
    try:
        return one_line(str(make_header(decode_header(name))))
    except (HeaderParseError, LookupError, ValueError):
        return one_line(name)


def _text(part: Message, data: bytes) -> str:
    try:
        return data.decode(part.get_content_charset() or "utf-8")
    except (LookupError, ValueError):
        return decode(data)[0]
