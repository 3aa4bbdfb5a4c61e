"""The next documents table while it is made.

What belongs here: fetching what changed and what is inside it, carrying over what didn't, counting. What doesn't: what has
to be done with which item (``plan``), what a row looks like (``rows``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline import tables
from kb_pipeline.flow.pool import bounded_map
from kb_pipeline.ingestion.accounts import Counts, Limits
from kb_pipeline.ingestion.inside import Inside, Opened, carried
from kb_pipeline.ingestion.plan import Action, ManifestRow, Processors, Step
from kb_pipeline.ingestion.rows import document_hash, fingerprint, item_columns, new_row
from kb_pipeline.monitoring.progress import OnProgress
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.sources.base import Item, ItemCorrupt, ItemEncrypted, ItemUnreadable, ItemVanished, Source, SourceError
from kb_pipeline.sources.capabilities import READ_MANY_ITEMS, SMALL_ITEM_BYTES, ReadMany
from kb_pipeline.statuses import Status
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.table import Table, TableWriter

# Beside those that are being read: enough for every parser process to have some waiting. Bytes bound them as well.
_SMALL_ITEMS_AHEAD = 64
_FAILURES: Mapping[type[Exception], Status] = {
    ItemVanished: Status.VANISHED,
    ItemUnreadable: Status.UNREADABLE,
    ItemCorrupt: Status.CORRUPT,
    ItemEncrypted: Status.ENCRYPTED,
}
"""What a source may raise because of an item."""


class Parse(Protocol):
    """(file name, bytes) -> the outcome that is to come; called from worker threads. ``ParserPool.submit`` is one."""

    def __call__(
        self, name: str, data: bytes, *, inside: bool = False, media_type: str | None = None
    ) -> Future[Outcome]: ...


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What became of reading one item, or is to become of it: ``parsing`` is there when its bytes are being parsed.

    ``same``: the bytes are those of the last good version, whose row stays. ``opened``: what it was found inside.
    """

    step: Step
    sha256: str | None
    parsing: Future[Outcome] | None
    status: Status
    detail: str = ""
    same: bool = False
    size: int = 0
    opened: Opened | None = None

    def outcome(self) -> Outcome:
        """The outcome, waited for if need be. Raises Unavailable when no parser process can be started."""
        return self.parsing.result() if self.parsing is not None else Outcome(self.status, detail=self.detail)


