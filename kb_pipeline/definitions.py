"""The composition root: kb.yaml becomes Dagster definitions. The only module that reads KB_CONFIG.

Loaded by ``dagster`` through workspace.yaml or ``-m kb_pipeline.definitions``. Imports nothing heavy: models, parsers
and stores are loaded by the runs that need them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from kb_pipeline.defs import assets, checks, corpus, failures, history, jobs, schedules, sensors
from kb_pipeline.defs.io_managers import PartitionTables
from kb_pipeline.defs.resources import chain_resource, embedder_resource
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.ledger.recorder import RecordedProgress
from kb_pipeline.monitoring.progress import Progress
from kb_pipeline.settings.load import load
from kb_pipeline.settings.model import Settings

CONFIG_VARIABLE = "KB_CONFIG"
DEFAULT_CONFIG = "kb.yaml"


def config_path() -> Path:
    """Where kb.yaml lies: $KB_CONFIG, or ./kb.yaml."""
    return Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def build_defs(
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
    resources: Mapping[str, Any] | None = None,
    on_failure: Sequence[failures.Hook] = (),
) -> dg.Definitions:
    """The whole project as Dagster definitions.

    ``settings`` default to the kb.yaml of ``config_path()``; ``resources`` replaces resources by key
    (``embedder``, ``chain``, ``partition_tables``); ``on_failure`` is called for every failed run that the daemon sees.
    Raises ConfigError for a missing or bad kb.yaml.
    """
    workspace = Workspace(settings if settings is not None else load(config_path()))
    progress = progress or RecordedProgress(lambda: workspace.ledger.progress)
    types = workspace.types()
    executor = dg.in_process_executor if workspace.settings.executor == "in_process" else dg.multiprocess_executor
    return dg.Definitions(
        assets=[
            *(asset for type_ in types for asset in assets.chain_assets(type_, workspace)),
            *corpus.corpus_assets(types, workspace),
        ],
        asset_checks=[
            *(check for type_ in types for check in checks.partition_checks(type_)),
            *checks.corpus_checks(),
        ],
        jobs=[
            *(jobs.chain_job(type_) for type_ in types),
            jobs.corpus_job(),
            jobs.verification_job(),
            jobs.inventory_job(types),
        ],
        sensors=[
            *(sensors.discovery(type_, workspace) for type_ in types),
            sensors.corpus_trigger(Chain(workspace, progress)),
            failures.run_failures(workspace, on_failure),
            history.housekeeping(workspace),
        ],
        schedules=[
            *(schedules.nightly(type_, workspace) for type_ in types),
            schedules.nightly_verification(workspace),
        ],
        resources={
            "chain": chain_resource(workspace, progress),
            "embedder": embedder_resource(workspace),
            "partition_tables": PartitionTables(workspace.storage),
            **(resources or {}),
        },
        executor=executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads."""
    return build_defs()
