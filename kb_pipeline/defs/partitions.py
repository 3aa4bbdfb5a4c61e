"""Partition definitions: one per source type, its keys registered at run time."""

from __future__ import annotations

from functools import cache

import dagster as dg

from kb_pipeline import stages
from kb_pipeline.ingestion.workspace import Workspace


@cache
def partitions_def(type_: str) -> dg.DynamicPartitionsDefinition:
    """The partitions of a source type. The name is global to a Dagster instance, hence the prefix."""
    return dg.DynamicPartitionsDefinition(name=f"kb_{type_}")


def wanted_keys(workspace: Workspace, type_: str) -> list[str]:
    """Keys of all partitions that kb.yaml asks for."""
    return [
        partition.key
        for config in workspace.connections
        if config.type == type_
        for partition in workspace.partitions(config.name)
    ]


def unregistered_keys(instance: dg.DagsterInstance, workspace: Workspace, type_: str) -> list[str]:
    """Keys that kb.yaml asks for and the instance doesn't know yet."""
    known = set(instance.get_dynamic_partitions(f"kb_{type_}"))
    return [key for key in wanted_keys(workspace, type_) if key not in known]


def register(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, list[str]]:
    """Register every partition of kb.yaml; returns the keys that were new, by type. A run needs its key beforehand."""
    added = {}
    for type_ in workspace.types():
        keys = unregistered_keys(instance, workspace, type_)
        if keys:
            instance.add_dynamic_partitions(f"kb_{type_}", keys)
            added[type_] = keys
    return added


def drop_superseded(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, list[str]]:
    """Forget keys of earlier numbers of shards once their tables are gone; returns them by type."""
    dropped: dict[str, list[str]] = {}
    for type_ in workspace.types():
        configured = {config.name for config in workspace.connections if config.type == type_}
        wanted = set(wanted_keys(workspace, type_))
        on_disk = {each.key for each in workspace.storage.partitions(stages.first().name, type_)}
        for key in instance.get_dynamic_partitions(f"kb_{type_}"):
            if key.split(".")[0] in configured and key not in wanted and key not in on_disk:
                instance.delete_dynamic_partition(f"kb_{type_}", key)
                dropped.setdefault(type_, []).append(key)
    return dropped
