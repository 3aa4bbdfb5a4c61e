"""What the Dagster UI shows of an asset: its columns, where it lies, its code, its first rows.

What belongs here: metadata of definitions and of materializations. What doesn't: which assets there are (``assets``).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from kb_pipeline import tables
from kb_pipeline.storage.table import Table

COLUMNS = "dagster/column_schema"
URI = "dagster/uri"
CODE = "dagster/code_references"
ROWS = "dagster/partition_row_count"
ALL_ROWS = "dagster/row_count"
_PREVIEW_ROWS = 5
_PREVIEW_CHARACTERS = 80


def of_definition(schema: pa.Schema, place: str, *code: str) -> dict[str, Any]:
    """Metadata of an asset's definition: columns, where its tables lie, and the code (``module:name``) that makes it."""
    found: list[Any] = [reference for each in code if (reference := code_reference(each)) is not None]
    metadata: dict[str, Any] = {COLUMNS: column_schema(schema), URI: _address(place)}
    return metadata | ({CODE: dg.CodeReferencesMetadataValue(code_references=found)} if found else {})


def of_table(table: Table, columns: Sequence[str]) -> dict[str, Any]:
    """Metadata of a published table: where it lies, how many rows it has, and the first of them."""
    first = next(table.batches(list(columns), rows=_PREVIEW_ROWS), None)
    text = preview([] if first is None else first.to_pylist(), columns)
    return {ROWS: table.num_rows, URI: _address(table.address), "preview": dg.MetadataValue.md(text)}


def _address(place: str) -> str:
    return place if "://" in place else Path(place).absolute().as_uri()


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """Dagster's column schema of an Arrow schema, descriptions included."""
    return dg.TableSchema(
        columns=[dg.TableColumn(name, type=kind, description=text) for name, kind, text in tables.describe(schema)]
    )


def preview(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Rows as a Markdown table; long values are shortened."""
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in rows)])


def _cell(value: Any) -> str:
    text = " ".join(str("" if value is None else value).split()).replace("|", "\\|")
    return text if len(text) <= _PREVIEW_CHARACTERS else text[: _PREVIEW_CHARACTERS - 1] + "…"


def code_reference(reference: str) -> dg.LocalFileCodeReference | None:
    """Where the function or class ``module:name`` stands; None for code without a source file. Imports packages only."""
    module, _, name = reference.partition(":")
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:  # a connector whose package is broken: told when its source is built
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    source = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"^(?:def|class) {re.escape(name)}\b", source, re.MULTILINE)
    line = source.count("\n", 0, found.start()) + 1 if found else 1
    return dg.LocalFileCodeReference(file_path=spec.origin, line_number=line, label=f"{module}.{name}")
