"""What a stage's function is given, and what it hands back.

What belongs here: the contract between ``ingestion.chain``, which holds the lease and publishes, and the functions that
``stages.STAGES`` names. What doesn't: any stage's own work.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from kb_pipeline.embedding.base import Embedder
from kb_pipeline.ingestion.listing import ListingInfo
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.monitoring.progress import OnProgress
from kb_pipeline.sources.base import Source
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Staged


@dataclass(frozen=True, slots=True)
class Orchestration:
    """What a piece of work belongs to. ``started_at``: seconds since the epoch; ``purpose`` is shown to others who wait."""

    id: str
    started_at: float
    purpose: str


@dataclass(frozen=True, slots=True)
class Work:
    """One stage of one partition to be brought up to date, by somebody who holds its lease."""

    workspace: Workspace
    partition: Partition
    on_progress: OnProgress
    take_listing: Callable[[], ListingInfo]
    """Lists the partition's connection, or takes the listing that the work may trust."""
    asking: Callable[[], AbstractContextManager[Source]]
    """The partition's source, asked with patience."""
    embedder: Embedder | None = None
    """The model, for stages that embed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A table written aside. ``then`` is called once it is published; done twice after a crash, it must be harmless."""

    staged: Staged
    then: Callable[[], None] | None = None
