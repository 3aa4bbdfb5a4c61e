"""Damage to published tables, as a disk or a stranger would do it: rows change, and nothing else looks different."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests import current


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace the rows of a Parquet table."""
    table = pq.read_table(path)
    annotations = pq.read_metadata(path).metadata or {}
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(change(table))
        kept = {name.decode(): value.decode() for name, value in annotations.items() if name != b"ARROW:schema"}
        writer.add_key_value_metadata(kept)


def double(root: Path, partition: str) -> None:
    """Have every chunk of ``local_directory`` partition twice, with its vector."""
    for asset in ("chunks", "embeddings"):
        path = current.path(Storage.of_folder(root), asset, Partition("local_directory", partition))
        rewrite(path, lambda table: pa.concat_tables([table, table]))
