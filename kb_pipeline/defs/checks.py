"""Asset checks: law 1 per partition, and the index against its tables. Blocking: what fails one is not published."""

# No `from __future__ import annotations`: Dagster looks at the annotations of `context` as objects.

from collections.abc import Callable, Sequence

import dagster as dg

from kb_pipeline import stages
from kb_pipeline.defs.assets import KNOWLEDGE_BASE
from kb_pipeline.defs.orchestration import told_to_dagster
from kb_pipeline.defs.partitions import partitions_def
from kb_pipeline.findings import Finding
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.knowledge_base.verify import verify
from kb_pipeline.stages import Stage
from kb_pipeline.storage.partitions import Partition, parse_key
from kb_pipeline.storage.table import Storage

Check = Callable[[Storage, Partition], Finding]


def partition_checks(type_: str) -> list[dg.AssetChecksDefinition]:
    """The blocking checks of one source type's chain."""
    return [_partition_check(type_, stage, stages.load(stage.check)) for stage in stages.STAGES if stage.check is not None]


def _partition_check(type_: str, stage: Stage, check: Check) -> dg.AssetChecksDefinition:
    asset = stage.name

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
            findings = []
            for partition in (parse_key(type_, key) for key in context.partition_keys):
                lacks = _lacks(storage, partition, stage)
                findings.append(check(storage, partition) if lacks is None else _never_made(partition, lacks))
        return _result(findings)

    return run


def _lacks(storage: Storage, partition: Partition, stage: Stage) -> str | None:
    """The first of the tables that the check of a stage compares which was never made: its own and its upstream's."""
    for each in stages.STAGES:
        if each.name in (stage.upstream, stage.name) and not storage.table_path(each.name, partition).exists():
            return each.name
    return None


def _never_made(partition: Partition, what: str) -> Finding:
    return Finding(False, f"{partition.key}: its {what} were never materialized", (partition.key,))


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
