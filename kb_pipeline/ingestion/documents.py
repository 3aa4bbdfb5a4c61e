"""The documents stage: a listing and the last manifest become the next manifest with its documents.

What belongs here: fetching what changed, carrying over what didn't, the counts of law 1. What doesn't: how formats are
parsed, how sources are read, when this runs.

Laws kept here: every listed item ends in exactly one row; a row leaves only when a complete listing no longer has its
key; an item that fails for a transient reason keeps its last good version, one that fails for its content loses it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline import tables
from kb_pipeline.flow.pool import bounded_map
from kb_pipeline.ingestion.plan import Action, ManifestRow, Processors, Step, plan
from kb_pipeline.ingestion.standing import statuses
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.outcome import NO_PARSER, Outcome
from kb_pipeline.parsing.registry import PARSERS_VERSION
from kb_pipeline.sources.base import Item, ItemCorrupt, ItemEncrypted, ItemUnreadable, ItemVanished, Source
from kb_pipeline.statuses import Status
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.table import Staged, Storage, Table, TableWriter

Parse = Callable[[str, bytes], Future[Outcome]]
"""(file name, bytes) -> the outcome that is to come; called from worker threads."""

# Beside those that are being read: enough for every parser process to have some waiting. Bytes bound them as well.
_SMALL_ITEMS_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one item and all items in flight may take. Bytes; ``workers`` is a number of threads."""

    max_item_bytes: int
    inflight_bytes: int
    workers: int
    parse_seconds: float
    parse_memory_mib: int

    def processors(self) -> Processors:
        """What outcomes depend on; raising a limit makes the next run look again at what it had stopped."""
        limits = f"{self.max_item_bytes}-{self.parse_seconds:g}-{self.parse_memory_mib}"
        return Processors(good=PARSERS_VERSION, bad=f"{PARSERS_VERSION} {limits}")


