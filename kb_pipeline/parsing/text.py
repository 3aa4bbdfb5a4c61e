"""Plain text, and the decoding of bytes that every text format shares.

What belongs here: from bytes to characters. The text is kept as it is, line ends included; only a byte-order mark goes.
"""

from __future__ import annotations

import charset_normalizer

from kb_pipeline.parsing.document import Block, BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.signatures import byte_order_mark, is_binary
from kb_pipeline.parsing.spans import paragraph_spans
from kb_pipeline.statuses import Status

_SAMPLE_BYTES = 65_536
# One damaged byte must not turn a whole UTF-8 file into another encoding's gibberish: up to one bad sequence in ten.
_GOOD_FOR_BAD = 10


def decode(data: bytes) -> tuple[str, str]:
    """Return the text of ``data`` and the name of its encoding.

    Tried in order: the byte-order mark, UTF-8, UTF-8 with a few damaged characters (they become U+FFFD), and
    charset-normalizer's best guess. Raises ParseError(CORRUPT) for bytes that are no text.
    """
    if is_binary(data):
        raise ParseError(Status.CORRUPT, "The name says text, but the bytes are binary.")
    mark = byte_order_mark(data)
    if mark is not None:
        try:
            return data[len(mark[0]) :].decode(mark[1]), mark[1]
        except UnicodeDecodeError as error:
            raise ParseError(Status.CORRUPT, f"The text is not the {mark[1]} it declares: {error}.") from None
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    mended = data.decode("utf-8", errors="replace")
    bad = mended.count("\ufffd")
    good = sum(1 for character in mended if character > "\x7f") - bad
    if good >= bad * _GOOD_FOR_BAD:
        return mended, "utf-8"
    encoding = _guess(data)
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError:
        return data.decode(encoding, errors="replace"), encoding


def _guess(data: bytes) -> str:
    # Only lines with bytes beyond ASCII tell encodings apart, and the guess takes time in proportion to its sample.
    sample = bytearray()
    for line in data.splitlines(keepends=True):
        if not line.isascii():
            sample += line
            if len(sample) >= _SAMPLE_BYTES:
                break
    best = charset_normalizer.from_bytes(bytes(sample)).best()
    if best is None:
        raise ParseError(Status.CORRUPT, "The name says text, but the bytes are text in no known encoding.")
    return best.encoding


def parse(data: bytes, name: str) -> Document:
    """Parse plain text: one paragraph per run of lines without a blank one."""
    text, encoding = decode(data)
    blocks = tuple(Block(BlockKind.PARAGRAPH, start, end) for start, end in paragraph_spans(text))
    return Document(text, "text/plain", blocks, metadata={"encoding": encoding})
