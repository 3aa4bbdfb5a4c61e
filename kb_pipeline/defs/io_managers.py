"""The IO manager: loads published partition tables for other people's assets and for notebooks.

It stores nothing: our assets publish their tables themselves, under their leases (``ingestion.chain``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from kb_pipeline.storage.partitions import parse_key
from kb_pipeline.storage.storage import Storage, file_of

if TYPE_CHECKING:
    from kb_pipeline.ledger.pointers import Pointer


class PartitionTables(dg.IOManager):
    """Loads ``<type>/<stage>``, and stores nothing.

    As a ``pyarrow.Table`` or ``pandas.DataFrame`` with the rows of all partitions asked for when the parameter is so
    annotated, otherwise as a mapping from key to the path of the file, or to its address when the storage is a bucket.

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
        pointers = {key: self._storage.pointer(asset, parse_key(type_, key)) for key in keys}
        found = {key: pointer for key, pointer in pointers.items() if pointer is not None}
        if not found:
            raise FileNotFoundError(
                f"{type_}/{asset} was never materialized for {', '.join(sorted(pointers))}: "
                f"run `kb materialize {type_}/{asset} --partition {min(pointers)}`"
            )
        return self._as(context.dagster_type.typing_type, found)

    def _as(self, wanted: object, pointers: Mapping[str, Pointer]) -> Any:
        # Who asks for a data frame has imported pandas; importing it here would make every start of a run slower.
        frame = getattr(sys.modules.get("pandas"), "DataFrame", None)
        if wanted is not pa.Table and (frame is None or wanted is not frame):
            return {key: self._place(pointer) for key, pointer in pointers.items()}
        tables = []
        for _, pointer in sorted(pointers.items()):
            with self._storage.table(pointer) as table:
                tables.append(table.read())
        rows = pa.concat_tables(tables)
        return rows if wanted is pa.Table else rows.to_pandas()

    def _place(self, pointer: Pointer) -> Path | str:
        uri = self._storage.files.uri(file_of(pointer))
        return uri if "://" in uri else Path(uri)