@dataclass(slots=True)
class Counts:
    """Law 1: listed = indexed + unchanged + quarantined + excluded. ``deleted`` lies outside the sum."""

    listed: int = 0
    indexed: int = 0
    unchanged: int = 0
    quarantined: int = 0
    excluded: int = 0
    deleted: int = 0

    def add(self, status: Status, number: int = 1, *, fetched: bool) -> None:
        """Put items into exactly one of the four. ``fetched``: they were read in this run."""
        if status is Status.EXCLUDED:
            self.excluded += number
        elif status.quarantined:
            self.quarantined += number
        elif fetched:
            self.indexed += number
        else:
            self.unchanged += number

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What became of reading one item, or is to become of it: ``parsing`` is there when its bytes are being parsed.

    Without ``parsing``, and with a ``sha256``, the bytes are those of the last good version.
    """

    step: Step
    sha256: str | None
    parsing: Future[Outcome] | None
    status: Status
    detail: str = ""

    def outcome(self) -> Outcome:
        """The outcome, waited for if need be. Raises Unavailable when no parser process can be started."""
        return self.parsing.result() if self.parsing is not None else Outcome(self.status, detail=self.detail)


@dataclass(slots=True)
class _Draft:
    """The next table while it is made: what is new, what is amended, what stays."""

    counts: Counts = field(default_factory=Counts)
    amended: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    fingerprints: list[str] = field(default_factory=list)
    rows_written: int = 0


def update(
    storage: Storage,
    partition: Partition,
    items: list[Item],
    source: Source,
    parse: Parse,
    limits: Limits,
    *,
    retries: frozenset[str],
    on_progress: Callable[[int, int], None],
) -> Staged:
    """Bring a partition's documents in step with its items; the result is written aside, not published.

    Reads no item whose version and outcome stand. Raises OSError when the storage can't be written.
    """
    target = storage.table_path("documents", partition)
    previous = Table.open(target)
    origins = [previous] if previous is not None else _siblings(storage, partition)
    try:
        manifest = {row.key: row for table in origins for row in _manifest(table) if partition.holds(row.key)}
        processors = limits.processors()
        steps = list(plan(items, manifest, processors, retries, limits.max_item_bytes))
        listed = {step.item.key for step in steps}
        gone = [row for key, row in manifest.items() if key not in listed]
        draft = _Draft()
        draft.counts.listed = len(steps)
        draft.counts.deleted = sum(row.status is not Status.EXCLUDED for row in gone)
        if previous is not None and not gone and all(_stands(step, processors, limits) for step in steps):
            for step in steps:
                _count(draft.counts, step, _status_of(step))
            return Staged(target, None, previous.fingerprint, draft.counts.as_dict())
        with storage.stage(target, tables.DOCUMENTS) as writer:
            _write(writer, partition, steps, source, parse, limits, processors, draft, on_progress)
            for table in origins:
                _carry_over(writer, table, draft)
            if draft.rows_written != len(steps):
                raise RuntimeError(
                    f"{partition.key}: {len(steps)} items listed, but {draft.rows_written} rows written; "
                    "nothing was published"
                )
            fingerprint = identity.table_fingerprint(draft.fingerprints, partition.type, partition.connection)
            writer.annotate({tables.FINGERPRINT: fingerprint})
        return Staged(target, writer.path, fingerprint, draft.counts.as_dict())
    finally:
        for table in origins:
            table.close()


def standing(storage: Storage, partition: Partition, listed: pa.Table, limits: Limits) -> Staged | None:
    """The published table, when ``listed`` (rows of ``tables.LISTING``) changes nothing in it; else None: call ``update``.

    Not for a partition that somebody asked to retry items of.
    """
    target = storage.table_path("documents", partition)
    documents = Table.open(target)
    if documents is None:
        return None
    with documents:
        found = statuses(listed, documents, limits.processors(), limits.max_item_bytes)
        if found is None:
            return None
        counts = Counts(listed=listed.num_rows)
        for status, number in found.items():
            counts.add(status, number, fetched=False)
        return Staged(target, None, documents.fingerprint, counts.as_dict())


def _siblings(storage: Storage, partition: Partition) -> list[Table]:
    """Tables of the same connection under another number of shards: what they hold need not be read again.

    With several such layouts, a whole one goes before one whose runs never finished, and the newest before older ones.
    """
    layouts = storage.layouts("documents", partition.type, partition.connection)
    layouts.pop(partition.shards, None)
    if not layouts:
        return []
    shards = max(layouts, key=lambda n: (len(layouts[n]) == n, storage.written("documents", layouts[n])))
    opened = [Table.open(storage.table_path("documents", each)) for each in layouts[shards]]
    return [table for table in opened if table is not None]


def _manifest(table: Table) -> Iterator[ManifestRow]:
    for batch in table.batches(ManifestRow.COLUMNS, rows=16_384):
        for row in batch.to_pylist():
            yield ManifestRow.of(row)


def _set_aside_status(step: Step, limits: Limits) -> tuple[Status, str | None, str]:
    """(status, rule, detail) of an item that is not read."""
    item = step.item
    if item.excluded is not None:
        return Status.EXCLUDED, item.excluded, ""
    if item.problem is not None:
        return item.problem, None, item.problem_detail
    return Status.TOO_LARGE, None, f"{item.size:,} bytes; the limit is {limits.max_item_bytes:,}"


def _stands(step: Step, processors: Processors, limits: Limits) -> bool:
    """Whether the row in the table is already the row this step would write."""
    if step.action is Action.KEEP:
        return True
    row = step.previous
    if step.action is not Action.SET_ASIDE or row is None:
        return False
    status, rule, _ = _set_aside_status(step, limits)
    item = step.item
    facts = (row.name, row.uri, row.size, row.modified, row.parent, row.version)
    outcome = (row.status, row.rule, row.processor, row.document_hash)
    return facts == (item.name, item.uri, item.size, item.modified, item.parent, item.version) and outcome == (
        (status, rule, processors.of(status), None)
    )


def _status_of(step: Step) -> Status:
    assert step.previous is not None
    return step.previous.status


def _count(counts: Counts, step: Step, status: Status) -> None:
    counts.add(status, fetched=step.action is Action.FETCH)


def _write(
    writer: TableWriter,
    partition: Partition,
    steps: list[Step],
    source: Source,
    parse: Parse,
    limits: Limits,
    processors: Processors,
    draft: _Draft,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write the rows that are new; note those that stay or are amended for ``_carry_over``."""
    done = 0
    for step in steps:
        if step.action is Action.FETCH:
            continue
        if step.action is Action.KEEP:
            draft.kept.add(step.item.key)
            status = _status_of(step)
        elif step.action is Action.AMEND:
            draft.amended[step.item.key] = _item_columns(step.item)
            status = _status_of(step)
        else:
            status, rule, detail = _set_aside_status(step, limits)
            if not _fall_back(step, status, detail, draft):
                _emit(writer, _row(partition, step.item, status, processors, rule=rule, detail=detail), draft)
        _count(draft.counts, step, status)
        done += 1
    on_progress(done, len(steps))
    fetches = [step for step in steps if step.action is Action.FETCH]

    def fetch(step: Step) -> _Fetched:
        return _fetch(step, source, parse, limits, processors)

    def cost(step: Step) -> int:
        return min(step.item.size or limits.max_item_bytes, limits.max_item_bytes)

    ahead = 2 * limits.workers + _SMALL_ITEMS_AHEAD
    for fetched in bounded_map(fetch, fetches, workers=limits.workers, ahead=ahead, budget=limits.inflight_bytes, cost=cost):
        _place(writer, partition, fetched, processors, draft)
        # The next may take a while: its predecessor's text need not wait beside it.
        del fetched
        done += 1
        on_progress(done, len(steps))


