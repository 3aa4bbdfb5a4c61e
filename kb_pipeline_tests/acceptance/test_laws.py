"""Laws 1 to 5 on worlds that hypothesis makes up: whatever happens, the release is what a rebuild would give.

A machine changes two folders, an archive and an inbox, lets reads and listings fail, changes the number of shards, stops
runs half-way, rolls back, and after every run compares what the pipeline holds with the test's own model of it. The
model of a partition is filled from a rebuild of the same sources into an empty storage; only an item whose read failed
for a passing reason may differ from it, by its last good version.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kb_pipeline import tables
from kb_pipeline.ingestion import checks
from kb_pipeline.ingestion.gc import collect
from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.sources.base import ItemCorrupt, ItemUnreadable, ItemVanished, ListingFailed
from kb_pipeline.sources.upload import Upload
from kb_pipeline.storage import identity
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Staged
from kb_pipeline_tests.acceptance.homes import KINDS, Homes
from kb_pipeline_tests.acceptance.world import World, orchestration, quick_folder

FOLDERS = ["alpha", "beta", "gamma"]
CONNECTIONS = [*FOLDERS, "inbox"]
NAMES = ["a.md", "b.md", "c.txt", "sub/d.md", "e.skip.md", "f.png"]
TEXTS = [
    "rivers run",
    "mountains stand",
    "",
    "# Rivers\n\nrivers run",
    "# One\n\nrivers run to the sea and they never come back\n\n# Two\n\nmountains stand where they are for a long time",
    "# One\n\nthe same words are here in both of the sections\n\n# One\n\nthe same words are here in both of the sections",
]
MOST_FILES = 7

Row = dict[str, Any]
Place = tuple[str, str]
"""(connection, name)"""


class Killed(BaseException):
    """Stands for the end of the process."""


@dataclass(frozen=True)
class File:
    """A file of the world. ``version`` changes exactly when the source must list another version."""

    text: str
    version: Any
    corrupt: bool = False


@dataclass(frozen=True)
class Entry:
    """What a partition's documents must hold of one item. ``rows`` is None when nothing of it is indexed."""

    version: Any
    outcome: str  # good, excluded, quarantined, failing
    rows: list[Row] | None


@dataclass
class Table:
    """What the tables of one partition must hold: its documents, and the rows of its embeddings once they were made."""

    documents: dict[str, Entry] = field(default_factory=dict)
    rows: list[Row] | None = None
    linked: bool = False


