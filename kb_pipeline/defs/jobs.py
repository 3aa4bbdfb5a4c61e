"""Jobs: what sensors, schedules, the command line and people launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from kb_pipeline import stages
from kb_pipeline.defs.corpus import INDEX, KNOWLEDGE_BASE
from kb_pipeline.defs.partitions import partitions_def

CORPUS_JOB = "corpus_release"
VERIFICATION_JOB = "corpus_verification"
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
    """Bring the index in step, put it to its checks, and publish what passed."""
    return dg.define_asset_job(
        CORPUS_JOB,
        selection=dg.AssetSelection.assets(INDEX) | dg.AssetSelection.assets(KNOWLEDGE_BASE).without_checks(),
        description="Brings the index in step with all partitions, checks it, and publishes a release if it passes.",
    )


def verification_job() -> Any:
    """Compare everything with everything."""
    return dg.define_asset_job(
        VERIFICATION_JOB,
        selection=dg.AssetSelection.checks_for_assets(KNOWLEDGE_BASE),
        description="Compares the whole index and the current release with their tables. Changes nothing.",
    )


def inventory_job(types: Sequence[str]) -> Any:
    """List every connection."""
    return dg.define_asset_job(
        INVENTORY_JOB,
        selection=dg.AssetSelection.assets(*(dg.AssetKey([type_, "inventory"]) for type_ in types)),
        description="Lists every connection and records what it holds.",
    )
