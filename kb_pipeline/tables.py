"""The Arrow schema of every table, in one place; each column carries its meaning and unit as field metadata.

What belongs here: schemas and the names of the key-value metadata that published tables carry. What doesn't: reading
or writing (``storage.table``), or anything that decides values.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

FINGERPRINT = b"kb.fingerprint"
"""Hash of a table's logical content; equal content gives equal fingerprints whatever the row order or run."""

SOURCE_FINGERPRINT = b"kb.source_fingerprint"
"""Fingerprint of the upstream table this one was made from: a chain is consistent when these link up."""

RECIPE = b"kb.recipe"
"""Fingerprint of the settings a table was made with (of chunks: JSON, one per media type; of embeddings: the model id)."""

STORED_VECTORS = b"kb.stored_vectors"
"""How many vectors the store held when an embeddings table was written: when it holds fewer, some may have been lost."""

LISTING_INFO = b"kb.listing"
"""JSON of ``ingestion.listing.ListingInfo``: who listed, when, digest, number of items."""

_TIME = pa.timestamp("us", tz="UTC")


def _field(name: str, kind: pa.DataType, description: str, *, nullable: bool = True) -> pa.Field[Any]:
    return pa.field(name, kind, nullable=nullable, metadata={b"description": description.encode()})


LISTING = pa.schema(
    [
        _field("key", pa.string(), "the source's own stable key of the item", nullable=False),
        _field("version", pa.string(), "changes whenever the bytes may have changed", nullable=False),
        _field("name", pa.string(), "file name with extension", nullable=False),
        _field("uri", pa.string(), "where a person finds the item", nullable=False),
        _field("size", pa.int64(), "bytes, where the source knows"),
        _field("modified", _TIME, "last change at the source, where it knows"),
        _field("parent", pa.string(), "key of the item that holds this one"),
        _field("excluded", pa.string(), "name of the rule that leaves the item out"),
        _field("problem", pa.string(), "status of an item known to be bad at listing time"),
        _field("problem_detail", pa.string(), "one sentence on the problem", nullable=False),
        _field("media_type", pa.string(), "what the source says the bytes are, where it does"),
    ]
)

BLOCK = pa.struct(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("heading_path", pa.list_(pa.string()), nullable=False),
        pa.field("page", pa.int32()),
    ]
)

_MANIFEST_FIELDS = [
    _field("key", pa.string(), "the source's own stable key of the item, or parent + !/ + name", nullable=False),
    _field("document_id", pa.string(), "hash of type, connection, key and within", nullable=False),
    _field("version", pa.string(), "version listed when the item was last looked at", nullable=False),
    _field("content_version", pa.string(), "version of the bytes that are indexed; null when nothing is"),
    _field("name", pa.string(), "file name with extension", nullable=False),
    _field("uri", pa.string(), "where a person finds the item", nullable=False),
    _field("size", pa.int64(), "bytes, where the source knows"),
    _field("modified", _TIME, "last change at the source, where it knows"),
    _field("parent", pa.string(), "key of the item that holds this one"),
    _field("within", pa.string(), "key of the listed item it was found inside; null for an item that is listed itself"),
    _field("holds", pa.int32(), "items found directly inside it, which have rows of their own", nullable=False),
    _field("status", pa.string(), "statuses.Status of the item", nullable=False),
    _field("rule", pa.string(), "name of the rule, when excluded"),
    _field("detail", pa.string(), "what happened, for a reader; empty when all is well", nullable=False),
    _field("stale", pa.bool_(), "true when an older version than the listed one is indexed", nullable=False),
    _field("processor", pa.string(), "versions and limits the outcome depends on", nullable=False),
    _field("content_sha256", pa.string(), "SHA-256 of the bytes last read (hex)"),
    _field("document_hash", pa.string(), "hash of all that chunks are made from; null when nothing is indexed"),
]

MANIFEST = pa.schema(_MANIFEST_FIELDS)
"""The part of ``documents`` that says what became of every item; kept with each release."""

