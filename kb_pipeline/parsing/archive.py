"""Archives found inside documents, as what they hold. Those that a source lists are the source's to open, not a parser's.

What belongs here: members as attachments. What doesn't: the limits and checks of ZIP files (``containers``).
"""

from __future__ import annotations

import re
import stat
from zipfile import ZipInfo

from kb_pipeline.parsing.containers import Container
from kb_pipeline.parsing.document import Attachment, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.signatures import ZIP
from kb_pipeline.statuses import Status

MEDIA_TYPE = "application/zip"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")
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
    return Document("", MEDIA_TYPE, attachments=tuple(_member(*each) for each in Container(data, "The archive").members()))


def _member(info: ZipInfo, data: bytes) -> Attachment:
    """The rules are those of archives that a source lists."""
    name = _CONTROL.sub("_", info.filename)
    rule = ""
    if any(part == "__MACOSX" or (part[:1] == "." and part != ".") for part in name.split("/")):
        rule = "hidden"
    elif stat.S_ISLNK(info.external_attr >> 16):
        rule = "link"
    return Attachment(name, "application/octet-stream", data, (Status.EXCLUDED, rule) if rule else None)
