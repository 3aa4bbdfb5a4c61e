"""Whether a listing changes nothing, told column by column: a hundred thousand unchanged items cost no objects.

What belongs here: recognising that every row of a documents table stands as it is. What doesn't: what is to be done when
one doesn't (``ingestion.plan`` decides item by item, and says the same of every case that is recognised here).
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline.ingestion.plan import Processors
from kb_pipeline.parsing.outcome import NO_PARSER
from kb_pipeline.statuses import Status
from kb_pipeline.storage.table import Table

_FACTS = ["key", "version", "name", "uri", "size", "modified", "parent"]
_OUTCOME = ["status", "rule", "processor"]
_VERDICT = ["excluded", "problem"]


def statuses(listed: pa.Table, documents: Table, processors: Processors, max_item_bytes: int) -> Counter[Status] | None:
    """How many rows have each status when all of them stand for ``listed``; None when any row has to be looked at.

    ``listed``: rows of ``tables.LISTING``, all those of the partition. Nobody may have asked for a retry.
    """
    recorded = documents.read([*_FACTS, *_OUTCOME, "within", "holds", "document_hash"])
    is_listed = pc.is_null(recorded["within"])
    inside, recorded = recorded.filter(pc.invert(is_listed)), recorded.filter(is_listed).sort_by("key")
    if listed.num_rows != recorded.num_rows:
        return None
    listed = listed.sort_by("key")
    if not all(listed[name].combine_chunks().equals(recorded[name].combine_chunks()) for name in _FACTS):
        return None
    found = _inside_statuses(inside, recorded, processors)
    if found is None:
        return None
    sizes = listed["size"].combine_chunks().fill_null(0)
    kinds = pa.table(
        {
            **{name: recorded[name].combine_chunks() for name in _OUTCOME},
            **{name: listed[name].combine_chunks() for name in _VERDICT},
            "indexed": pc.is_valid(recorded["document_hash"].combine_chunks()),
            "oversize": pc.greater(sizes, pa.scalar(max_item_bytes)),
        }
    )
    names = kinds.column_names
    for kind in kinds.group_by(names).aggregate([([], "count_all")]).to_pylist():
        status = Status(kind["status"])
        if kind["excluded"] is not None:
            expected = (Status.EXCLUDED.value, kind["excluded"], processors.of(Status.EXCLUDED), False)
        elif kind["problem"] is not None:
            expected = (kind["problem"], None, processors.of(Status(kind["problem"])), False)
        elif kind["oversize"]:
            expected = (Status.TOO_LARGE.value, None, processors.of(Status.TOO_LARGE), False)
        elif status.transient:
            return None  # tried again in every run
        else:
            rule = NO_PARSER if status is Status.EXCLUDED else None
            expected = (status.value, rule, processors.of(status), status.good)
        if (kind["status"], kind["rule"], kind["processor"], kind["indexed"]) != expected:
            return None
        found[status] += kind["count_all"]
    return found


def _inside_statuses(inside: pa.Table, listed: pa.Table, processors: Processors) -> Counter[Status] | None:
    """The same for rows of items inside others: they stand while they are all there and nothing asks to open them again."""
    held = pc.sum(listed["holds"], min_count=0).as_py() + pc.sum(inside["holds"], min_count=0).as_py()
    if held != inside.num_rows:
        return None
    found: Counter[Status] = Counter()
    for kind in inside.group_by(["status", "processor"]).aggregate([([], "count_all")]).to_pylist():
        status = Status(kind["status"])
        if kind["processor"] != processors.of(status):
            return None
        found[status] += kind["count_all"]
    return found
