"""Retirement: what is stored of a connection that has left kb.yaml, and dropping it. Never done silently."""

from __future__ import annotations

from kb_pipeline import stages
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage


def known_connections(storage: Storage) -> list[tuple[str, str]]:
    """(type, connection) of everything that has tables."""
    return sorted({(each.type, each.connection) for asset in stages.names() for each in storage.partitions(asset)})


def retire_connection(workspace: Workspace, type_: str, connection: str) -> list[Partition]:
    """Drop a connection's tables and remember that it is retired; the next release drops its rows. Returns its partitions.

    Raises LeaseHeld when somebody is writing it.
    """
    storage = workspace.storage
    mine = {each for asset in stages.names() for each in storage.partitions(asset, type_) if each.connection == connection}
    # The mark comes first: after a crash in between, the connection counts as retired and the rest can be repeated.
    workspace.ledger.retirements.retire(connection)
    for partition in mine:
        for asset in reversed(stages.names()):
            with workspace.ledger.leases.acquire(f"{type_}/{asset}/{partition.key}", f"retiring {connection}") as lease:
                storage.drop(lease, asset, partition)
    with workspace.ledger.leases.acquire(f"{type_}/{stages.INVENTORY}/{connection}", f"retiring {connection}") as lease:
        storage.drop(lease, stages.INVENTORY, Partition(type_, connection))
    return sorted(mine)
