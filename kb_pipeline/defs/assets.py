"""The assets of the source types: a chain for each from one factory.

What belongs here: keys, partitions, pools, metadata. What doesn't: the work, which is in ``ingestion``; the corpus
(``corpus``).
"""

# No `from __future__ import annotations`: Dagster looks at the annotations of `context` as objects.

from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from kb_pipeline import stages, tables
from kb_pipeline.defs import metadata
from kb_pipeline.defs.orchestration import (
    CONNECTIONS_TAG,
    DISCOVERY,
    ORCHESTRATION_TAG,
    RETRY_POLICY,
    TRIGGER_TAG,
    combined,
    failure,
    of_run,
)
from kb_pipeline.defs.partitions import partitions_def
from kb_pipeline.embedding.base import Embedder
from kb_pipeline.flow.errors import classify
from kb_pipeline.ingestion.chain import Chain, OnListing
from kb_pipeline.ingestion.listing import ListingInfo
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.ledger.errors import LedgerUnavailable
from kb_pipeline.sources.registry import source_types, version
from kb_pipeline.stages import Stage
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition, parse_key
from kb_pipeline.storage.storage import Staged

_DATA_VERSION_TAG = "dagster/data_version"


def chain_assets(type_: str, workspace: Workspace) -> list[dg.AssetsDefinition]:
    """``<type>/inventory`` and after it the stages, of one source type."""
    return [_inventory(type_, workspace), *(_stage(type_, stage, workspace) for stage in stages.STAGES)]


def _inventory(type_: str, workspace: Workspace) -> dg.AssetsDefinition:
    connector = source_types().get(type_)  # None where it was uninstalled, but has tables
    code = ["kb_pipeline.ingestion.listing:take", *([connector.value] if connector is not None else [])]

    @dg.asset(
        key=[type_, stages.INVENTORY],
        group_name=type_,
        kinds={"parquet"},
        description=f"Lists every {type_} connection, concurrently; one that fails doesn't stop the others.",
        metadata=metadata.of_definition(tables.LISTING, workspace.storage.files.uri(f"{type_}/{stages.INVENTORY}"), *code),
        owners=workspace.settings.owners,
        code_version=version(connector) if connector is not None else None,
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
        listed: dict[str, ListingInfo] = {}

        def list_one(name: str) -> None:
            try:
                listed[name] = chain.take_listing(name, orchestration)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one connection must not stop the others
                failed[name] = f"{classify(error).value}: {error}"
                context.log.error(f"connection {name}: {error}")

        with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as executor:
            list(executor.map(list_one, names))
        if listed or not failed:
            items = {name: info.items for name, info in sorted(listed.items())}
            yield dg.MaterializeResult(
                metadata={
                    "listed": sum(items.values()),
                    "connections": items,
                    "failed_connections": failed,
                    metadata.ALL_ROWS: sum(items.values()),
                },
                data_version=dg.DataVersion(identity.digest({name: info.digest for name, info in listed.items()})),
            )
        else:
            sentences = "; ".join(f"{name}: {why}" for name, why in sorted(failed.items()))
            raise dg.Failure(f"no {type_} connection could be listed: {sentences}", allow_retries=False)

    return inventory


def _stage(type_: str, stage: Stage, workspace: Workspace) -> dg.AssetsDefinition:
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
        metadata=metadata.of_definition(stage.schema(1), workspace.storage.files.uri(f"{type_}/{stage.name}"), stage.run),
        owners=workspace.settings.owners,
        code_version=stages.load(stage.version)(workspace),
    )
    def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        embedder = context.resources.embedder if stage.embeds else None
        return _make(context, context.resources.chain, type_, stage, embedder)

    return made


def _make(
    context: dg.AssetExecutionContext, chain: Chain, type_: str, stage: Stage, embedder: Embedder | None
) -> dg.MaterializeResult[Any]:
    """Make and publish one stage of every partition of the run, each on its own.

    When some partitions fail, the others are published and recorded all the same, and the run fails naming those that did.
    """
    orchestration = of_run(context)
    made: dict[str, Staged] = {}
    failures: dict[str, dg.Failure] = {}
    for key in context.partition_keys:
        partition = parse_key(type_, key)
        try:
            made[key] = chain.make(stage, partition, orchestration, embedder, _observer(context, partition))
        except Exception as error:  # noqa: BLE001 - one partition of a range must not take the others with it
            failures[key] = failure(f"{type_}/{stage.name} of {key}", error)
            _record(context, chain, partition, stage.name, (classify(error).value, str(error)))
        else:
            _record(context, chain, partition, stage.name, None)
    if failures:
        for key, staged in made.items():
            # By hand: a result would be recorded for the partitions that failed as well.
            tags = {_DATA_VERSION_TAG: staged.fingerprint}
            numbers = _numbers(staged, stage.preview)
            context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=numbers, tags=tags))
        raise combined(list(failures.values()), _advice(f"{type_}/{stage.name}", failures, made.keys()))
    for key, staged in made.items():
        # Per partition: metadata of the result itself would be recorded alike for every partition of the run.
        context.add_asset_metadata(_numbers(staged, stage.preview), partition_key=key)
    fingerprints = sorted(staged.fingerprint for staged in made.values())
    # Dagster takes one version for all partitions of a run.
    version = fingerprints[0] if len(fingerprints) == 1 else identity.digest(fingerprints)
    return dg.MaterializeResult(data_version=dg.DataVersion(version))


def _observer(context: dg.AssetExecutionContext, partition: Partition) -> OnListing:
    """Keeps the inventory in step in the UI: a listing that a run makes is an observation of it.

    So is one that a sensor made and asked for this run with; where there are shards, the first one tells it.
    """
    discovered = context.run.tags.get(TRIGGER_TAG) == DISCOVERY and partition.shard == 1

    def observe(info: ListingInfo, made: bool) -> None:
        if made or (discovered and info.orchestration == context.run.tags.get(ORCHESTRATION_TAG)):
            seen: dict[str, Any] = {"connection": partition.connection, "listed": info.items, "listing_id": info.listing_id}
            context.log_event(dg.AssetObservation(dg.AssetKey([partition.type, stages.INVENTORY]), metadata=seen))

    return observe


def _numbers(staged: Staged, preview_columns: Sequence[str]) -> dict[str, Any]:
    """What a stage counted, and what its table shows."""
    with staged.open() as table:
        return {**staged.counts, **metadata.of_table(table, preview_columns)}


def _advice(what: str, failed: Iterable[str], published: Set[str]) -> str:
    """How to go on with the partitions that are right: Dagster runs nothing after a step that failed."""
    if not published:
        return ""
    return (
        f"Published all the same: {', '.join(sorted(published))}; to go on with what comes after {what}, launch these "
        f"without {', '.join(sorted(failed))}"
    )


def _record(
    context: dg.AssetExecutionContext, chain: Chain, partition: Partition, asset: str, error: tuple[str, str] | None
) -> None:
    try:
        chain.workspace.record(partition, asset, error)
    except (OSError, SQLAlchemyError, LedgerUnavailable) as trouble:
        context.log.error(f"the outcome of {partition.connection} could not be recorded: {trouble}")
