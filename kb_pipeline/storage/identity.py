"""Hashes that name things: documents, chunks, rows, tables. Changing one of these changes every id in every storage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def digest(*parts: Any) -> str:
    """Hex SHA-256 (first 32 digits: 128 bits) of a canonical JSON list of ``parts``."""
    canonical = json.dumps(parts, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:32]


def document_id(type_: str, connection: str, key: str, within: str | None = None) -> str:
    """Id of a document: depends on where it lies, not on what it holds.

    ``within``: key of the listed item that it was found inside. A source may list a key that reads the same.
    """
    inside = () if within is None else (within,)
    return digest("document", type_, connection, *inside, key)


def chunk_id(document: str, text_sha256: str, occurrence: int) -> str:
    """Id of the ``occurrence``-th chunk (from 0) with this text in its document: stable under edits elsewhere in it."""
    return digest("chunk", document, text_sha256, occurrence)


def table_fingerprint(rows: Iterable[str], *context: Any) -> str:
    """Fingerprint of a table from one string per row; row order doesn't matter."""
    hasher = hashlib.sha256(digest("table", *context).encode())
    for row in sorted(rows):
        hasher.update(row.encode("utf-8", "surrogatepass"))
        hasher.update(b"\n")
    return hasher.hexdigest()[:32]