DOCUMENTS = pa.schema(
    [
        *_MANIFEST_FIELDS,
        _field("media_type", pa.string(), "media type the parser found"),
        _field("title", pa.string(), "title, where the format has one"),
        _field("author", pa.string(), "who wrote it, by the document's own word; several parted by '; '"),
        _field("created", pa.string(), "date, or date and time, by the document's own word (ISO 8601)"),
        _field("revised", pa.string(), "the same of its last change; the source's own time is modified"),
        _field("language", pa.string(), "language by the document's own word (BCP 47)"),
        _field("metadata", pa.string(), "JSON object of all metadata, those included"),
        _field("text", pa.large_string(), "the document's text; null when nothing is indexed"),
        _field("blocks", pa.list_(BLOCK), "spans of the text with kind, heading path and page"),
    ]
)

CHUNKS = pa.schema(
    [
        _field("chunk_id", pa.string(), "hash of document id, text hash and occurrence", nullable=False),
        _field("row_hash", pa.string(), "hash of the whole row, for synchronising by change", nullable=False),
        _field("document_id", pa.string(), "document the chunk is cut from", nullable=False),
        _field("document_hash", pa.string(), "the document's hash when it was cut", nullable=False),
        _field("source", pa.string(), "source type", nullable=False),
        _field("connection", pa.string(), "connection name", nullable=False),
        _field("partition", pa.string(), "partition key", nullable=False),
        _field("key", pa.string(), "the item's key at its source", nullable=False),
        _field("uri", pa.string(), "where a person finds the item", nullable=False),
        _field("title", pa.string(), "document title"),
        _field("media_type", pa.string(), "media type of the document", nullable=False),
        _field("modified", _TIME, "last change at the source, where it knows"),
        _field("ordinal", pa.int32(), "position of the chunk in its document, from 0", nullable=False),
        _field("text", pa.string(), "the chunk: document text[start:end]", nullable=False),
        _field("prefix", pa.string(), "table header that is embedded before the text; mostly empty", nullable=False),
        _field("text_sha256", pa.string(), "SHA-256 (hex) of prefix and text: key in the vector store", nullable=False),
        _field("start", pa.int64(), "first character in the document's text", nullable=False),
        _field("end", pa.int64(), "one past the last character", nullable=False),
        _field("n_tokens", pa.int32(), "the model's own tokens of prefix and text, without special ones", nullable=False),
        _field("page", pa.int32(), "page or slide, from 1, where the format has them"),
        _field("heading_path", pa.list_(pa.string()), "headings above the chunk, outermost first", nullable=False),
        _field("kind", pa.string(), "kind of block that most of the chunk belongs to", nullable=False),
        _field("partial", pa.string(), "formula, code or table (a row) if a part of one too long for a chunk is in it"),
    ]
)


def embeddings(dimension: int) -> pa.Schema:
    """Schema of ``<type>/embeddings``: rows in the order of ``<type>/chunks``, vectors of ``dimension`` float32."""
    return pa.schema(
        [
            _field("chunk_id", pa.string(), "chunk the vector belongs to", nullable=False),
            _field("text_sha256", pa.string(), "key in the vector store", nullable=False),
            _field("vector", pa.list_(pa.float32(), dimension), "text vector (unit length if the model normalises)"),
        ]
    )


def index(dimension: int) -> pa.Schema:
    """Schema of the Lance table ``chunks`` that is searched."""
    return pa.schema(
        [
            *CHUNKS,
            _field("model_id", pa.string(), "id of the embedding model", nullable=False),
            _field("vector", pa.list_(pa.float32(), dimension), "text vector"),
        ]
    )


def values(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> list[Any]:
    """The values of a column as Python objects; None where there is none, which only a nullable column has."""
    return column.to_pylist()


def describe(schema: pa.Schema) -> list[tuple[str, str, str]]:
    """(name, type, description) of every column, for documentation and Dagster's column schema."""
    return [(field.name, str(field.type), (field.metadata or {}).get(b"description", b"").decode()) for field in schema]
