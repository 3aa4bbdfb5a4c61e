"""Resources: what assets take as parameters. Tests and users swap them through ``build_defs(resources=...)``."""

from __future__ import annotations

import dagster as dg

from kb_pipeline.embedding.base import Embedder
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.monitoring.progress import Progress


def chain_resource(workspace: Workspace, progress: Progress) -> dg.ResourceDefinition:
    """Key ``chain``: the stages, bound to kb.yaml."""
    return dg.ResourceDefinition.hardcoded_resource(
        Chain(workspace, progress), description="The stages of a partition, bound to kb.yaml."
    )


def embedder_resource(workspace: Workspace) -> dg.ResourceDefinition:
    """Key ``embedder``: the model of kb.yaml. Weights load at the first text, once per process."""

    def load(_: dg.InitResourceContext) -> Embedder:
        return workspace.embedder

    return dg.ResourceDefinition(load, description="The embedding model of kb.yaml.")