class Laws(RuleBasedStateMachine):
    """See the module. ``homes``: where the knowledge base of a story lies."""

    def __init__(self, homes: Homes) -> None:
        super().__init__()
        self.homes = homes

    @initialize()
    def build(self) -> None:
        self.opened = ExitStack()
        self.folder = self.opened.enter_context(quick_folder())
        self.world = World(self.folder / "world", home=self.opened.enter_context(self.homes()))
        self.files: dict[Place, File] = {}
        self.shards = dict.fromkeys(CONNECTIONS, 1)
        self.tables: dict[Partition, Table] = {}
        self.served: dict[Partition, list[Row]] = {}
        self.retries: set[Place] = set()
        self.embedded: set[str] = set()
        self.released: dict[str, pa.Table] = {}
        self.readers: list[tuple[Release, pa.Table]] = []
        self.pinned = False
        self.versions = iter(range(1_000_000))
        self.rebuilt: dict[tuple[str, str], list[Row]] | None = None

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            try:
                self.refresh_completely()
            finally:
                self.opened.close()

    # ------------------------------------------------------------------------------------------------ what happens

    def _write(self, place: Place, text: str, *, corrupt: bool = False) -> None:
        connection, name = place
        if connection == "inbox":
            aside = self.folder / name
            aside.write_text(text)
            source = self.world.workspace.source("inbox")
            assert isinstance(source, Upload)
            source.add(aside)
        else:
            self.world.write(connection, name, text)
        by_content = connection in ("gamma", "inbox")
        self.files[place] = File(text, text if by_content else next(self.versions), corrupt)
        self.rebuilt = None

    def _remove(self, place: Place) -> None:
        connection, name = place
        if connection == "inbox":
            source = self.world.workspace.source("inbox")
            assert isinstance(source, Upload)
            source.remove(name)
        else:
            self.world.delete(connection, name)
        del self.files[place]
        self.rebuilt = None

    @precondition(lambda self: len(self.files) < MOST_FILES)
    @rule(connection=st.sampled_from(CONNECTIONS), name=st.sampled_from(NAMES), text=st.sampled_from(TEXTS))
    def add_or_edit(self, connection: str, name: str, text: str) -> None:
        if connection == "inbox":
            name = name.rpartition("/")[2]
        self._write((connection, name), text)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), text=st.sampled_from(TEXTS))
    def edit(self, data: st.DataObject, text: str) -> None:
        self._write(self._some_file(data), text)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self._remove(self._some_file(data))

    @precondition(lambda self: self.files)
    @rule(data=st.data(), connection=st.sampled_from(FOLDERS), name=st.sampled_from(NAMES), keep=st.booleans())
    def move_rename_or_copy(self, data: st.DataObject, connection: str, name: str, keep: bool) -> None:
        origin = self._some_file(data)
        text = self.files[origin].text
        if (connection, name) != origin and (not keep or len(self.files) < MOST_FILES):
            self._write((connection, name), text)
            if not keep:
                self._remove(origin)

    @precondition(lambda self: any(connection in ("alpha", "beta") for connection, _ in self.files))
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        place = self._some_file(data, "alpha", "beta")
        self.world.touch(*place)
        self.files[place] = replace(self.files[place], version=next(self.versions))
        self.rebuilt = None

    @precondition(lambda self: any(connection in ("alpha", "beta") for connection, _ in self.files))
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """The bytes at the source go bad and stay bad."""
        place = self._some_file(data, "alpha", "beta")
        self._write(place, "damaged", corrupt=True)

    @precondition(lambda self: any(file.corrupt for file in self.files.values()))
    @rule(data=st.data())
    def repair_and_retry(self, data: st.DataObject) -> None:
        """The source delivers the same version again, now intact, and a person asks to read it again."""
        place = data.draw(st.sampled_from(sorted(place for place, file in self.files.items() if file.corrupt)))
        self.files[place] = replace(self.files[place], corrupt=False)
        self.retries.add(place)
        self.world.workspace.ledger.retries.request(place[0], [self.world.item_key(*place)])
        self.rebuilt = None

    @rule(connection=st.sampled_from(CONNECTIONS), shards=st.integers(1, 3))
    def change_shards(self, connection: str, shards: int) -> None:
        self.shards[connection] = shards
        self.world.reshard(connection, shards)
        self.rebuilt = None

    # ------------------------------------------------------------------------------------------------ runs

    @rule()
    def refresh(self) -> None:
        self._refresh(self.world.partitions())

    @rule(data=st.data())
    def refresh_some(self, data: st.DataObject) -> None:
        """Only some partitions run; or all do, but only up to a stage: the tables of one partition don't fit."""
        partitions = self.world.partitions()
        chosen = data.draw(st.lists(st.sampled_from(partitions), unique=True, min_size=1))
        self._refresh(chosen, stages=data.draw(st.sampled_from([3, 3, 2, 1, 0])))

    @precondition(lambda self: any(connection != "inbox" for connection, _ in self.files))
    @rule(data=st.data(), kind=st.sampled_from([ItemUnreadable, ItemVanished]))
    def refresh_while_reads_fail(self, data: st.DataObject, kind: type[Exception]) -> None:
        places = sorted(place for place in self.files if place[0] != "inbox")
        failing = set(data.draw(st.lists(st.sampled_from(places), unique=True, min_size=1)))
        self._refresh(self.world.partitions(), failing=failing, kind=kind)

    @rule(connection=st.sampled_from(FOLDERS), items=st.integers(0, 3))
    def refresh_while_a_listing_fails(self, connection: str, items: int) -> None:
        self.world.faults.listings = {connection: items}
        try:
            for partition in self.world.partitions(connection):
                with pytest.raises(ListingFailed):
                    self.world.documents(partition)
        finally:
            self.world.faults.listings = {}
        self._refresh([each for each in self.world.partitions() if each.connection != connection])

    @precondition(lambda self: self.released)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.released)))
        workspace = self.world.workspace
        with workspace.ledger.leases.acquire("corpus/knowledge_base", "a rollback") as lease:
            Releases(workspace.storage).rollback(lease, name)
        self.pinned = True
        assert self.world.release().to_arrow().equals(self.released[name])

    @precondition(lambda self: self.pinned)
    @rule()
    def unpin(self) -> None:
        Releases(self.world.storage).unpin()
        self.pinned = False
        self._refresh([])

    @precondition(lambda self: self.released)
    @rule()
    def collect_garbage(self) -> None:
        collect(self.world.workspace, keep=1_000)
        self.embedded &= {row["text"] for table in self.tables.values() for row in table.rows or []} | {
            row["text"] for table in self.tables.values() for entry in table.documents.values() for row in entry.rows or []
        }

    def refresh_completely(self) -> None:
        """At the end of every story everything heals, and the release equals a rebuild exactly."""
        Releases(self.world.storage).unpin()
        self.pinned = False
        self._refresh(self.world.partitions())
        rebuilt = [row for rows in self._rebuild().values() for row in rows]
        assert _sorted(self.world.rows()) == _sorted(rebuilt)
        texts = len(self.world.embedder.texts)
        again = self.world.run()
        assert not again.published
        assert len(self.world.embedder.texts) == texts

    # ------------------------------------------------------------------------------------------------ the model

    def _refresh(
        self,
        partitions: list[Partition],
        *,
        stages: int = 3,
        failing: set[Place] = frozenset(),  # type: ignore[assignment]
        kind: type[Exception] = ItemUnreadable,
    ) -> None:
        world = self.world
        self._set_faults(world)
        world.faults.reads.update({(c, world.item_key(c, n)): kind("the network is down") for c, n in failing})
        first_text = len(world.embedder.texts)
        run = orchestration()
        for partition in partitions:
            self._refresh_partition(partition, stages, failing, run)
        sent = world.embedder.texts[first_text:]
        if stages == 3:
            made = {row["text"] for each in partitions for row in self.tables[each].rows or []}
            assert sorted(sent) == sorted(made - self.embedded), "law 3: a text is embedded once, ever"
            self.embedded |= made
        else:
            assert sent == []
        world.faults.reads.clear()
        self._publish()

    def _set_faults(self, world: World) -> None:
        world.faults.reads = {
            (c, world.item_key(c, n)): ItemCorrupt("bad bytes") for (c, n), file in self.files.items() if file.corrupt
        }

    def _refresh_partition(self, partition: Partition, stages: int, failing: set[Place], run: Any) -> None:
        world = self.world
        if stages == 0:  # killed before anything was published
            with suppress(Killed), patch.object(Staged, "publish", side_effect=Killed):
                world.documents(partition, run)
            return
        expected, counts, reads = self._expect_documents(partition, failing)
        world.faults.read.clear()
        staged = world.documents(partition, run)
        if partition.connection != "inbox":
            read = [key for _, key in world.faults.read]
            assert sorted(read) == sorted(world.item_key(*place) for place in reads), "law 3: only what changed is read"
        listed = staged.counts["listed"]
        assert listed == len(expected)
        assert listed == sum(staged.counts[each] for each in ("indexed", "unchanged", "quarantined", "excluded"))
        assert {each: staged.counts[each] for each in counts} == counts
        manifest = world.manifest(partition)
        assert set(manifest) == {world.item_key(partition.connection, name) for name in expected}
        for name, entry in expected.items():
            row = manifest[world.item_key(partition.connection, name)]
            assert row["stale"] == (entry.outcome == "failing" and entry.rows is not None)
            assert (row["document_hash"] is None) == (entry.rows is None)
        assert checks.conservation(world.storage, partition).passed
        self.retries -= {(partition.connection, name) for name in expected}
        table = self.tables.setdefault(partition, Table())
        table.linked = table.linked and not staged.changed
        table.documents = expected
        if stages >= 2:
            world.chunks(partition, run)
            assert checks.every_document_chunked(world.storage, partition).passed
        if stages >= 3:
            world.embeddings(partition, run)
            table.rows = [row for entry in expected.values() for row in entry.rows or []]
            table.linked = True

    def _expect_documents(
        self, partition: Partition, failing: set[Place]
    ) -> tuple[dict[str, Entry], dict[str, int], list[Place]]:
        """What the manifest must say after a run, the counts, and the items that must be read."""
        rebuilt = self._rebuild()
        expected: dict[str, Entry] = {}
        counts = {"indexed": 0, "unchanged": 0, "quarantined": 0, "excluded": 0}
        reads: list[Place] = []
        for place, file in self.files.items():
            connection, name = place
            key = self.world.item_key(*place)
            if connection != partition.connection or not partition.holds(key):
                continue
            if name.endswith(".skip.md") and connection != "inbox":
                expected[name] = Entry(file.version, "excluded", None)
                counts["excluded"] += 1
                continue
            before = self._known(partition, name)
            good_rows = rebuilt[connection, key]
            if (
                before is not None
                and before.version == file.version
                and before.outcome != "failing"
                and place not in self.retries
            ):
                rows = good_rows if before.rows is not None else None
                expected[name] = replace(before, rows=rows)
                outcome = {"good": "unchanged"}.get(before.outcome, before.outcome)
                counts[outcome] += 1
                continue
            reads.append(place)
            if place in failing:
                stale = None if before is None or before.rows is None else _of(partition, before.rows)
                expected[name] = Entry(file.version, "failing", stale)
                counts["quarantined"] += 1
            elif file.corrupt:
                expected[name] = Entry(file.version, "quarantined", None)
                counts["quarantined"] += 1
            elif name.endswith(".png") and file.text:
                expected[name] = Entry(file.version, "excluded", None)
                counts["excluded"] += 1
            else:
                expected[name] = Entry(file.version, "good", good_rows)
                counts["indexed"] += 1
        return expected, counts, reads

    def _known(self, partition: Partition, name: str) -> Entry | None:
        """What was known of an item: by its partition, or by another layout of the connection before its first run."""
        if partition in self.tables:
            return self.tables[partition].documents.get(name)
        others = defaultdict(list)
        for each in self.tables:
            if each.connection == partition.connection:
                others[each.shards].append(each)
        whole = [found for shards, found in others.items() if len(found) == shards]
        found = whole or list(others.values())
        if len(found) > 1:
            found = [max(found, key=lambda each: max(self._written(p) for p in each))]
        return next(
            (self.tables[p].documents[name] for p in (found[0] if found else []) if name in self.tables[p].documents), None
        )

    def _written(self, partition: Partition) -> float:
        return self.world.storage.published_at("documents", [partition])

    def _rebuild(self) -> dict[tuple[str, str], list[Row]]:
        """The rows of a release made of the same sources in an empty storage, by connection and key."""
        if self.rebuilt is None:
            target = self.folder / "rebuild"
            other = self.world.with_storage(target)
            self._set_faults(other)
            other.run()
            rebuilt: dict[tuple[str, str], list[Row]] = defaultdict(list)
            for row in other.rows():
                rebuilt[row["connection"], row["key"]].append(row)
            self.rebuilt = rebuilt
            shutil.rmtree(target)
        return self.rebuilt

    def _publish(self) -> None:
        before = Releases(self.world.storage).current()
        result = self.world.publish()
        assert result.faults == []
        for connection in CONNECTIONS:
            self._expect_served(connection)
        if not self.served and before is None and result.release is None:
            return
        assert result.release is not None
        release = self.world.release()
        rows = release.to_arrow()
        if self.pinned:
            assert not result.published
            assert before is not None
            assert rows.equals(self.released[before.name])
        else:
            served = [row for rows in self.served.values() for row in rows]
            assert _sorted(rows.to_pylist()) == _sorted(served), "law 2: the release is what a rebuild gives"
            assert result.release.chunks == len(served)
        known = self.released.setdefault(result.release.name, rows)
        assert known.equals(rows), "a release never changes"
        self.readers = [*self.readers[-2:], (release, rows)]
        findings = self.world.chain.verify()
        assert [finding.sentence for finding in findings if not finding.passed] == []

    def _expect_served(self, connection: str) -> None:
        """Mirror a publication: which rows of a connection are served, and which tables were replaced by others."""
        layout = self.world.partitions(connection)
        on_disk = [each for each, table in self.tables.items() if each.connection == connection and table.rows is not None]
        others = {each.shards for each in on_disk} - {len(layout)}
        ready = [each for each in layout if each in self.tables and self.tables[each].linked]
        if others and len(ready) < len(layout):
            serving = {each.shards for each, rows in self.served.items() if each.connection == connection and rows}
            if serving and serving != {len(layout)}:
                return  # the old layout serves what it served
            if not serving:  # nothing was served yet: a whole layout goes first, then the one of the settings
                whole = [n for n in others if sum(each.shards == n for each in on_disk) == n]
                linked = [n for n in whole if all(self.tables[each].linked for each in on_disk if each.shards == n)]
                if linked or whole:
                    chosen = min(linked or whole)
                    ready = [each for each in on_disk if each.shards == chosen and self.tables[each].linked]
        for each in ready:
            self.served[each] = list(self.tables[each].rows or [])
        if set(ready) == set(layout):
            for mapping in (self.served, self.tables):
                for each in [each for each in mapping if each.connection == connection and each not in layout]:
                    del mapping[each]

    @invariant()
    def readers_see_what_they_opened(self) -> None:
        for release, rows in getattr(self, "readers", []):
            assert release.to_arrow().equals(rows)

    def _some_file(self, data: st.DataObject, *connections: str) -> Place:
        places = [place for place in self.files if not connections or place[0] in connections]
        return data.draw(st.sampled_from(sorted(places)))


