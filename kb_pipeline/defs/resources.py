"""Resources: what assets take as parameters. Tests and users swap them through ``build_defs(resources=...)``."""

from __future__ import annotations

import threading

import dagster as dg

from kb_pipeline.embedding.base import Embedder
from kb_pipeline.embedding.sentence_transformer import SentenceTransformerEmbedder
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
        return embedder_of(workspace)

    return dg.ResourceDefinition(load, description="The embedding model of kb.yaml.")


def embedder_of(workspace: Workspace) -> Embedder:
    """The embedder of a workspace, shared by all runs of this process: the weights are loaded once."""
    files, model = workspace.model, workspace.settings.model
    budget = workspace.settings.limits.batch_tokens
    key = (files.recipe, model.device, model.dtype, budget)
    with _LOCK:
        if key not in _EMBEDDERS:
            _EMBEDDERS[key] = SentenceTransformerEmbedder(files, device=model.device, dtype=model.dtype, batch_tokens=budget)
        return _EMBEDDERS[key]


_EMBEDDERS: dict[tuple[str, str, str, int], Embedder] = {}
_LOCK = threading.Lock()
