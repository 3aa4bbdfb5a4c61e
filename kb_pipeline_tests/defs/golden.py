"""The definitions of a small project as a text file that a person has looked at: what Dagster will show and run.

``python -m kb_pipeline_tests.defs.golden`` writes it anew: look at the difference before you commit it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from kb_pipeline.definitions import build_defs
from kb_pipeline.settings.load import load

GOLDEN = Path(__file__).parent / "golden_definitions.txt"
_SETTINGS = """\
owners: ["team:search", ada@example.org]
sources:
  - {name: handbook, type: local_directory, path: ./docs}
  - {name: archive, type: local_zip, path: ./archives/*.zip}
"""
_PACKAGE = Path(__file__).parents[2]


def describe() -> str:
    """The definitions of a project with a folder and an archive, as text."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "kb.yaml"
        config.write_text(_SETTINGS, encoding="utf-8")
        lines = list(_lines(build_defs(load(config))))
        # By its address as well, where a folder is a link.
        return "\n".join(lines).replace(Path(folder).as_uri(), "file://PROJECT").replace(str(_PACKAGE), "CHECKOUT") + "\n"


def _lines(definitions: dg.Definitions) -> Iterator[str]:
    repository = definitions.get_repository_def()
    graph = definitions.resolve_asset_graph()
    for key in sorted(graph.get_all_asset_keys()):
        yield from _asset(graph.get(key))
    for check in sorted(graph.asset_check_keys, key=str):
        spec = graph.get_check_spec(check)
        yield from _entry(
            f"check {check.asset_key.to_user_string()}:{check.name}",
            blocking=spec.blocking,
            partitions=_partitions(spec.partitions_def),
            description=spec.description,
        )
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if job.name.startswith("__"):
            continue
        layer = job.asset_layer
        yield from _entry(
            f"job {job.name}",
            assets=sorted(key.to_user_string() for key in layer.selected_asset_keys),
            checks=sorted(key.to_user_string() for key in layer.asset_graph.asset_check_keys),
            partitions=_partitions(job.partitions_def),
            tags=dict(job.tags),
            executor=job.executor_def.name,
            description=job.description,
        )
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        yield from _entry(
            f"sensor {sensor.name}",
            starts=[target.job_name for target in sensor.targets],
            every=f"{sensor.minimum_interval_seconds} s",
            status=sensor.default_status.value,
            description=sensor.description,
        )
    for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name):
        yield from _entry(
            f"schedule {schedule.name}",
            starts=schedule.job_name,
            at=f"{schedule.cron_schedule} {schedule.execution_timezone}",
            status=schedule.default_status.value,
            description=schedule.description,
        )
    yield from _entry("resources", keys=sorted(repository.get_top_level_resources()))


def _asset(node: Any) -> Iterator[str]:
    definition = node.assets_def
    spec = definition.get_asset_spec(node.key)
    policy = spec.freshness_policy
    yield from _entry(
        f"asset {node.key.to_user_string()}",
        made_from=sorted(key.to_user_string() for key in node.parent_keys),
        group=node.group_name,
        kinds=sorted(spec.kinds),
        partitions=_partitions(node.partitions_def),
        backfill=None if node.backfill_policy is None else str(node.backfill_policy.max_partitions_per_run or "one run"),
        pools=sorted(node.pools or ()),
        retries=None if definition.op.retry_policy is None else definition.op.retry_policy.max_retries,
        resources=sorted(definition.required_resource_keys),
        owners=list(node.owners),
        code_version=node.code_version,
        freshness=None if policy is None else _window(policy),
        uri=spec.metadata["dagster/uri"],
        code=[
            f"{each.file_path.split('site-packages/')[-1]} {each.label}"
            for each in spec.metadata["dagster/code_references"].code_references
        ],
        description=node.description,
    )


def _window(policy: Any) -> str:
    return f"warns after {policy.warn_window.to_timedelta()}, fails after {policy.fail_window.to_timedelta()}"


def _partitions(definition: dg.PartitionsDefinition[Any] | None) -> str | None:
    return None if definition is None else str(getattr(definition, "name", definition))


def _entry(title: str, **facts: object) -> Iterable[str]:
    yield title
    for name, value in facts.items():
        if isinstance(value, (list, tuple, set)):
            value = ", ".join(map(str, value))
        elif isinstance(value, dict):
            value = ", ".join(f"{key}={each}" for key, each in sorted(value.items()))
        if value not in (None, "", False):
            yield f"  {name.replace('_', ' ')}: {value}"
    yield ""


if __name__ == "__main__":
    GOLDEN.write_text(describe(), encoding="utf-8")
