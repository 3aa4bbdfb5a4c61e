"""The documents stage: a listing and the last manifest become the next manifest with its documents.

What belongs here: from two tables to the next. What doesn't: how items become rows (``draft``), how formats are parsed,
how sources are read, when this runs.

Laws kept here: every listed item, and every item found inside one, ends in exactly one row; a row leaves only when a
complete listing no longer has its key, or what it was found in no longer holds it; an item that fails for a transient
reason keeps its last good version, one that fails for its content loses it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline import tables
from kb_pipeline.ingestion import listing
from kb_pipeline.ingestion.accounts import Counts, Limits
from kb_pipeline.ingestion.draft import Draft, Parse, set_aside
from kb_pipeline.ingestion.inside import Inside
from kb_pipeline.ingestion.parsers import parsers
from kb_pipeline.ingestion.plan import Action, ManifestRow, Processors, Step, plan
from kb_pipeline.ingestion.standing import statuses
from kb_pipeline.ingestion.work import Prepared, Work
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.monitoring.progress import OnProgress
from kb_pipeline.sources.base import Item, Source
from kb_pipeline.statuses import Status
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Staged, Storage
from kb_pipeline.storage.table import Table


def version(workspace: Workspace) -> str:
    """What decides which document is made of an item's bytes: the parsers, and the limits that stop them."""
    return workspace.limits.processors().bad


def prepare(work: Work) -> Prepared:
    """Documents of a partition from today's listing, written aside."""
    workspace, partition = work.workspace, work.partition
    storage, limits = workspace.storage, workspace.limits
    work.take_listing()
    info, listed = listing.read(storage, partition)
    retries = workspace.ledger.retries.of(partition.connection)
    if retries:
        retries &= {*listed["key"].to_pylist(), *keys_inside(storage, partition)}
    staged = None if retries else standing(storage, partition, listed, limits)
    if staged is not None:
        work.on_progress(listed.num_rows, listed.num_rows)
    else:
        with work.asking() as source:
            staged = update(
                storage,
                partition,
                listing.items(listed),
                source,
                parsers(limits).submit,
                limits,
                retries=retries,
                on_progress=work.on_progress,
            )

    def then() -> None:
        workspace.ledger.retries.served(partition.connection, retries)
        workspace.ledger.listings.apply(partition.type, partition.key, info.digest)

    return Prepared(staged, then)


def update(
    storage: Storage,
    partition: Partition,
    items: list[Item],
    source: Source,
    parse: Parse,
    limits: Limits,
    *,
    retries: frozenset[str],
    on_progress: OnProgress,
) -> Staged:
    """Bring a partition's documents in step with its items; the result is written aside, not published.

    Reads no item whose version and outcome stand. Raises OSError when the storage can't be written.
    """
    previous = _open(storage, partition)
    origins = [previous] if previous is not None else _siblings(storage, partition)
    try:
        rows = [row for table in origins for row in _manifest(table) if partition.holds(row.within or row.key)]
        manifest = {row.key: row for row in rows if row.within is None}
        inside = Inside(row for row in rows if row.within is not None)
        processors = limits.processors()
        reopened = inside.reopened(manifest, processors, retries)
        steps = list(plan(items, manifest, processors, retries, reopened, limits.max_item_bytes))
        if previous is not None and _all_stand(steps, manifest, inside, processors, limits):
            counts = Counts(listed=len(rows))
            for row in rows:
                counts.add(row.status, fetched=False)
            return Staged(storage, previous.pointer, None, counts.as_dict())
        with storage.write(partition.key, tables.DOCUMENTS) as writer:
            draft = Draft(writer, partition, source, parse, limits, processors, inside)
            draft.make(steps, on_progress)
            for table in origins:
                draft.carry_over(table)
            draft.check()
            draft.counts.deleted = sum(row.status is not Status.EXCLUDED for row in rows if draft.is_gone(row))
            # The columns too: a table that another version wrote is another table.
            context = (partition.type, partition.connection, tables.DOCUMENTS.names)
            writer.describe(identity.table_fingerprint(draft.fingerprints, *context))
        return storage.staged("documents", partition, writer, draft.counts.as_dict())
    finally:
        for table in origins:
            table.close()


def standing(storage: Storage, partition: Partition, listed: pa.Table, limits: Limits) -> Staged | None:
    """The published table, when ``listed`` (rows of ``tables.LISTING``) changes nothing in it; else None: call ``update``.

    Not for a partition that somebody asked to retry items of.
    """
    documents = _open(storage, partition)
    if documents is None:
        return None
    with documents:
        found = statuses(listed, documents, limits.processors(), limits.max_item_bytes)
        if found is None:
            return None
        counts = Counts(listed=found.total())
        for status, number in found.items():
            counts.add(status, number, fetched=False)
        return Staged(storage, documents.pointer, None, counts.as_dict())


def keys_inside(storage: Storage, partition: Partition) -> frozenset[str]:
    """Keys of the items that were found inside others when the partition was last published."""
    documents = _open(storage, partition)
    if documents is None:
        return frozenset()
    with documents:
        rows = documents.read(["key", "within"])
    return frozenset(tables.values(rows.filter(pc.is_valid(rows["within"]))["key"]))


def _open(storage: Storage, partition: Partition) -> Table | None:
    """A table of documents, or None when there is none, or one of a version that recorded less: everything is read anew."""
    table = storage.open("documents", partition)
    if table is not None and not set(tables.DOCUMENTS.names) <= set(table.columns):
        table.close()
        return None
    return table


def _siblings(storage: Storage, partition: Partition) -> list[Table]:
    """Tables of the same connection under another number of shards: what they hold need not be read again.

    With several such layouts, a whole one goes before one whose runs never finished, and the newest before older ones.
    """
    layouts = storage.layouts("documents", partition.type, partition.connection)
    layouts.pop(partition.shards, None)
    if not layouts:
        return []
    shards = max(layouts, key=lambda n: (len(layouts[n]) == n, storage.published_at("documents", layouts[n])))
    opened = [_open(storage, each) for each in layouts[shards]]
    return [table for table in opened if table is not None]


def _manifest(table: Table) -> Iterator[ManifestRow]:
    for batch in table.batches(ManifestRow.COLUMNS, rows=16_384):
        for row in batch.to_pylist():
            yield ManifestRow.of(row)


def _all_stand(
    steps: list[Step], manifest: dict[str, ManifestRow], inside: Inside, processors: Processors, limits: Limits
) -> bool:
    """Whether the table would be written as it is."""
    kept = {step.item.key for step in steps if step.action is Action.KEEP}
    return (
        manifest.keys() <= {step.item.key for step in steps}
        and all(_stands(step, processors, limits) for step in steps)
        and all(row.within in kept for row in inside.rows())
    )


def _stands(step: Step, processors: Processors, limits: Limits) -> bool:
    """Whether the row in the table is already the row this step would write."""
    if step.action is Action.KEEP:
        return True
    row = step.previous
    if step.action is not Action.SET_ASIDE or row is None:
        return False
    outcome = set_aside(step.item, limits)
    rule = outcome.detail if outcome.status is Status.EXCLUDED else None
    item = step.item
    facts = (row.name, row.uri, row.size, row.modified, row.parent, row.version)
    recorded = (row.status, row.rule, row.processor, row.document_hash)
    return facts == (item.name, item.uri, item.size, item.modified, item.parent, item.version) and recorded == (
        (outcome.status, rule, processors.of(outcome.status), None)
    )
