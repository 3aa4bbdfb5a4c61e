"""Asset checks: law 1 per partition, and the index against its tables. Blocking: what fails one is not published."""

# No `from __future__ import annotations`: Dagster looks at the annotations of `context` as objects.

from collections.abc import Callable, Sequence

import dagster as dg

from kb_pipeline.defs.assets import KNOWLEDGE_BASE
from kb_pipeline.defs.orchestration import told_to_dagster
from kb_pipeline.defs.partitions import partitions_def
from kb_pipeline.findings import Finding
from kb_pipeline.ingestion import checks
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.knowledge_base.verify import verify
from kb_pipeline.storage.partitions import Partition, parse_key
from kb_pipeline.storage.table import Storage

_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

Check = Callable[[Storage, Partition], Finding]


def partition_checks(type_: str) -> list[dg.AssetChecksDefinition]:
    """The blocking checks of one source type's chain."""
    return [
        _partition_check(type_, "documents", checks.conservation),
        _partition_check(type_, "chunks", checks.every_document_chunked),
    ]


def _partition_check(type_: str, asset: str, check: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=dg.AssetKey([type_, asset]),
        name=check.__name__,
        description=(check.__doc__ or "").strip().splitlines()[0],
        partitions_def=partitions_def(type_),
        blocking=True,
    )
    def run(context: dg.AssetCheckExecutionContext, chain: dg.ResourceParam[Chain]) -> dg.AssetCheckResult:
        storage = chain.workspace.storage
        with told_to_dagster(f"{check.__name__} of {type_}/{asset}"):
            findings = [
                check(storage, partition) if _made(storage, partition) else _never_made(partition)
                for partition in _partitions(context, type_)
            ]
        return _result(findings)

    return run


def _partitions(context: dg.AssetCheckExecutionContext, type_: str) -> list[Partition]:
    """Partitions of the run: one, or a range of them. Dagster itself refuses to record the check of a run without any."""
    if context.has_partition_key:
        return [parse_key(type_, str(context.partition_key))]
    tags = context.run.tags
    keys = list(context.instance.get_dynamic_partitions(f"kb_{type_}"))
    first, last = keys.index(tags[_RANGE_START]), keys.index(tags[_RANGE_END])
    return [parse_key(type_, key) for key in keys[first : last + 1]]


def _made(storage: Storage, partition: Partition) -> bool:
    return storage.table_path("documents", partition).exists()


def _never_made(partition: Partition) -> Finding:
    return Finding(False, f"{partition.key}: its documents were never materialized", (partition.key,))


def _result(findings: Sequence[Finding]) -> dg.AssetCheckResult:
    failed = [each for each in findings if not each.passed]
    shown = failed or findings
    return dg.AssetCheckResult(
        passed=not failed,
        description="; ".join(each.sentence for each in shown),
        metadata={"examples": [example for each in failed for example in each.examples]},
    )


@dg.asset_check(
    asset=KNOWLEDGE_BASE,
    name="index_equals_tables",
    description="The index and the current release hold exactly the rows that the partition tables say.",
    blocking=True,
)
def index_equals_tables(chain: dg.ResourceParam[Chain]) -> dg.AssetCheckResult:
    """Compares row by row, by id and hash, in the head of the index and in the release."""
    with told_to_dagster("index_equals_tables"):
        findings = verify(chain.workspace.storage, chain.layouts())
    return _result(findings)
