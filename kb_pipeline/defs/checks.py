"""Asset checks: law 1 per partition, and the gate of the release. Blocking: what fails one goes no further."""

# No `from __future__ import annotations`: Dagster looks at the annotations of `context` as objects.

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from kb_pipeline import stages
from kb_pipeline.defs.corpus import INDEX, KNOWLEDGE_BASE
from kb_pipeline.defs.orchestration import told_to_dagster
from kb_pipeline.defs.partitions import partitions_def
from kb_pipeline.findings import Finding, Severity
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.knowledge_base import gate
from kb_pipeline.stages import Stage
from kb_pipeline.storage.partitions import Partition, parse_key
from kb_pipeline.storage.storage import Storage

_SEVERITIES = {Severity.ERROR: dg.AssetCheckSeverity.ERROR, Severity.WARNING: dg.AssetCheckSeverity.WARN}

Check = Callable[[Storage, Partition], Finding]


def partition_checks(type_: str) -> list[dg.AssetChecksDefinition]:
    """The blocking checks of one source type's chain."""
    return [_partition_check(type_, stage, stages.load(stage.check)) for stage in stages.STAGES if stage.check is not None]


def _partition_check(type_: str, stage: Stage, check: Check) -> dg.AssetChecksDefinition:
    asset = stage.name

    @dg.asset_check(
        asset=dg.AssetKey([type_, asset]),
        name=check.__name__,
        description=_first_line(check),
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
        if each.name in (stage.upstream, stage.name) and storage.pointer(each.name, partition) is None:
            return each.name
    return None


def _never_made(partition: Partition, what: str) -> Finding:
    return Finding(False, f"{partition.key}: its {what} were never materialized", (partition.key,))


def corpus_checks() -> list[dg.AssetChecksDefinition]:
    """The gate between ``corpus/index`` and ``corpus/knowledge_base``, and the verification of what was published."""
    return [*(_gate_check(check) for check in gate.CHECKS), nothing_drifted]


def _gate_check(check: gate.Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=INDEX, name=check.__name__, description=_first_line(check), blocking=True)
    def run(chain: dg.ResourceParam[Chain]) -> dg.AssetCheckResult:
        with told_to_dagster(check.__name__):
            return _result([chain.inspect(check)])

    return run


@dg.asset_check(
    asset=KNOWLEDGE_BASE,
    description="The current release, its manifests and the head of the index hold exactly what their tables say.",
    blocking=True,  # nothing comes after it: so that a run that finds a fault is a failed one
)
def nothing_drifted(chain: dg.ResourceParam[Chain]) -> dg.AssetCheckResult:
    """Compares everything, row by row, by id and hash."""
    with told_to_dagster("nothing_drifted"):
        return _result(chain.verify())


def _first_line(check: Callable[..., Finding]) -> str:
    return (check.__doc__ or "").strip().splitlines()[0]


def _result(findings: Sequence[Finding]) -> dg.AssetCheckResult:
    failed = [each for each in findings if not each.passed]
    shown = failed or findings
    metadata: dict[str, Any] = {"examples": [example for each in failed for example in each.examples]}
    for name in sorted({name for each in findings for name in each.metrics}):
        numbers = [each.metrics[name] for each in findings if name in each.metrics]
        metadata[name] = numbers[0] if len(numbers) == 1 else numbers
    return dg.AssetCheckResult(
        passed=not failed,
        severity=_SEVERITIES[Severity.ERROR if any(each.blocks for each in findings) or not failed else Severity.WARNING],
        description="; ".join(each.sentence for each in shown),
        metadata=metadata,
    )
