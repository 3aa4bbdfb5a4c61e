"""Messages (RFC 5322 and MIME), turned into Markdown, with what is attached to them.

What belongs here: header fields, the body, and which parts are files. What doesn't: the files, which become items of
their own.
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email._policybase import Compat32
from email.message import Message
from email.parser import BytesParser
from functools import partial
from typing import Any, cast

from kb_pipeline.parsing import html
from kb_pipeline.parsing.document import Attachment, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.metadata import common, one_line
from kb_pipeline.parsing.signatures import byte_order_mark
from kb_pipeline.parsing.spans import paragraph_spans
from kb_pipeline.parsing.text import decode
from kb_pipeline.parsing.writer import Writer
from kb_pipeline.statuses import Status

_SHOWN = ("From", "To", "Cc", "Date")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NAME_CHARACTERS = 200
# What is looked at of a header field. Python's parser of parameters takes time in proportion to the square of their length.
_FIELD_CHARACTERS, _PARAMETERS_CHARACTERS = 50_000, 8_000
# No word holds the beginning of another one: with that the search takes time in proportion to the length.
_ENCODED_WORD = re.compile(r"=\?([^?\s]{1,100})\?([bBqQ])\?((?:[^?=]|\?(?!=)|=(?!\?[^=]))*?)\?=")
# Encodings that no text of a message has. Those of host names take time in proportion to the square of the length.
_NO_CHARSETS = frozenset({"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"})
_SMIME = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_SMIME_ENCRYPTED = frozenset({"", "enveloped-data", "authenveloped-data", "authenticated-enveloped-data"})
_MESSAGES = frozenset({"message/rfc822", "message/global", "message/news"})
_EXTENSIONS = {"text/plain": ".txt", "text/html": ".html", "text/calendar": ".ics", "application/pdf": ".pdf"}


def parse(data: bytes, name: str) -> Document:
    """Parse a message: its subject is the title and the heading; sender and date go to the metadata; files are attached.

    Of several forms of one text the richest that holds any text is taken: HTML first. Messages in it (message/rfc822)
    are attachments; reports about messages (message/delivery-status and the like) are text.
    Raises ParseError: CORRUPT for what has no header, ENCRYPTED for encrypted messages, UNSUPPORTED for those whose text
    is hidden in a signature.
    """
    writer = MailWriter()
    try:
        message = _read(data)
        found = _Parts()
        bodies = found.collect(message)
        if not message.keys():
            raise ParseError(Status.CORRUPT, "The message has no header.")
        if not bodies:
            _refuse_hidden(message)
        subject = header(message, "Subject")
        writer.heading(1, subject)
        shown = [f"{field}: {value}" for field in _SHOWN if (value := header(message, field))]
        writer.add(BlockKind.PARAGRAPH, "\n".join(shown))
        for body in bodies:
            _write(body, writer)
    except RecursionError:
        raise ParseError(Status.CORRUPT, "The message's parts are nested too deep.") from None
    for text in found.behind:
        write_body(text, writer, is_html=False)
    metadata = common(
        author=header(message, "From"), created=header(message, "Date"), language=header(message, "Content-Language")
    )
    for key, field in (("to", "To"), ("cc", "Cc"), ("message_id", "Message-ID"), ("in_reply_to", "In-Reply-To")):
        if value := header(message, field):
            metadata[key] = value
    return writer.document("message/rfc822", subject, metadata, tuple(found.files))


def _refuse_hidden(message: _Part) -> None:
    """Raise ParseError for a message whose text can't be seen."""
    kind = message.get_content_type()
    form = one_line(message.get_param("smime-type", "")).lower()
    if kind == "multipart/encrypted" or (kind in _SMIME and form in _SMIME_ENCRYPTED):
        raise ParseError(Status.ENCRYPTED, "The message is encrypted.")
    if kind in _SMIME:
        how = "signed" if form == "signed-data" else "packed"
        raise ParseError(Status.UNSUPPORTED, f"The message is {how} in a form that hides its text (S/MIME).")


class MailWriter(Writer):
    """A writer that tells how much was added."""

    @property
    def blocks(self) -> int:
        """The number of blocks so far."""
        return len(self._blocks)


def write_first(forms: Iterable[Callable[[], None]], writer: MailWriter) -> None:
    """Write the first of several forms of one text that holds any text. Each writes itself to ``writer``."""
    before = writer.blocks
    for write in forms:
        write()
        if writer.blocks > before:
            return


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
    return "" if raw is None else one_line(_decoded_words(str(raw)))


