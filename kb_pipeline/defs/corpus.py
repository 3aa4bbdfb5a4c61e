"""The corpus: the index, and behind the gate of its checks the release that readers see.

What belongs here: the two assets and how they are told to Dagster. What doesn't: the checks (``checks``), the work
(``knowledge_base``).
"""

# No `from __future__ import annotations`: Dagster looks at the annotations of `context` as objects.

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from kb_pipeline import stages, tables
from kb_pipeline.defs import metadata
from kb_pipeline.defs.orchestration import COMPARE_TAG, EVERYTHING, of_run, told_to_dagster
from kb_pipeline.defs.partitions import drop_superseded
from kb_pipeline.embedding.base import Embedder
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base.ingredients import Model
from kb_pipeline.storage import identity

INDEX = dg.AssetKey(["corpus", "index"])
KNOWLEDGE_BASE = dg.AssetKey(["corpus", "knowledge_base"])


def corpus_assets(types: Sequence[str], workspace: Workspace) -> list[dg.AssetsDefinition]:
    """``corpus/index -> corpus/knowledge_base``."""
    return [_index(types, workspace), _knowledge_base(workspace)]


def _index(types: Sequence[str], workspace: Workspace) -> dg.AssetsDefinition:
    @dg.asset(
        key=INDEX,
        deps=[
            dg.AssetDep(dg.AssetKey([type_, stages.last().name]), partition_mapping=dg.AllPartitionMapping())
            for type_ in types
        ],
        group_name="corpus",
        kinds={"lancedb"},
        description="The searchable index of all connections. What it holds is a candidate until its checks let it become "
        "a release.",
        metadata=metadata.of_definition(
            tables.index(1), workspace.storage.index_location.uri, "kb_pipeline.knowledge_base.update:update"
        ),
        owners=workspace.settings.owners,
        code_version=identity.digest(tables.describe(tables.index(1)))[:8],
    )
    def index(
        context: dg.AssetExecutionContext, chain: dg.ResourceParam[Chain], embedder: dg.ResourceParam[Embedder]
    ) -> dg.MaterializeResult[Any]:
        model = Model(embedder.model_id, chain.workspace.settings.model.name, embedder.dimension)
        everything = context.run.tags.get(COMPARE_TAG) == EVERYTHING
        with told_to_dagster("corpus/index"):
            result = chain.index(of_run(context), model, everything=everything)
        if result.waiting:
            context.log.warning("the model changed; the new release waits for the vectors of " + ", ".join(result.waiting))
        candidate = result.candidate
        return dg.MaterializeResult(
            metadata={
                "version": candidate.version if candidate else 0,
                "chunks": candidate.chunks if candidate else 0,
                "changed_rows": result.changed_rows,
                "removed_rows": result.removed_rows,
                "partitions_compared": result.compared,
                "partitions_skipped": result.skipped,
                "waiting": list(result.waiting),
            },
            data_version=dg.DataVersion(candidate.content if candidate else "none"),
        )

    return index


def _knowledge_base(workspace: Workspace) -> dg.AssetsDefinition:
    freshness = workspace.settings.freshness

    @dg.asset(
        key=KNOWLEDGE_BASE,
        deps=[INDEX],
        group_name="corpus",
        kinds={"lancedb"},
        description="The release that readers see: the last candidate of corpus/index that passed its checks. Moves a tag, "
        "and nothing else.",
        metadata=metadata.of_definition(
            tables.index(1), workspace.storage.index_location.uri, "kb_pipeline.knowledge_base.publish:publish"
        ),
        owners=workspace.settings.owners,
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=timedelta(hours=freshness.hours), warn_window=timedelta(hours=freshness.warn_hours)
        ),
    )
    def knowledge_base(context: dg.AssetExecutionContext, chain: dg.ResourceParam[Chain]) -> dg.MaterializeResult[Any]:
        with told_to_dagster("corpus/knowledge_base"):
            result = chain.publish(of_run(context))
            drop_superseded(context.instance, chain.workspace)
        if result.note:
            context.log.info(f"no new release: {result.note}")
        release = result.release
        return dg.MaterializeResult(
            metadata={
                "release": release.name if release else "none",
                "published": result.published,
                "pinned": result.pinned or "",
                "note": result.note,
                "chunks": release.chunks if release else 0,
            },
            data_version=dg.DataVersion(release.content if release else "none"),
        )

    return knowledge_base
