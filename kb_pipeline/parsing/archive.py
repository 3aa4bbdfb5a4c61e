"""Archives found inside documents, as what they hold. Those that a source lists are the source's to open, not a parser's.

What belongs here: members as attachments. What doesn't: the limits and checks of ZIP files (``containers``).
"""

from __future__ import annotations

from kb_pipeline.parsing.containers import Container
from kb_pipeline.parsing.document import Attachment, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.signatures import ZIP
from kb_pipeline.statuses import Status

MEDIA_TYPE = "application/zip"
EXTENSIONS = frozenset({"zip", "tar", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar"})


def parse(data: bytes, name: str) -> Document:
    """Return an empty document with every member of a ZIP file attached, each named by its path in the archive.

    Raises ParseError: UNSUPPORTED for other archives than ZIP files, and those of ``Container``; one damaged or encrypted
    member makes the whole archive an error, so that none is lost without a word.
    """
    if not data.startswith((ZIP, b"PK\x05\x06")):
        raise ParseError(
            Status.UNSUPPORTED, "Of archives inside documents only ZIP files are opened: put its files beside the document."
        )
    container = Container(data, "The archive")
    names = [each for each in container.names() if not each.endswith("/")]
    return Document(
        "",
        MEDIA_TYPE,
        attachments=tuple(Attachment(each, "application/octet-stream", container.read(each)) for each in names),
    )