def file_name(name: str, otherwise: str) -> str:
    """Return the last component of a path, without control characters; ``otherwise`` where nothing is left."""
    last = name.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    cleaned = _CONTROLS.sub("_", last.strip())[-_NAME_CHARACTERS:].strip()
    return cleaned.encode("utf-8", "replace").decode("utf-8") if cleaned.strip(" .") else otherwise


def message_name(subject: str) -> str:
    """Return the name of an attached message, given its subject or what else stands for it."""
    # A subject is no path. The parser of what is inside an item is chosen by its name.
    stem = subject.replace("/", "_").replace("\\", "_")
    return file_name(f"{file_name(stem, 'message')}.eml", "message.eml")


class _Policy(Compat32):
    """The older policy: the newer one's parsers of header fields take time without end on hostile ones.

    Fields are written as they were read, and read as UTF-8 (RFC 6532) where they hold bytes beyond ASCII.
    """

    def header_fetch_parse(self, name: str, value: str) -> str:
        limit = _PARAMETERS_CHARACTERS if name.lower().startswith("content-") else _FIELD_CHARACTERS
        return _recovered(_bytes(value[:limit]), cut=len(value) > limit)

    def fold_binary(self, name: str, value: str) -> bytes:
        lines = value.replace("\r\n", "\n").replace("\r", "\n")
        return _bytes(f"{name}: {lines}\n")


class _Part(Message):
    """A message, or a part of one."""

    _payload: Any

    def get_param(self, param: str, failobj: Any = None, header: str = "content-type", unquote: bool = True) -> Any:
        """Return a parameter as text, whatever encoding it claims; ``failobj`` where there is none that can be read."""
        try:
            value = super().get_param(param, failobj, header, unquote)
        except (ValueError, TypeError, IndexError):
            return failobj
        if not isinstance(value, tuple):
            return value
        charset, _, text = value
        try:
            return _decoded(text.encode("latin-1"), charset or "")
        except UnicodeEncodeError:
            return text

    def get_payload(self, i: Any = None, decode: Any = False) -> Any:
        """Return the content. What isn't to be decoded keeps its bytes: Python would decode it, and fail to write it."""
        return self._payload if i is None and not decode else super().get_payload(i, decode)

    def raw(self) -> bytes:
        """Return the content as it stands in the message; of a message inside, that message."""
        payload = self._payload
        if isinstance(payload, list):
            return b"\n".join(part.as_bytes() for part in payload if isinstance(part, Message))
        return _bytes(payload) if isinstance(payload, str) else b""

    def content(self) -> bytes:
        """Return the decoded content; as it stands where the decoding leaves nothing of it."""
        data = self.get_payload(decode=True)
        if isinstance(data, bytes) and data:
            return data
        raw = self.raw()
        return raw if raw.strip(b"= \t\r\n") else b""


def _read(data: bytes, *, headersonly: bool = False) -> _Part:
    return cast(_Part, BytesParser(_Part, policy=_Policy()).parsebytes(data, headersonly))


@dataclass(frozen=True, slots=True)
class _Text:
    """One text of a message."""

    is_html: bool
    read: Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Either:
    """Several forms of one text, each made of texts, the best first."""

    forms: list[list[_Text | _Either]]


def _write(body: _Text | _Either, writer: MailWriter) -> None:
    if isinstance(body, _Text):
        write_body(body.read(), writer, is_html=body.is_html)
        return
    write_first((partial(_write_all, form, writer) for form in body.forms), writer)


def _write_all(bodies: list[_Text | _Either], writer: MailWriter) -> None:
    for each in bodies:
        _write(each, writer)


class _Parts:
    """The files of a message, and the texts behind the last boundary of its parts."""

    def __init__(self) -> None:
        self.files: list[Attachment] = []
        self.behind: list[str] = []

    def collect(self, part: _Part) -> list[_Text | _Either]:
        """Return the texts of a message or of a part, and keep what else there is."""
        kind = part.get_content_type()
        if kind in _MESSAGES:
            self.files.append(_message(part))
            return []
        if kind.startswith("message/"):
            return [_Text(is_html=False, read=lambda: _text(part, _report(part)))]
        if part.is_multipart():
            found = [self.collect(inner) for inner in part.get_payload() if isinstance(inner, _Part)]
            if isinstance(part.epilogue, str) and part.epilogue.strip():
                self.behind.append(_text(part, _bytes(part.epilogue)))
            if kind != "multipart/alternative":
                return [body for bodies in found for body in bodies]
            forms = [bodies for bodies in reversed(found) if bodies]
            forms.sort(key=lambda bodies: not _has_html(bodies))
            return [_Either(forms)] if forms else []
        name = _name(part)
        if kind in ("text/plain", "text/html") and not name and part.get_content_disposition() != "attachment":
            return [_Text(is_html=kind == "text/html", read=lambda: _text(part, part.content()))]
        data = part.content()
        # What claims to have parts and has neither them nor anything else is no file.
        if data or not kind.startswith("multipart/"):
            self.files.append(Attachment(file_name(name, f"attachment{_EXTENSIONS.get(kind, '')}"), kind, data))
        return []


