"""One orchestration over several connections: what a failure of one may and may not do to the others."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import dagster as dg
import pytest

from kb_pipeline.findings import Finding, Severity
from kb_pipeline.flow.errors import ErrorClass
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base import gate
from kb_pipeline.knowledge_base.candidates import Candidate
from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.orchestrator import Options, Orchestrator, Report
from kb_pipeline.settings.load import load
from kb_pipeline.sources.base import Item, ItemUnreadable, ListingFailed
from kb_pipeline.sources.local_directory import LocalDirectory
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage
from kb_pipeline.tables import values
from kb_pipeline_tests.damage import double
from kb_pipeline_tests.defs.conftest import HashEmbedder


class OtherEmbedder(HashEmbedder):
    """Another model: other vectors of another length."""

    model_id = "fedcba9876543210" * 2
    dimension = 6


def orchestrate(root: Path, instance: dg.DagsterInstance, embedder: HashEmbedder) -> Report:
    # One at a time: an ephemeral instance lives in memory, in a database that one thread may use.
    options = Options(max_concurrent_sources=1)
    return Orchestrator(load(root / "kb.yaml"), instance, resources={"embedder": embedder}).run(options)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two folders with a file each."""
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "note.md").write_text(f"# {name}\n\nSaid in the {name}.\n")
    sources = [f"  - {{name: {name}, type: local_directory, path: ./{name}}}" for name in ("north", "south")]
    (tmp_path / "kb.yaml").write_text("\n".join(["sources:", *sources, ""]))
    return tmp_path


def test_a_change_of_model_does_not_wait_for_a_dead_connection(project: Path) -> None:
    storage = Storage.of_folder(project / ".kb")
    with dg.DagsterInstance.ephemeral() as instance:
        before = orchestrate(project, instance, HashEmbedder())
        assert before.errors == []
        shutil.rmtree(project / "south")
        report = orchestrate(project, instance, OtherEmbedder())
    assert report.status == "completed_with_issues"
    assert [fault.source for fault in report.errors] == ["south"]
    assert report.sources["south"].stale
    assert report.sources["south"].embedded == 1, "what is stored of it was embedded anew"
    current = Releases(storage).current()
    assert current is not None
    assert current.model_id == OtherEmbedder.model_id
    keys = values(Release(storage, current).to_arrow(["connection"]).column(0))
    assert sorted(set(keys)) == ["north", "south"]


def test_damage_keeps_the_old_release_and_the_report_says_what_failed(project: Path) -> None:
    storage = Storage.of_folder(project / ".kb")
    with dg.DagsterInstance.ephemeral() as instance:
        assert orchestrate(project, instance, HashEmbedder()).release == "release-1"
        # A row is gone from the index, and the table it must come back from holds it twice.
        storage.index_location.open(TABLE).delete("connection = 'north'")
        double(storage.local, "north")
        report = orchestrate(project, instance, HashEmbedder())
    assert (report.status, report.release) == ("failed", "release-1")
    (fault,) = report.errors
    assert fault.source == "release"
    assert fault.message.startswith("index_equals_tables: the index differs from its tables: north: ")
    keys = values(Release.open(storage).to_arrow(["connection"]).column(0))
    assert sorted(keys) == ["north", "south"]


def few_words(storage: Storage, made: Candidate) -> Finding:
    """Says enough."""
    return Finding(False, "few words", severity=Severity.WARNING)


