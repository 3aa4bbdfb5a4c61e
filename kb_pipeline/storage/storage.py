"""What a knowledge base keeps, where, and which of its tables are current.

What belongs here: writing a table aside, making it current under a lease, opening the current one, removing what no reader
needs any more. What doesn't: Parquet (``storage.table``), how a file gets to its place (``storage.files``), what tables
mean.

A table's file lies at ``<type>/<asset>/<partition>/<fingerprint>.parquet`` and never changes. Which one is current is said
by a pointer in the ledger, moved once the file is in place: whoever reads the pointer sees the old table or the new one,
and whoever has the old one open reads on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from kb_pipeline.storage.files import Files, Folder, aside_path
from kb_pipeline.storage.lance import LanceLocation
from kb_pipeline.storage.partitions import Partition, parse_key
from kb_pipeline.storage.table import Table, TableWriter, is_open

if TYPE_CHECKING:
    from kb_pipeline.ledger.leases import Lease
    from kb_pipeline.ledger.ledger import Ledger
    from kb_pipeline.ledger.pointers import Pointer, Pointers

STAGING = "staging"
"""The folder on this machine where files are written before they are handed in; a file that stays there goes with gc."""
LEDGER = "ledger.sqlite"
"""The ledger, unless kb.yaml says that it lies elsewhere."""
KNOWLEDGE_BASE = "corpus/knowledge_base"
"""The folder of the index, the releases and the manifests kept with them."""
_SUFFIX = ".parquet"
_logger = logging.getLogger(__name__)


class Storage:
    """All that a knowledge base keeps: files in one place, and in the ledger which tables are current.

    ``local`` is a folder on this machine; of a storage in a folder, that folder. Cheap to build: the ledger is asked for
    when a pointer is.
    """

    def __init__(self, files: Files, ledger: Callable[[], Ledger], local: Path) -> None:
        self.files = files
        self.local = local
        self._ledger = ledger

    @classmethod
    def of_folder(cls, root: Path) -> Storage:
        """The storage in a local folder, with its ledger in it."""

        def ledger() -> Ledger:
            from kb_pipeline.ledger.ledger import Ledger  # imports SQLAlchemy: slow, and a reader of releases needs none

            return Ledger.of_file(root / LEDGER)

        return cls(Folder(root, root / STAGING), ledger, root)

    @cached_property
    def ledger(self) -> Ledger:
        """Which tables are current, and who writes what."""
        return self._ledger()

    @property
    def pointers(self) -> Pointers:
        """Which tables are current."""
        return self.ledger.pointers

    @property
    def staging(self) -> Path:
        """Where files are written before they are handed in; of a storage in a folder, on the same file system."""
        return self.local / STAGING

    @property
    def vectors_location(self) -> LanceLocation:
        """LanceDB database of the content-addressed vector store."""
        return self.files.lance("vectors")

    @property
    def index_location(self) -> LanceLocation:
        """LanceDB database of the index."""
        return self.files.lance(f"{KNOWLEDGE_BASE}/index")

    def pointer(self, asset: str, partition: Partition) -> Pointer | None:
        """What is current of an asset's partition: of a stage, or of ``inventory``, whose partitions are connections."""
        return self.pointers.get(f"{partition.type}/{asset}", partition.key)

    def open(self, asset: str, partition: Partition) -> Table | None:
        """The current table; None when nothing was published, or when its file is gone, and has to be made anew."""
        pointer = self.pointer(asset, partition)
        while pointer is not None:
            try:
                return self.table(pointer)
            except FileNotFoundError:
                found, pointer = pointer, self.pointer(asset, partition)
                if pointer == found:
                    _logger.warning("%s is gone from the storage and will be made anew", self.files.uri(file_of(found)))
                    return None
        return None

    def require(self, asset: str, partition: Partition) -> Table:
        """The current table. Raises FileNotFoundError when there is none."""
        table = self.open(asset, partition)
        if table is None:
            raise FileNotFoundError(
                f"{partition.type}/{asset} of {partition.key} was never made: "
                f"run `kb materialize {partition.type}/{asset} --partition {partition.key}`"
            )
        return table

    def current(self, asset: str, partition: Partition) -> Pointer | None:
        """What is current of an asset's partition, if its file is there, too; None when it has to be made (anew)."""
        pointer = self.pointer(asset, partition)
        return pointer if pointer is not None and self.files.find(file_of(pointer)) is not None else None

    def table(self, pointer: Pointer) -> Table:
        """The table that a pointer names, current or not. Raises FileNotFoundError when it was removed since."""
        key = file_of(pointer)
        return Table(self.files.open(key), self.files.uri(key), pointer)

    def partitions(self, asset: str, type_: str | None = None) -> list[Partition]:
        """Every partition that has a table of this asset, of one type or of all."""
        wanted = f"{type_}/{asset}" if type_ is not None else None
        found = self.pointers.all(wanted)
        return sorted(partition_of(each) for each in found if wanted or each.asset.endswith(f"/{asset}"))

    def layouts(self, asset: str, type_: str, connection: str) -> dict[int, list[Partition]]:
        """Number of shards -> the partitions that have a table of this asset. More than one after a change of shards."""
        found: dict[int, list[Partition]] = {}
        for each in self.partitions(asset, type_):
            if each.connection == connection:
                found.setdefault(each.shards, []).append(each)
        return found

    def published_at(self, asset: str, partitions: Iterable[Partition]) -> float:
        """When the latest of some partitions' tables became current, in seconds since the epoch; 0 when there is none."""
        pointers = (self.pointer(asset, each) for each in partitions)
        return max((each.published_at for each in pointers if each is not None), default=0.0)

    @contextmanager
    def write(self, name: str, schema: pa.Schema) -> Iterator[TableWriter]:
        """Write a table aside. What isn't handed in when the process ends stays in the staging folder until gc."""
        writer = TableWriter(aside_path(self.staging, name), schema)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise

    def staged(
        self, asset: str, partition: Partition, writer: TableWriter, counts: Mapping[str, int], *, recipe: str = ""
    ) -> Staged:
        """A table that ``write`` wrote and that said what it is, ready to become current."""
        from kb_pipeline.ledger.pointers import Pointer

        assert writer.described is not None
        what = writer.described
        pointer = Pointer(
            f"{partition.type}/{asset}", partition.key, what.fingerprint, what.link, recipe, writer.rows, time.time()
        )
        return Staged(self, pointer, writer.path, counts)

    def drop(self, lease: Lease, asset: str, partition: Partition) -> None:
        """Let no table of a partition be current any more, and remove their files at once. Raises LeaseLost."""
        name = f"{partition.type}/{asset}"
        self.pointers.drop(lease, name, partition.key)
        gone = self.pointers.superseded(asset=name, partition=partition.key)
        self.files.delete(key_of(name, partition.key, each.fingerprint) for each in gone)
        self.pointers.forget(lease, gone)

    def remove_superseded(self) -> int:
        """Remove the files of tables that stopped being current long enough ago; returns how many.

        What somebody is writing just now waits for the next time, as does what this process has open.
        """
        from kb_pipeline.ledger.errors import LeaseHeld

        removed = 0
        waiting = self.pointers.superseded(seconds=self.files.grace)
        for (asset, partition), _ in groupby(waiting, key=lambda each: (each.asset, each.partition)):
            try:
                lease = self.ledger.leases.acquire(f"{asset}/{partition}", "removing superseded tables")
            except LeaseHeld:
                continue
            with lease:
                # Only now: whoever held the lease before may have made one of them current again.
                found = self.pointers.superseded(seconds=self.files.grace, asset=asset, partition=partition)
                keys = {key_of(asset, partition, each.fingerprint): each for each in found}
                gone = {key: each for key, each in keys.items() if not is_open(self.files.uri(key))}
                self.files.delete(gone)
                self.pointers.forget(lease, gone.values())
                removed += len(gone)
        return removed