def _has_html(bodies: list[_Text | _Either]) -> bool:
    return any(any(map(_has_html, body.forms)) if isinstance(body, _Either) else body.is_html for body in bodies)


def _message(part: _Part) -> Attachment:
    inner = part.get_payload(0) if part.is_multipart() else None
    data = _report(part)
    if isinstance(inner, _Part) and not inner.keys() and data:
        # The header was encoded too.
        inner = _read(data, headersonly=True)
    name = _name(part)
    if not name:
        name = message_name(header(inner, "Subject") if isinstance(inner, Message) else "")
    # The parser of what is inside an item is chosen by its name.
    name = name if name.lower().endswith(".eml") else f"{name}.eml"
    return Attachment(file_name(name, "message.eml"), "message/rfc822", data)


def _report(part: _Part) -> bytes:
    """Return a message inside a part, or what is written like one. Only a message that is encoded has no header."""
    raw = part.raw()
    inner = part.get_payload() if part.is_multipart() else []
    encoding = one_line(part.get("Content-Transfer-Encoding")).lower()
    if encoding == "base64" and not any(isinstance(each, Message) and each.keys() for each in inner):
        try:
            return binascii.a2b_base64(raw) or raw
        except ValueError:
            return raw
    return raw


def _name(part: _Part) -> str:
    return one_line(_decoded_words(part.get_filename() or ""))


def _text(part: _Part, data: bytes) -> str:
    try:
        return data.decode(_encoding(part.get_content_charset() or "utf-8"))
    except (LookupError, ValueError):
        pass
    # NUL bytes stand for nothing in a message, and must not make its text binary.
    for each in (data, data.replace(b"\0", b"")):
        try:
            text, encoding = decode(each)
        except ParseError:
            continue
        # Of a few characters the guess may be one that takes ASCII for something else: nothing of the text would be left.
        kept = byte_order_mark(each) is not None or "a".encode(encoding) == b"a"
        return text if kept else each.decode("cp1252", "replace")
    return data.decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    """Return the bytes that Python's parser made text of."""
    return text.encode("utf-8", "surrogateescape")


def _recovered(data: bytes, *, cut: bool = False) -> str:
    """Return what no encoding is declared for. ``cut``: the last character may be a part of one."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _encoding(charset: str) -> str:
    """Return Python's name of an encoding. Raises LookupError, ValueError."""
    name = codecs.lookup(charset).name
    if name.replace("_", "-") in _NO_CHARSETS:
        raise LookupError(name)
    return name


def _decoded(data: bytes, charset: str) -> str:
    if charset:
        try:
            return data.decode(_encoding(charset), "replace")
        except (LookupError, ValueError):
            pass
    return _recovered(data)


def _decoded_words(raw: str) -> str:
    """Decode the encoded words (RFC 2047) in a field; what can't be decoded stays as it is."""
    field = raw.replace("\r", "").replace("\n", "")
    # Characters may be split between words: those of one encoding are decoded together.
    pieces: list[str] = []
    word, word_charset = b"", ""
    position = 0
    for match in _ENCODED_WORD.finditer(field):
        try:
            data = _word(match[2], match[3])
        except ValueError:
            continue
        charset = match[1].partition("*")[0].lower()
        between = field[position : match.start()]
        if position and not between.strip() and charset == word_charset:
            word += data
        else:
            if position:
                pieces.append(_decoded(word, word_charset))
            if between.strip() or not position:
                pieces.append(between)
            word, word_charset = data, charset
        position = match.end()
    if position:
        pieces.append(_decoded(word, word_charset))
    return "".join([*pieces, field[position:]])


def _word(encoding: str, text: str) -> bytes:
    if encoding in "qQ":
        return binascii.a2b_qp(text.encode("utf-8", "replace"), header=True)
    # Padding may be missing.
    return binascii.a2b_base64(text.encode("ascii") + b"==")