def together(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Steps in order, small items grouped for a source that reads several in one go."""
    group: list[Step] = []
    for step in steps:
        if step.item.size is None or step.item.size > SMALL_ITEM_BYTES:
            if group:
                yield group
                group = []
            yield [step]
            continue
        group.append(step)
        if len(group) == READ_MANY_ITEMS:
            yield group
            group = []
    if group:
        yield group


def set_aside(item: Item, limits: Limits) -> Outcome:
    """The outcome of an item that is not read."""
    if item.excluded is not None:
        return Outcome(Status.EXCLUDED, detail=item.excluded)
    if item.problem is not None:
        return Outcome(item.problem, detail=item.problem_detail)
    return Outcome(Status.TOO_LARGE, detail=f"{item.size:,} bytes; the limit is {limits.max_item_bytes:,}")


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is inside an item, to be taken out one after the other."""

    opened: Opened
    inside: Iterator[tuple[Item, bytes]]


class Draft:
    """The next table while it is made: what is new is written, what stays or is amended is noted for ``carry_over``."""

    def __init__(
        self,
        writer: TableWriter,
        partition: Partition,
        source: Source,
        parse: Parse,
        limits: Limits,
        processors: Processors,
        inside: Inside,
    ) -> None:
        self.counts = Counts()
        self.fingerprints: list[str] = []
        self._writer = writer
        self._partition = partition
        self._source = source
        self._parse = parse
        self._limits = limits
        self._processors = processors
        self._inside = inside
        # By document id: a key inside an item may read like one that is listed.
        self._amended: dict[str, dict[str, Any]] = {}
        self._kept: set[str] = set()
        self._written: set[str] = set()
        self._bytes_read = 0

    def make(self, steps: list[Step], on_progress: OnProgress) -> None:
        """Settle every step. Reads and parses several items at a time."""

        def report() -> None:
            on_progress(self.counts.listed, self.counts.listed + left, self._bytes_read)

        fetches = [step for step in steps if step.action is Action.FETCH]
        for step in steps:
            if step.action is not Action.FETCH:
                self._settle(step)
        left = len(fetches)
        report()
        ahead = 2 * self._limits.workers + _SMALL_ITEMS_AHEAD
        read = bounded_map(
            self._fetch_together,
            together(fetches) if isinstance(self._source, ReadMany) else ([step] for step in fetches),
            workers=self._limits.workers,
            ahead=ahead,
            budget=self._limits.inflight_bytes,
            cost=lambda steps: sum(map(self._expected_bytes, steps)),
        )
        for answers in read:
            answers.reverse()
            while answers:
                left -= 1
                # The next may take a while: its predecessor's text need not wait beside it.
                opened = self._place(answers.pop())
                report()
                if opened is not None:
                    self._go_inside(opened, report)

    def _go_inside(self, outermost: _Opened, report: Callable[[], None]) -> None:
        """Settle what is inside a listed item, on all levels.

        The deepest first: an archive is opened when what was in the one before is done, so that the bytes of few are there.
        For the same reason what is parsed ahead is bounded; and it is the same in every run, as is the order of keys.
        """
        ahead: list[_Fetched] = []
        waiting = [outermost]
        bytes_ahead = 0
        while waiting or ahead:
            while waiting and len(ahead) < self._limits.workers and bytes_ahead <= self._limits.inflight_bytes:
                each = next(waiting[-1].inside, None)
                if each is None:
                    waiting.pop()
                    continue
                ahead.append(self._take_out(waiting[-1].opened, *each))
                bytes_ahead += ahead[-1].size
            if not ahead:
                break
            fetched = ahead.pop()
            bytes_ahead -= fetched.size
            opened = self._place(fetched)
            del fetched
            report()
            if opened is not None:
                waiting.append(opened)

    def carry_over(self, table: Table) -> None:
        """Copy the rows that stay, batch by batch, amending those whose surroundings changed."""
        kept = pa.array(sorted(self._kept), pa.string())
        amended = pa.array(sorted(self._amended), pa.string())
        for batch in table.bounded_batches(rows=1_024):
            stays = batch.filter(pc.is_in(batch["document_id"], kept))
            self._writer.batch(stays)
            self.fingerprints.extend(fingerprint(row) for row in stays.select(tables.MANIFEST.names).to_pylist())
            for old in batch.filter(pc.is_in(batch["document_id"], amended)).to_pylist():
                row = old | self._amended[old["document_id"]]
                if row["text"] is not None:
                    row["document_hash"] = document_hash(row)
                self._write(row)

    def check(self) -> None:
        """Raises RuntimeError when an item has no row, or more than one."""
        if len(self.fingerprints) != self.counts.listed:
            raise RuntimeError(
                f"{self._partition.key}: {self.counts.listed} items, but {len(self.fingerprints)} rows written; "
                "nothing was published"
            )

    def is_gone(self, row: ManifestRow) -> bool:
        """Whether the item of an old row is no longer there."""
        document = self._id(row.key, row.within)
        return document not in self._kept and document not in self._amended and document not in self._written

    def _settle(self, step: Step) -> None:
        """An item that is not read."""
        item, row = step.item, step.previous
        if step.action is Action.SET_ASIDE:
            outcome = set_aside(item, self._limits)
            if not self._fall_back(step, outcome):
                self._write(new_row(self._partition, step, outcome, self._processors))
            self._count(outcome.status, fetched=False)
            return
        assert row is not None
        if step.action is Action.AMEND:
            self._amended[self._id(item.key)] = item_columns(item)
        else:
            self._kept.add(self._id(item.key))
        self._count(row.status, fetched=False)
        if step.action is Action.AMEND:
            self._amend_inside(item, lambda each: carried(each, item), fetched=False)
        else:
            for each in self._inside.of(item.key).values():
                self._kept.add(self._id(each.key, each.within))
                self._count(each.status, fetched=False)

    def _amend_inside(self, item: Item, change: Callable[[ManifestRow], dict[str, Any]], *, fetched: bool) -> None:
        """Keep the rows of what is inside a listed item, each with a change."""
        for row in self._inside.of(item.key).values():
            self._amended[self._id(row.key, row.within)] = change(row)
            self._count(row.status, fetched=fetched)

    def _expected_bytes(self, step: Step) -> int:
        return min(step.item.size or self._limits.max_item_bytes, self._limits.max_item_bytes)

    def _fetch_together(self, steps: Sequence[Step]) -> list[_Fetched]:
        """Read some items, in one go if there are several, and have them parsed. Called from worker threads."""
        if len(steps) == 1 or not isinstance(self._source, ReadMany):
            return [self._fetch(step) for step in steps]
        asked = {step.item.key: step for step in steps}
        answers: dict[str, _Fetched] = {}
        failed: Exception | None = None
        try:
            for item, answer in self._source.read_many([step.item for step in steps]):
                if item.key not in asked:
                    raise SourceError(f"{self._partition.connection}: its source answered for {item.key!r}, unasked")
                answers[item.key] = self._answered(asked[item.key], answer)
        except tuple(_FAILURES) as error:
            failed = error
        for key, step in asked.items():
            if key not in answers:
                answers[key] = self._fetch(step) if failed is None else self._answered(step, failed)
        return [answers[step.item.key] for step in steps]

    def _fetch(self, step: Step) -> _Fetched:
        """Read an item, and have it parsed."""
        answer: bytes | Exception
        try:
            with self._source.read(step.item) as stream:
                answer = stream.read(self._limits.max_item_bytes + 1)
        except tuple(_FAILURES) as error:
            answer = error
        return self._answered(step, answer)

    def _answered(self, step: Step, answer: bytes | Exception) -> _Fetched:
        """Have the bytes of an item parsed; record an error that is about the item, and raise any other."""
        most = self._limits.max_item_bytes
        if isinstance(answer, bytes):
            if len(answer) > most:
                return _Fetched(step, None, None, Status.TOO_LARGE, f"more than {most:,} bytes")
            return self._submit(step, answer)
        for kind, status in _FAILURES.items():
            if isinstance(answer, kind):
                return _Fetched(step, None, None, status, str(answer))
        raise answer

    def _submit(self, step: Step, data: bytes, opened: Opened | None = None) -> _Fetched:
        """Have bytes parsed, unless they are those of the last good version."""
        row, sha256 = step.previous, hashlib.sha256(data).hexdigest()
        if (
            row is not None
            and not step.reopen
            and (row.content_sha256, row.name, row.processor) == (sha256, step.item.name, self._processors.good)
            and row.status.good
            # What is inside something found inside another is opened again: its keys depend on what else is there.
            and not (step.within and row.holds)
        ):
            return _Fetched(step, sha256, None, row.status, same=True, size=len(data), opened=opened)
        parsing = self._parse(step.item.name, data, inside=step.within is not None, media_type=step.item.media_type)
        return _Fetched(step, sha256, parsing, Status.PARSED, size=len(data), opened=opened)

    def _place(self, fetched: _Fetched) -> _Opened | None:
        """Turn what was read into a row, or into an amendment of the row that is there; return what is inside it."""
        step, outcome = fetched.step, fetched.outcome()
        item = step.item
        opened = fetched.opened or Opened(item)
        attachments = outcome.document.attachments if outcome.document is not None else ()
        if refusal := opened.refusal(attachments):
            outcome, attachments = Outcome(Status.TOO_LARGE, detail=refusal), ()
        self._count(outcome.status, fetched=True)
        if step.within is None:
            self._bytes_read += fetched.size
        if fetched.same:
            changes = {**item_columns(item), "content_version": item.version, "stale": False}
            self._amended[self._id(item.key, step.within)] = changes
            if step.within is None:
                self._amend_inside(item, lambda row: carried(row, item), fetched=True)
        elif not self._fall_back(step, outcome):
            self._write(new_row(self._partition, step, outcome, self._processors, fetched.sha256))
        return _Opened(opened, opened.items(item, attachments)) if attachments else None

    def _take_out(self, opened: Opened, item: Item, data: bytes) -> _Fetched:
        root = opened.root.key
        step = Step(item, Action.FETCH, self._inside.of(root).get(item.key), within=root)
        if item.excluded is not None or item.problem is not None or len(data) > self._limits.max_item_bytes:
            outcome, sha256 = set_aside(item, self._limits), hashlib.sha256(data).hexdigest()
            return _Fetched(step, sha256, None, outcome.status, outcome.detail, opened=opened)
        return self._submit(step, data, opened)

    def _fall_back(self, step: Step, outcome: Outcome) -> bool:
        """Keep the last good version, marked stale, of an item that failed for a transient reason; False if there is none.

        The processor stays that of the kept content: when the bytes come back, a newer parser must see them.
        """
        if not outcome.status.transient or step.previous is None or step.previous.document_hash is None:
            return False
        changes = {"version": step.item.version, "status": outcome.status.value, "detail": outcome.detail, "stale": True}
        self._amended[self._id(step.item.key)] = changes
        self._amend_inside(step.item, lambda row: {"stale": True}, fetched=False)
        return True

    def _count(self, status: Status, *, fetched: bool) -> None:
        self.counts.listed += 1
        self.counts.add(status, fetched=fetched)

    def _write(self, row: dict[str, Any]) -> None:
        self._writer.row(row)
        self._written.add(row["document_id"])
        self.fingerprints.append(fingerprint(row))

    def _id(self, key: str, within: str | None = None) -> str:
        return identity.document_id(self._partition.type, self._partition.connection, key, within)
