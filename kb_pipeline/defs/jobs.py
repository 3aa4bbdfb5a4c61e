"""Jobs: what sensors, schedules, the command line and people launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from kb_pipeline import stages
from kb_pipeline.defs.assets import KNOWLEDGE_BASE
from kb_pipeline.defs.partitions import partitions_def

CORPUS_JOB = "corpus_release"
INVENTORY_JOB = "inventory"


def chain_job_name(type_: str) -> str:
    """The job that brings one partition of a source type up to date."""
    return f"{type_}_chain"


def chain_job(type_: str) -> Any:
    """All stages of a partition, with their blocking checks."""
    keys = [dg.AssetKey([type_, asset]) for asset in stages.names()]
    return dg.define_asset_job(
        chain_job_name(type_),
        selection=dg.AssetSelection.assets(*keys),
        partitions_def=partitions_def(type_),
        # dagster.yaml lets the queue start one such run at a time: two would meet at the gpu pool, and one would spin.
        tags={"kb/embeds": "true"},
        description=f"Brings a {type_} partition up to date: fetch, parse, cut, embed. Touches only what changed.",
    )


def corpus_job() -> Any:
    """Sync the index and publish a release."""
    return dg.define_asset_job(
        CORPUS_JOB,
        selection=dg.AssetSelection.assets(KNOWLEDGE_BASE),
        description="Brings the index in step with all partitions and publishes a release.",
    )


def inventory_job(types: Sequence[str]) -> Any:
    """List every connection."""
    return dg.define_asset_job(
        INVENTORY_JOB,
        selection=dg.AssetSelection.assets(*(dg.AssetKey([type_, "inventory"]) for type_ in types)),
        description="Lists every connection and records what it holds.",
    )