def _fetch(step: Step, source: Source, parse: Parse, limits: Limits, processors: Processors) -> _Fetched:
    item, previous = step.item, step.previous
    try:
        with source.read(item) as stream:
            data = stream.read(limits.max_item_bytes + 1)
    except ItemVanished as error:
        return _Fetched(step, None, None, Status.VANISHED, str(error))
    except ItemUnreadable as error:
        return _Fetched(step, None, None, Status.UNREADABLE, str(error))
    except ItemCorrupt as error:
        return _Fetched(step, None, None, Status.CORRUPT, str(error))
    except ItemEncrypted as error:
        return _Fetched(step, None, None, Status.ENCRYPTED, str(error))
    if len(data) > limits.max_item_bytes:
        return _Fetched(step, None, None, Status.TOO_LARGE, f"more than {limits.max_item_bytes:,} bytes")
    sha256 = hashlib.sha256(data).hexdigest()
    if (
        previous is not None
        and previous.content_sha256 == sha256
        and previous.name == item.name
        and previous.status.good
        and previous.processor == processors.good
    ):
        return _Fetched(step, sha256, None, previous.status)
    return _Fetched(step, sha256, parse(item.name, data), Status.PARSED)


def _place(writer: TableWriter, partition: Partition, fetched: _Fetched, processors: Processors, draft: _Draft) -> None:
    """Turn what was read into a row, or into an amendment of the row that is there."""
    step, outcome = fetched.step, fetched.outcome()
    item, status = step.item, outcome.status
    if fetched.sha256 is not None and fetched.parsing is None:
        draft.amended[item.key] = {**_item_columns(item), "content_version": item.version}
    elif not _fall_back(step, status, outcome.detail, draft):
        rule = NO_PARSER if status is Status.EXCLUDED else None
        detail = "" if status is Status.EXCLUDED else outcome.detail
        document, sha256 = outcome.document, fetched.sha256
        row = _row(partition, item, status, processors, rule=rule, detail=detail, sha256=sha256, document=document)
        _emit(writer, row, draft)
    _count(draft.counts, step, status)


def _fall_back(step: Step, status: Status, detail: str, draft: _Draft) -> bool:
    """Keep the last good version, marked stale, of an item that failed for a transient reason; False if there is none.

    The processor stays that of the kept content: when the bytes come back, a newer parser must see them.
    """
    if not status.transient or step.previous is None or step.previous.document_hash is None:
        return False
    changes = {"version": step.item.version, "status": status.value, "detail": detail, "stale": True}
    draft.amended[step.item.key] = changes
    return True


def _item_columns(item: Item) -> dict[str, Any]:
    return {
        "version": item.version,
        "name": item.name,
        "uri": item.uri,
        "size": item.size,
        "modified": item.modified,
        "parent": item.parent,
    }


def _row(
    partition: Partition,
    item: Item,
    status: Status,
    processors: Processors,
    *,
    rule: str | None,
    detail: str,
    sha256: str | None = None,
    document: Document | None = None,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": item.key,
        "document_id": identity.document_id(partition.type, partition.connection, item.key),
        **_item_columns(item),
        "content_version": None,
        "status": status.value,
        "rule": rule,
        "detail": detail,
        "stale": False,
        "processor": processors.of(status),
        "content_sha256": sha256,
        "document_hash": None,
    }
    if document is not None:
        row |= {
            "content_version": item.version,
            "media_type": document.media_type,
            "title": document.title,
            "metadata": json.dumps(dict(document.metadata), sort_keys=True, ensure_ascii=False),
            "text": document.text,
            "blocks": [asdict(block) for block in document.blocks],
        }
        row["document_hash"] = _document_hash(row)
    return row


def _document_hash(row: Mapping[str, Any]) -> str:
    """Hash of everything that chunks are made from."""
    blocks = [
        (block["kind"], block["start"], block["end"], list(block["heading_path"]), block["page"]) for block in row["blocks"]
    ]
    text = hashlib.sha256(row["text"].encode("utf-8", "surrogatepass")).hexdigest()
    facts = [row[name] for name in ("document_id", "uri", "title", "media_type", "metadata")]
    modified = row["modified"].isoformat() if row["modified"] is not None else None
    return identity.digest("document", text, blocks, facts, modified)


def _emit(writer: TableWriter, row: dict[str, Any], draft: _Draft) -> None:
    writer.row(row)
    draft.rows_written += 1
    draft.fingerprints.append(_fingerprint(row))


_FINGERPRINTED = tables.MANIFEST.names
"""All of it, for releases keep manifests by their fingerprint; the rest of a row is covered by ``document_hash``."""


def _fingerprint(row: Mapping[str, Any]) -> str:
    return identity.digest(*(row[name] for name in _FINGERPRINTED))


def _carry_over(writer: TableWriter, table: Table, draft: _Draft) -> None:
    """Copy the rows that stay, batch by batch, amending those whose surroundings changed."""
    kept = pa.array(sorted(draft.kept), pa.string())
    amended = pa.array(sorted(draft.amended), pa.string())
    for batch in table.bounded_batches(rows=1_024):
        stays = batch.filter(pc.is_in(batch["key"], kept))
        writer.batch(stays)
        draft.rows_written += stays.num_rows
        draft.fingerprints.extend(_fingerprint(row) for row in stays.select(_FINGERPRINTED).to_pylist())
        for old in batch.filter(pc.is_in(batch["key"], amended)).to_pylist():
            row = old | draft.amended[old["key"]]
            if row["text"] is not None:
                row["document_hash"] = _document_hash(row)
            _emit(writer, row, draft)
