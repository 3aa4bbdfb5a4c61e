"""What a candidate or a release is made of: the model, and each partition's tables by their fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition


@dataclass(frozen=True, slots=True)
class Model:
    """The model the vectors are made with. ``dimension`` is that of its vectors."""

    id: str
    name: str
    dimension: int


@dataclass(frozen=True, slots=True)
class ReleasedPartition:
    """What one partition contributed: fingerprints of its documents (manifest) and of its last stage, number of chunks.

    The last stage's fingerprint covers all before it: the rows are the same while it is.
    """

    type: str
    connection: str
    documents: str
    embeddings: str
    chunks: int


def content_fingerprint(model_id: str, partitions: Mapping[str, ReleasedPartition]) -> str:
    """Fingerprint of all ingredients."""
    parts = sorted((key, each.documents, each.embeddings) for key, each in partitions.items())
    return identity.digest("release", model_id, parts)


def full_key(partition: Partition) -> str:
    """``type/partition key``, as ingredients are named."""
    return f"{partition.type}/{partition.key}"
