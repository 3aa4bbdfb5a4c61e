"""The IO manager: loads published partition tables for other people's assets and for notebooks.

It stores nothing: our assets publish their tables themselves, under their leases (``ingestion.chain``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from kb_pipeline.storage.partitions import parse_key
from kb_pipeline.storage.table import Storage


class PartitionTables(dg.IOManager):
    """Loads ``<type>/<stage>``, and stores nothing.

    As a ``pyarrow.Table`` or ``pandas.DataFrame`` with the rows of all partitions asked for when the parameter is so
    annotated, otherwise as a mapping from key to file path.

    Partitions that were never published are left out of a range, and are an error when asked for alone.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Refuse: only the stages of kb_pipeline have tables here. Raises NotImplementedError."""
        raise NotImplementedError(
            f"{context.asset_key.to_user_string()}: the IO manager partition_tables only loads tables of kb_pipeline; "
            "give the asset an io_manager_key of its own"
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """The published tables of the partitions asked for."""
        type_, asset = context.asset_key.path
        keys = context.asset_partition_keys
        paths = {key: self._storage.table_path(asset, parse_key(type_, key)) for key in keys}
        found = {key: path for key, path in paths.items() if path.exists()}
        if not found:
            raise FileNotFoundError(
                f"{type_}/{asset} was never materialized for {', '.join(sorted(paths))}: "
                f"run `kb materialize {type_}/{asset} --partition {min(paths)}`"
            )
        return _as(context.dagster_type.typing_type, found)


def _as(wanted: object, paths: Mapping[str, Path]) -> Any:
    # Who asks for a data frame has imported pandas; importing it here would make every start of a run slower.
    frame = getattr(sys.modules.get("pandas"), "DataFrame", None)
    if wanted is not pa.Table and (frame is None or wanted is not frame):
        return dict(paths)
    table = pa.concat_tables([pq.read_table(path) for _, path in sorted(paths.items())])
    return table if wanted is pa.Table else table.to_pandas()
