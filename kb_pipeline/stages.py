"""The stages of a partition, from a listing to vectors: the one place that spells them out.

What belongs here: for each stage its name, what it is made from and everything that assets, jobs, checks, reports, garbage
collection, retirement and the index's snapshot need to know of it; they loop over ``STAGES``. To add a stage, write its
function and one entry. What doesn't: the work itself (``ingestion``), or anything that knows Dagster.

Functions are named ``module:function`` and imported when they are called, so that whoever asks for names loads nothing.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from kb_pipeline import tables

INVENTORY = "inventory"
"""What the first stage is made from: the listing of a whole connection, which isn't a stage of a partition."""
INDEXED = "embeddings"
"""The stage whose vectors the index holds, row by row beside the chunks."""
GPU_POOL = "gpu"
"""The pool of stages that run a model: one at a time, in one process and over all."""
VECTOR_KEY = "text_sha256"
"""The column by which a table names vectors of the store; what a table of some stage names isn't collected."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the chain. Its table lies at ``<type>/<name>`` and names the table it was made from by fingerprint."""

    name: str
    upstream: str
    """Name of the stage it is made from; ``INVENTORY`` for the first."""
    run: str
    """``module:function`` from an ``ingestion.work.Work`` to an ``ingestion.work.Prepared``."""
    version: str
    """``module:function`` from an ``ingestion.workspace.Workspace`` to Dagster's code version: all that decides what is made
    of equal input, as far as it can be told without opening anything."""
    schema: Callable[[int], pa.Schema]
    """Schema of its table for vectors of a dimension."""
    description: str
    """One sentence or two for the Dagster UI."""
    preview: tuple[str, ...]
    """Columns shown of its first rows."""
    counts: tuple[str, ...] = ()
    """Which of its numbers a report adds up (fields of ``orchestrator.SourceCounts``)."""
    check: str | None = None
    """``module:function`` from storage and partition to a ``Finding``; what fails it goes no further."""
    pool: str | None = None
    """Dagster's pool; ``{type}`` stands for the source type."""
    group: str = "ingest"
    """Neighbours of one group share a run of ``kb run``."""
    embeds: bool = False
    """It takes the embedder and writes into the vector store."""
    one_run: bool = False
    """A backfill makes all its partitions in one run, because starting is what costs."""
    retried: bool = False
    """It reaches out of this machine, so that what failed may succeed a moment later."""


STAGES: tuple[Stage, ...] = (
    Stage(
        "documents",
        upstream=INVENTORY,
        run="kb_pipeline.ingestion.documents:prepare",
        version="kb_pipeline.ingestion.documents:version",
        schema=lambda dimension: tables.DOCUMENTS,
        description="Every listed item with its outcome; the documents of those that could be parsed.",
        preview=("key", "status", "title", "uri", "detail"),
        counts=("listed", "indexed", "unchanged", "quarantined", "excluded", "deleted"),
        check="kb_pipeline.ingestion.checks:conservation",
        pool="{type}",
        retried=True,
    ),
    Stage(
        "chunks",
        upstream="documents",
        run="kb_pipeline.ingestion.chunks:prepare",
        version="kb_pipeline.ingestion.chunks:version",
        schema=lambda dimension: tables.CHUNKS,
        description="Spans of the documents' texts, sized in the model's own tokens.",
        preview=("key", "ordinal", "n_tokens", "heading_path", "text"),
        counts=("chunks",),
        check="kb_pipeline.ingestion.checks:every_document_chunked",
    ),
    Stage(
        "embeddings",
        upstream="chunks",
        run="kb_pipeline.ingestion.embeddings:prepare",
        version="kb_pipeline.ingestion.embeddings:version",
        schema=tables.embeddings,
        description="A vector for every chunk; each distinct text is computed once, ever.",
        preview=("chunk_id", "text_sha256"),
        counts=("embedded", "reused"),
        pool=GPU_POOL,
        group="embed",
        embeds=True,
        one_run=True,
    ),
)
"""In the order they run. Read it as ``stages.STAGES``, never by ``from … import``: tests put others in its place."""


def names() -> tuple[str, ...]:
    """Names of all stages in the order they run."""
    return tuple(stage.name for stage in STAGES)


def get(name: str) -> Stage:
    """A stage by its name. Raises KeyError."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise KeyError(name)


def first() -> Stage:
    """The stage that takes the listing: a partition without its table was never made."""
    return STAGES[0]


def last() -> Stage:
    """The stage whose end means that a partition is up to date."""
    return STAGES[-1]


def groups() -> list[tuple[Stage, ...]]:
    """Neighbours that share a run."""
    return [tuple(each) for _, each in groupby(STAGES, key=lambda stage: stage.group)]


def naming_vectors() -> tuple[Stage, ...]:
    """Stages whose tables name vectors of the store."""
    return tuple(stage for stage in STAGES if VECTOR_KEY in stage.schema(1).names)


def load(reference: str) -> Callable[..., Any]:
    """The function that ``module:function`` names."""
    function: Callable[..., Any] = pkgutil.resolve_name(reference)
    return function
