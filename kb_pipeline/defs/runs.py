"""Runs of this knowledge base in a Dagster instance, whoever launched them: which are ours, what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import chain

import dagster as dg

from kb_pipeline import stages
from kb_pipeline.defs import failures
from kb_pipeline.defs.corpus import INDEX, KNOWLEDGE_BASE
from kb_pipeline.defs.jobs import CORPUS_JOB, INVENTORY_JOB, VERIFICATION_JOB, chain_job_name
from kb_pipeline.defs.orchestration import PARTITION_TAG, RANGE_TAGS, UNDER_WAY, orchestration_id
from kb_pipeline.ingestion.workspace import Workspace

BY_HAND = "__ASSET_JOB"
"""Dagster's own job for what people and backfills materialize in the UI."""
_OUR_TAGS = "kb/"
_MARGIN = timedelta(seconds=5)
"""How far each look goes back behind the last one: a run's change can be seen later than its time says."""
_STATES = {
    dg.DagsterRunStatus.QUEUED: "queued",
    dg.DagsterRunStatus.SUCCESS: "succeeded",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "canceled",
}


class OurRuns:
    """Tells runs of a workspace from those of others who share $DAGSTER_HOME, and may have jobs of the same names."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @property
    def jobs(self) -> list[str]:
        """Names of all jobs our runs can be of."""
        chains = [chain_job_name(type_) for type_ in self._workspace.types()]
        return [*chains, CORPUS_JOB, VERIFICATION_JOB, INVENTORY_JOB, BY_HAND]

    @cached_property
    def assets(self) -> frozenset[str]:
        """Our asset keys as the event log writes them."""
        keys = [
            dg.AssetKey([type_, asset]) for type_ in self._workspace.types() for asset in (stages.INVENTORY, *stages.names())
        ]
        return frozenset(key.to_string() for key in [*keys, INDEX, KNOWLEDGE_BASE])

    def __contains__(self, run: dg.DagsterRun) -> bool:
        if run.asset_selection:
            return all(key.to_string() in self.assets for key in run.asset_selection)
        return any(tag.startswith(_OUR_TAGS) for tag in run.tags)


@dataclass(frozen=True, slots=True)
class SeenRun:
    """A run as it was seen.

    ``orchestration``  what its progress in the ledger is recorded under
    ``about``          its partition, or its range of partitions; empty for a run of the inventory or of the corpus
    ``state``          ``queued``, ``started``, ``succeeded``, ``failed`` or ``canceled``
    ``seconds``        it took, once it ended
    ``message``        why it failed
    """

    id: str
    orchestration: str
    job: str
    about: str
    state: str
    seconds: float | None = None
    message: str | None = None

    @property
    def ended(self) -> bool:
        """Whether it won't change any more."""
        return self.state in ("succeeded", "failed", "canceled")

    @property
    def sentence(self) -> str:
        """For a person."""
        what = f"{self.job} {self.about}".strip() + f" (run {self.id[:8]})"
        took = f" in {self.seconds:.1f} s" if self.state == "succeeded" and self.seconds is not None else ""
        return f"{what} {self.state}{took}" + (f": {self.message}" if self.message else "")


class RunWatch:
    """Follows the runs of a workspace in an instance: each ``look`` tells what changed since the last."""

    def __init__(self, instance: dg.DagsterInstance, workspace: Workspace) -> None:
        self._instance = instance
        self._workspace = workspace
        self._ours = OurRuns(workspace)
        self._looked = datetime.now(UTC)
        self._told: dict[str, SeenRun] = {}
        self.under_way: dict[str, SeenRun] = {}
        """Runs that have not ended, by id."""

    def look(self) -> Iterator[SeenRun]:
        """Runs that were launched, started or ended since the last look, the first first; at first those under way."""
        since, self._looked = self._looked - _MARGIN, datetime.now(UTC)
        filters = (dg.RunsFilter(statuses=UNDER_WAY), dg.RunsFilter(updated_after=since))
        records = {each.dagster_run.run_id: each for each in chain(*map(self._instance.get_run_records, filters))}
        found = {id_: _seen(record) for id_, record in records.items() if record.dagster_run in self._ours}
        changed = [run for id_, run in found.items() if self._told.get(id_) != run]
        self._told = found
        self.under_way = {id_: run for id_, run in found.items() if not run.ended}
        for run in sorted(changed, key=lambda run: records[run.id].storage_id):
            why = self._why(records[run.id].dagster_run) if run.state == "failed" else None
            yield replace(run, message=why)

    def _why(self, run: dg.DagsterRun) -> str:
        return failures.describe(self._instance, self._workspace, run, "the run failed").message


def _seen(record: dg.RunRecord) -> SeenRun:
    run = record.dagster_run
    about = run.tags.get(PARTITION_TAG) or " to ".join(run.tags[tag] for tag in RANGE_TAGS if tag in run.tags)
    job = "assets" if run.job_name == BY_HAND else run.job_name
    took = record.end_time - record.start_time if record.end_time and record.start_time else None
    return SeenRun(run.run_id, orchestration_id(run), job, about, _STATES.get(run.status, "started"), took)
