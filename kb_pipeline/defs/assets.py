"""The assets: a chain for each source type from one factory, and the corpus.

What belongs here: keys, partitions, pools, metadata. What doesn't: the work, which is in ``ingestion`` and
``knowledge_base``.
"""

# No `from __future__ import annotations`: Dagster looks at the annotations of `context` as objects.

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.exc import SQLAlchemyError

from kb_pipeline import stages, tables
from kb_pipeline.defs.orchestration import CONNECTIONS_TAG, RETRY_POLICY, combined, failure, of_run, told_to_dagster
from kb_pipeline.defs.partitions import drop_superseded, partitions_def
from kb_pipeline.embedding.base import Embedder
from kb_pipeline.flow.errors import classify
from kb_pipeline.ingestion.chain import Chain, Pending
from kb_pipeline.knowledge_base.publish import Model
from kb_pipeline.ledger.errors import LedgerUnavailable
from kb_pipeline.stages import Stage
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition, parse_key

KNOWLEDGE_BASE = dg.AssetKey(["corpus", "knowledge_base"])
_DATA_VERSION_TAG = "dagster/data_version"
_PREVIEW_ROWS = 5
_PREVIEW_CHARACTERS = 80


def chain_assets(type_: str) -> list[dg.AssetsDefinition]:
    """``<type>/inventory`` and after it the stages, of one source type."""
    return [_inventory(type_), *(_stage(type_, stage) for stage in stages.STAGES)]


def _inventory(type_: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=[type_, stages.INVENTORY],
        group_name=type_,
        kinds={"parquet"},
        description=f"Lists every {type_} connection, concurrently; one that fails doesn't stop the others.",
        metadata={"dagster/column_schema": column_schema(tables.LISTING)},
        output_required=False,
    )
    def inventory(context: dg.AssetExecutionContext, chain: dg.ResourceParam[Chain]) -> Iterator[dg.MaterializeResult[Any]]:
        orchestration = of_run(context)
        chosen = context.run.tags.get(CONNECTIONS_TAG)
        names = [
            config.name
            for config in chain.workspace.connections
            if config.type == type_ and (chosen is None or config.name in chosen.split(","))
        ]
        failed: dict[str, str] = {}
        listed: dict[str, int] = {}

        def list_one(name: str) -> None:
            try:
                listed[name] = chain.take_listing(name, orchestration).items
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one connection must not stop the others
                failed[name] = f"{classify(error).value}: {error}"
                context.log.error(f"connection {name}: {error}")

        with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as executor:
            list(executor.map(list_one, names))
        if listed or not failed:
            yield dg.MaterializeResult(
                metadata={"listed": sum(listed.values()), "connections": listed, "failed_connections": failed}
            )
        else:
            sentences = "; ".join(f"{name}: {why}" for name, why in sorted(failed.items()))
            raise dg.Failure(f"no {type_} connection could be listed: {sentences}", allow_retries=False)

    return inventory


def _stage(type_: str, stage: Stage) -> dg.AssetsDefinition:
    """The asset of one stage. Resources are named, not taken as parameters: not every stage needs the embedder."""
    resources = {"chain", "embedder"} if stage.embeds else {"chain"}

    @dg.asset(
        key=[type_, stage.name],
        deps=[dg.AssetKey([type_, stage.upstream])],
        group_name=type_,
        kinds={"parquet"},
        partitions_def=partitions_def(type_),
        backfill_policy=dg.BackfillPolicy.single_run() if stage.one_run else dg.BackfillPolicy.multi_run(1),
        pool=stage.pool.format(type=type_) if stage.pool else None,
        io_manager_key="partition_tables",
        retry_policy=RETRY_POLICY if stage.retried else None,
        required_resource_keys=resources,
        description=stage.description,
        metadata={"dagster/column_schema": column_schema(stage.schema(1))},
    )
    def made(context: dg.AssetExecutionContext) -> Iterator[dg.Output[Any]]:
        embedder = context.resources.embedder if stage.embeds else None
        yield from _run_stage(context, context.resources.chain, type_, stage, embedder)

    return made


def _run_stage(
    context: dg.AssetExecutionContext, chain: Chain, type_: str, stage: Stage, embedder: Embedder | None
) -> Iterator[dg.Output[Any]]:
    """Run one stage for every partition of the run, each on its own; the IO manager publishes at the yield.

    When some partitions fail, the others are published and recorded all the same, and the run fails naming those that did.
    """
    orchestration = of_run(context)
    asset = stage.name
    pending: dict[str, Pending] = {}
    failures: dict[str, dg.Failure] = {}
    with ExitStack() as leases:
        for key in context.partition_keys:
            partition = parse_key(type_, key)
            try:
                pending[key] = leases.enter_context(chain.prepare(stage, partition, orchestration, embedder))
            except Exception as error:  # noqa: BLE001 - one partition of a range must not take the others with it
                failures[key] = failure(f"{type_}/{asset} of {key}", error, _troubles(chain, stage, partition))
                _record(context, chain, partition, asset, (classify(error).value, str(error)))
        if failures:
            _publish_by_hand(context, pending, failures, stage.preview)
            _record_success(context, chain, type_, asset, set(pending) - set(failures))
            raise combined(list(failures.values()), _advice(f"{type_}/{asset}", failures, set(pending) - set(failures)))
        for key, each in pending.items():
            # Per partition: metadata of the output itself would be recorded alike for every partition of the run.
            facts = _troubles(chain, stage, parse_key(type_, key))
            context.add_asset_metadata({**_metadata(each, stage.preview), **facts}, partition_key=key)
        fingerprints = sorted(each.staged.fingerprint for each in pending.values())
        version = fingerprints[0] if len(fingerprints) == 1 else identity.digest(fingerprints)
        # The publication happens while this generator is suspended: the leases are still held then.
        yield dg.Output(pending, data_version=dg.DataVersion(version))
        _record_success(context, chain, type_, asset, pending)