@dataclass(frozen=True, slots=True)
class Staged:
    """A table that is written, but not current yet. ``aside`` is None when the current one is already right."""

    storage: Storage
    pointer: Pointer
    aside: Path | None
    counts: Mapping[str, int]

    @property
    def changed(self) -> bool:
        """Whether another table becomes current."""
        return self.aside is not None

    @property
    def fingerprint(self) -> str:
        """Hash of the table's logical content."""
        return self.pointer.fingerprint

    def open(self) -> Table:
        """The table, for reading: before and after it becomes current."""
        if self.aside is not None and self.aside.exists():
            return Table(self.aside, str(self.aside), self.pointer)
        return self.storage.table(self.pointer)

    def publish(self, lease: Lease) -> None:
        """Make the table current, if the lease still holds. Raises LeaseLost.

        The file comes first, whole and for good, however long that takes; then the pointer moves in a moment. A file of
        this fingerprint that is there already has the same content, and stays.
        """
        if self.aside is None:
            return
        try:
            self.storage.files.keep(file_of(self.pointer), self.aside)
            self.storage.pointers.move(lease, replace(self.pointer, published_at=time.time()))
        finally:
            self.aside.unlink(missing_ok=True)


def key_of(asset: str, partition: str, fingerprint: str) -> str:
    """Key of a table's file. ``asset`` is like ``local_directory/documents``, ``partition`` a partition key."""
    return f"{asset}/{partition}/{fingerprint}{_SUFFIX}"


def file_of(pointer: Pointer) -> str:
    """Key of the file that a pointer names."""
    return key_of(pointer.asset, pointer.partition, pointer.fingerprint)


def partition_of(pointer: Pointer) -> Partition:
    """The partition of a pointer."""
    return parse_key(pointer.asset.partition("/")[0], pointer.partition)