def _of(partition: Partition, rows: list[Row]) -> list[Row]:
    """Rows as this partition holds them, when it takes them over from another layout: a row's hash covers all of it."""
    taken_over = []
    for row in rows:
        moved = {**row, "partition": partition.key}
        facts = [moved[name] for name in tables.CHUNKS.names if name != "row_hash"]
        taken_over.append({**moved, "row_hash": identity.digest("row", *facts)})
    return taken_over


def _sorted(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["chunk_id"])


def _lane(**options: Any) -> settings:
    checks_off = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(deadline=None, suppress_health_check=checks_off, print_blob=True, **options)


@pytest.mark.parametrize(("homes_of", "stories"), zip(KINDS, [20, 4, 4], strict=True), indirect=["homes_of"], ids=KINDS)
def test_the_laws_hold(homes_of: Homes, stories: int) -> None:
    """The normal lane: always the same stories."""
    lane = _lane(max_examples=stories, stateful_step_count=8, derandomize=True)
    run_state_machine_as_test(lambda: Laws(homes_of), settings=lane)


@pytest.mark.slow
@pytest.mark.parametrize("homes_of", KINDS, indirect=True)
def test_the_laws_hold_at_length(homes_of: Homes) -> None:
    """The slow lane: new stories every time."""
    run_state_machine_as_test(lambda: Laws(homes_of), settings=_lane(max_examples=200, stateful_step_count=12))