def _publish_by_hand(
    context: dg.AssetExecutionContext,
    pending: Mapping[str, Pending],
    failures: dict[str, dg.Failure],
    preview_columns: Sequence[str],
) -> None:
    """Publish what is ready in a run that must fail: an output would be recorded for the failed partitions as well."""
    for key, each in pending.items():
        metadata = _metadata(each, preview_columns)
        try:
            each.publish()
        except Exception as error:  # noqa: BLE001 - one partition of a range must not take the others with it
            failures[key] = failure(f"{context.asset_key.to_user_string()} of {key}", error)
            continue
        tags = {_DATA_VERSION_TAG: each.staged.fingerprint}
        context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata, tags=tags))


def _metadata(pending: Pending, preview_columns: Sequence[str]) -> dict[str, Any]:
    """Numbers and a preview: of what is about to be published, or of what stands."""
    staged = pending.staged
    text = preview(staged.aside or staged.target, preview_columns)
    return {**staged.counts, "preview": dg.MetadataValue.md(text)}


def _troubles(chain: Chain, stage: Stage, partition: Partition) -> dict[str, Any]:
    """Of a stage that asks the source: its circuit breaker, and the errors that were met."""
    return chain.troubles(partition.connection) if stage.retried else {}


def _advice(what: str, failed: Iterable[str], published: Set[str]) -> str:
    """How to go on with the partitions that are right: Dagster runs nothing after a step that failed."""
    if not published:
        return ""
    return (
        f"Published all the same: {', '.join(sorted(published))}; to go on with what comes after {what}, launch these "
        f"without {', '.join(sorted(failed))}"
    )


def _record_success(context: dg.AssetExecutionContext, chain: Chain, type_: str, asset: str, keys: Iterable[str]) -> None:
    for key in keys:
        _record(context, chain, parse_key(type_, key), asset, None)


def _record(
    context: dg.AssetExecutionContext, chain: Chain, partition: Partition, asset: str, error: tuple[str, str] | None
) -> None:
    try:
        chain.record(partition, asset, error)
    except (OSError, SQLAlchemyError, LedgerUnavailable) as trouble:
        context.log.error(f"the outcome of {partition.connection} could not be recorded: {trouble}")


def knowledge_base_asset(types: Sequence[str]) -> dg.AssetsDefinition:
    """``corpus/knowledge_base``: the searchable release."""

    @dg.asset(
        key=KNOWLEDGE_BASE,
        deps=[
            dg.AssetDep(dg.AssetKey([type_, stages.last().name]), partition_mapping=dg.AllPartitionMapping())
            for type_ in types
        ],
        group_name="corpus",
        kinds={"lancedb"},
        description="The index of all connections, and the release that readers see.",
        metadata={"dagster/column_schema": column_schema(tables.index(1))},
    )
    def knowledge_base(
        context: dg.AssetExecutionContext, chain: dg.ResourceParam[Chain], embedder: dg.ResourceParam[Embedder]
    ) -> dg.MaterializeResult[Any]:
        model = Model(embedder.model_id, chain.workspace.settings.model.name, embedder.dimension)
        with told_to_dagster("corpus/knowledge_base"):
            result = chain.publish(of_run(context), model)
            drop_superseded(context.instance, chain.workspace)
        if result.faults:
            sentences = "; ".join(fault.sentence() for fault in result.faults)
            raise dg.Failure(f"no release was published, the index differs from its tables: {sentences}")
        if result.waiting:
            context.log.warning("the model changed; the new release waits for the vectors of " + ", ".join(result.waiting))
        release = result.release
        return dg.MaterializeResult(
            metadata={
                "release": release.name if release else "none",
                "published": result.published,
                "pinned": result.pinned or "",
                "chunks": release.chunks if release else 0,
                "changed_rows": result.changed_rows,
                "removed_rows": result.removed_rows,
            },
            data_version=dg.DataVersion(release.content if release else "none"),
        )

    return knowledge_base


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """Dagster's column schema of an Arrow schema, descriptions included."""
    return dg.TableSchema(
        columns=[dg.TableColumn(name, type=kind, description=text) for name, kind, text in tables.describe(schema)]
    )


def preview(path: Path, columns: Sequence[str]) -> str:
    """The first rows of a Parquet file as a Markdown table; long values are shortened."""
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_PREVIEW_ROWS, columns=list(columns)):
            lines += [f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in batch.to_pylist()]
            break
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = " ".join(str("" if value is None else value).split()).replace("|", "\\|")
    return text if len(text) <= _PREVIEW_CHARACTERS else text[: _PREVIEW_CHARACTERS - 1] + "…"
