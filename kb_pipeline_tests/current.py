"""The current tables of a storage, for tests that look into them or damage them. What doesn't belong here: tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage, file_of


def table(storage: Storage, asset: str, partition: Partition) -> pa.Table:
    """The current table of a partition."""
    with storage.require(asset, partition) as opened:
        return opened.read()


def rows(storage: Storage, asset: str, partition: Partition) -> list[dict[str, Any]]:
    """Its rows."""
    found: list[dict[str, Any]] = table(storage, asset, partition).to_pylist()
    return found


def path(storage: Storage, asset: str, partition: Partition) -> Path:
    """Its file, of a storage in a folder."""
    pointer = storage.pointer(asset, partition)
    assert pointer is not None, f"{asset} of {partition.key} was never published"
    return Path(storage.files.uri(file_of(pointer)))


def damage(storage: Storage, asset: str, partition: Partition, changed: pa.Table) -> None:
    """Put other rows in its place behind the pipeline's back, in a storage in a folder."""
    pq.write_table(changed, path(storage, asset, partition))