def test_a_warning_is_in_the_report_and_the_release_comes_about(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CHECKS", (*gate.CHECKS, few_words))
    with dg.DagsterInstance.ephemeral() as instance:
        report = orchestrate(project, instance, HashEmbedder())
    assert (report.status, report.release, report.errors) == ("completed_with_issues", "release-1", [])
    assert report.as_dict()["warnings"] == [{"source": "release", "message": "few_words: few words"}]


def test_a_change_of_model_that_waits_is_told(project: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        orchestrate(project, instance, HashEmbedder())
        settings = load(project / "kb.yaml")
        options = Options(connections=["north"], max_concurrent_sources=1)
        report = Orchestrator(settings, instance, resources={"embedder": OtherEmbedder()}).run(options)
    assert (report.status, report.release) == ("completed_with_issues", "release-1")
    (warning,) = report.warnings
    assert "the new release waits for the vectors of local_directory/south" in warning.message


def listing_first(monkeypatch: pytest.MonkeyPatch, name: str, first: Callable[[], None]) -> None:
    """Have the folder ``name`` do something before it is listed."""
    original = LocalDirectory.list

    def list_(self: LocalDirectory) -> Iterator[Item]:
        if self.root.name == name:
            first()
        yield from original(self)

    monkeypatch.setattr(LocalDirectory, "list", list_)


def reading_first(monkeypatch: pytest.MonkeyPatch, first: Callable[[Path], None]) -> None:
    """Have every folder do something before a file is read, given its path."""
    original = LocalDirectory.read

    @contextmanager
    def read(self: LocalDirectory, item: Item) -> Iterator[BinaryIO]:
        first(self.root / item.key)
        with original(self, item) as opened:
            yield opened

    monkeypatch.setattr(LocalDirectory, "read", read)


def test_what_the_others_brought_is_published_while_one_can_only_wait(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage.of_folder(project / ".kb")
    seen: list[str] = []

    def wait_for_a_release() -> None:
        deadline = time.monotonic() + 60
        while (current := Releases(storage).current()) is None and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        seen.append(current.name if current is not None else "none")

    listing_first(monkeypatch, "south", wait_for_a_release)
    with dg.DagsterInstance.ephemeral() as instance:
        report = orchestrate(project, instance, HashEmbedder())
    assert seen == ["release-1"], "nothing was published while one connection waited"
    assert (report.errors, report.status, report.release) == ([], "completed", "release-2")
    current = Releases(storage).current()
    assert current is not None
    assert sorted(set(Release(storage, current).to_arrow(["connection"]).column(0).to_pylist())) == ["north", "south"]


def test_a_throttled_connection_lends_its_turn(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time: the first waits until the second is done, which it would never be if the first kept its turn."""
    lines = ["sources:", *(f"  - {{name: {name}, type: local_directory, path: ./{name}}}" for name in ("north", "south"))]
    (project / "kb.yaml").write_text("\n".join([*lines, "errors: {backoff_seconds: 0.01, max_backoff_seconds: 0.05}", ""]))
    storage = Storage.of_folder(project / ".kb")
    refused: list[str] = []

    def throttle(path: Path) -> None:
        other = Partition("local_directory", "south" if path.parent.name == "north" else "north")
        with lock:
            mine = not refused or refused[0] == path.parent.name
            if mine and not storage.pointer("documents", other):
                refused.append(path.parent.name)
                raise ItemUnreadable("slow down", kind=ErrorClass.RATE_LIMITING, retry_after=0.05)

    lock = threading.Lock()
    reading_first(monkeypatch, throttle)
    with dg.DagsterInstance.ephemeral() as instance:
        report = orchestrate(project, instance, HashEmbedder())
    assert refused
    assert (report.errors, report.status) == ([], "completed")
    assert [report.sources[name].indexed for name in ("north", "south")] == [1, 1]


def test_every_fault_of_a_connection_with_shards_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "kb.yaml").write_text(
        "sources:\n  - {name: north, type: local_directory, path: ./north, shards: 3}\n"
        "errors: {strategies: {permission: {then: fail}}}\n"
    )
    shards = {Partition("local_directory", "north", number, 3) for number in (1, 2, 3)}
    keys: dict[str, str] = {}
    for number in range(60):
        (project / f"north/{number}.md").write_text(f"# {number}\n\nNote {number}.\n")
        (shard,) = (each for each in shards if each.holds(f"{number}.md"))
        keys[f"{number}.md"] = shard.key

    def refuse(path: Path) -> None:
        key = keys.get(path.name, "")
        if key != "north.002-of-003":
            raise ItemUnreadable(f"no access to {key or 'a note'}", kind=ErrorClass.PERMISSION)

    reading_first(monkeypatch, refuse)
    (project / "north/note.md").unlink()
    with dg.DagsterInstance.ephemeral() as instance:
        report = orchestrate(project, instance, HashEmbedder())
    assert sorted(fault.message.partition(":")[0] for fault in report.errors) == ["north.001-of-003", "north.003-of-003"]
    assert {fault.error_class for fault in report.errors} == {"permission"}
    faults = Workspace(load(project / "kb.yaml")).ledger.outcomes.outcome("local_directory", "north").faults
    assert [fault.partition for fault in faults] == ["north.001-of-003", "north.003-of-003"]


def test_what_all_shards_fail_for_is_told_once_and_tried_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "kb.yaml").write_text("sources:\n  - {name: north, type: local_directory, path: ./north, shards: 3}\n")
    asked: list[None] = []

    def fail() -> None:
        asked.append(None)
        raise ListingFailed("no token", kind=ErrorClass.AUTHENTICATION)

    listing_first(monkeypatch, "north", fail)
    with dg.DagsterInstance.ephemeral() as instance:
        report = orchestrate(project, instance, HashEmbedder())
        inventory = instance.get_latest_materialization_event(dg.AssetKey(["local_directory", "inventory"]))
    assert [(fault.source, fault.message) for fault in report.errors] == [("north", "no token")]
    assert len(asked) == 1
    assert inventory is None, "no listing, no inventory"


def test_the_inventory_is_recorded_with_what_was_listed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    for name in ("north", "south"):
        listing_first(monkeypatch, name, lambda name=name: listed.append(name))  # type: ignore[misc]
    with dg.DagsterInstance.ephemeral() as instance:
        orchestrate(project, instance, HashEmbedder())
        event = instance.get_latest_materialization_event(dg.AssetKey(["local_directory", "inventory"]))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["connections"].value == {"north": 1, "south": 1}
    assert sorted(listed) == ["north", "south"], "a connection was listed twice"
