"""Sensors and schedules, tick by tick, as Dagster's daemon evaluates them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from kb_pipeline.defs import sensors
from kb_pipeline.sources.base import Item
from kb_pipeline.sources.capabilities import Change, ChangePage
from kb_pipeline.sources.local_directory import LocalDirectory
from kb_pipeline.storage.partitions import Partition
from kb_pipeline_tests.defs.conftest import Project

CHAIN = ("local_directory/documents", "local_directory/chunks", "local_directory/embeddings")


class Daemon:
    """Evaluates one sensor as the daemon does: registers the keys it asks for, and keeps its cursor."""

    def __init__(self, project: Project, name: str = "local_directory_discovery") -> None:
        self.project = project
        self.definitions = project.definitions
        self.name = name
        self.cursor: str | None = None
        self.said = ""
        self.tags: dict[str, str] = {}
        """Tags of the last run asked for."""

    def restart(self) -> None:
        """A new process: definitions are loaded anew, the cursor stays."""
        self.definitions = self.project.definitions

    def tick(self) -> list[str]:
        """Partition keys (or job names) of the runs asked for."""
        self.project.at_rest()
        context = dg.build_sensor_context(instance=self.project.instance, cursor=self.cursor, definitions=self.definitions)
        result = self.definitions.resolve_sensor_def(self.name)(context)
        if isinstance(result, dg.SkipReason):
            self.said = str(result.skip_message)
            return []
        assert isinstance(result, dg.SensorResult)
        for request in result.dynamic_partitions_requests or []:
            assert isinstance(request, dg.AddDynamicPartitionsRequest)
            self.project.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        self.cursor = result.cursor if result.cursor is not None else self.cursor
        reason = result.skip_reason
        self.said = str(reason.skip_message if isinstance(reason, dg.SkipReason) else reason or "")
        for each in result.run_requests or []:
            self.tags = dict(each.tags)
        known = self.project.instance.get_dynamic_partitions("kb_local_directory")
        asked = [request.partition_key or "" for request in result.run_requests or []]
        assert all(key in known for key in asked if key), "a run needs its key beforehand"
        assert len({request.run_key for request in result.run_requests or []}) == len(asked)
        return asked


def settle(project: Project, *names: str) -> None:
    """Bring partitions up to date."""
    for name in names:
        assert project.run(*CHAIN, partition=name).success


@pytest.fixture
def two(project: Project) -> Project:
    """Two folders, both up to date."""
    settle(project, *project.folders(2))
    return project


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The sensors' clock: seconds it is ahead of the real one; its monotonic time goes on a second at every look."""
    ahead = [0.0]
    looks = [0.0]

    class Clock:
        @staticmethod
        def time() -> float:
            return time.time() + ahead[0]

        @staticmethod
        def monotonic() -> float:
            looks[0] += 1.0
            return looks[0]

    monkeypatch.setattr(sensors, "time", Clock)
    return ahead


def test_new_connections_are_registered_and_asked_for(project: Project) -> None:
    project.write("fresh/a.md", "# A\n")
    project.instance.delete_dynamic_partition("kb_local_directory", "handbook")
    daemon = Daemon(project)
    assert daemon.tick() == ["handbook"]
    assert "handbook" in project.instance.get_dynamic_partitions("kb_local_directory")


def test_only_a_changed_connection_is_asked_for_and_only_once(two: Project) -> None:
    daemon = Daemon(two)
    assert daemon.tick() == []
    assert daemon.said == "nothing changed"

    two.write("c1/new.md", "# New\n")
    assert daemon.tick() == ["c1"]
    assert daemon.tick() == [], "the same change was asked for twice"
    daemon.restart()
    assert daemon.tick() == [], "a restart forgot what was asked for"

    two.write("c1/newer.md", "# Newer\n")
    assert daemon.tick() == ["c1"], "another change is another run"
    settle(two, "c1")
    assert daemon.tick() == []
    (two.root / "c0/note.md").unlink()
    assert daemon.tick() == ["c0"], "a deletion is a change"


def test_a_connection_with_a_change_feed_is_asked_instead_of_listed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    listed = LocalDirectory.list

    def changes(self: LocalDirectory, cursor: str | None) -> ChangePage:
        items = {item.key: item for item in listed(self)}
        page = [Change(key, items.get(key)) for key in told[int(cursor or len(told)) :]]
        return ChangePage(page, str(len(told)))

    def refuse(self: LocalDirectory) -> Iterator[Item]:
        raise AssertionError("listed whole")

    monkeypatch.setattr(LocalDirectory, "changes", changes, raising=False)
    settle(project, *project.folders(2))
    monkeypatch.setattr(LocalDirectory, "list", refuse)
    daemon = Daemon(project)
    assert daemon.tick() == []
    assert daemon.said == "nothing changed"
    project.write("c1/new.md", "# New\n")
    told.append("new.md")
    assert daemon.tick() == ["c1"]
    assert daemon.tick() == [], "the same change was asked for twice"
    settle(project, "c1")
    assert daemon.tick() == []
    assert daemon.said == "nothing changed"


def test_a_change_whose_run_failed_is_asked_for_again_later(two: Project, clock: list[float]) -> None:
    daemon = Daemon(two)
    two.write("c1/new.md", "# New\n")
    assert daemon.tick() == ["c1"]
    clock[0] = sensors.RETRY_SECONDS - 60
    assert daemon.tick() == []
    clock[0] = sensors.RETRY_SECONDS + 60
    assert daemon.tick() == ["c1"]


def test_no_run_is_asked_for_while_one_is_in_progress(two: Project) -> None:
    job = two.definitions.resolve_job_def("local_directory_chain")
    run = two.instance.create_run_for_job(
        job_def=job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "c1", "kb/embeds": "true"}
    )
    two.write("c0/new.md", "# New\n")
    two.write("c1/new.md", "# New\n")
    daemon = Daemon(two)
    assert daemon.tick() == ["c0"]
    two.instance.report_run_canceled(run)
    assert daemon.tick() == ["c1"]


def test_a_dead_connection_is_named_and_stops_no_other(project: Project) -> None:
    project.folders(3, dead=[0])
    daemon = Daemon(project)
    assert daemon.tick() == ["c1", "c2"]
    settle(project, "c1", "c2")
    assert daemon.tick() == []
    assert "c0: " in daemon.said
    project.write("c0/note.md", "# Back\n")
    assert daemon.tick() == ["c0"]


def test_a_connection_that_fails_in_a_strange_way_stops_no_other(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LocalDirectory.list

    def strange(self: LocalDirectory) -> Iterator[object]:
        if self.root.name == "c0":
            raise ZeroDivisionError("strange")
        return original(self)

    monkeypatch.setattr(LocalDirectory, "list", strange)
    two.write("c1/new.md", "# New\n")
    assert Daemon(two).tick() == ["c1"]


@pytest.mark.parametrize("restart", [False, True], ids=["same process", "restarted"])
def test_a_listing_longer_than_a_tick_goes_on_where_it_stopped(
    project: Project, clock: list[float], monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    for number in range(40):
        project.write(f"c0/n{number:02}.md", f"# {number}\n")
    project.folders(2)
    settle(project, "c0", "c1")
    project.write("c0/n99.md", "# The change, at the end of a long listing\n")
    project.write("c1/new.md", "# New\n")
    assert clock == [0.0]
    monkeypatch.setattr(sensors, "TICK_SECONDS", 3.0)
    monkeypatch.setattr(sensors, "DEADLINE_ITEMS", 5)
    listed: list[str] = []
    original = LocalDirectory.list

    def counted(self: LocalDirectory) -> Iterator[object]:
        listed.append(self.root.name)
        yield from original(self)

    monkeypatch.setattr(LocalDirectory, "list", counted)
    daemon = Daemon(project)
    assert daemon.tick() == []
    assert "c0: still being listed, up to n" in daemon.said
    if restart:
        daemon.restart()
    asked: list[str] = []
    said: list[str] = []
    while set(asked) != {"c0", "c1"} and len(said) < 20:
        asked += daemon.tick()
        said.append(daemon.said)
    assert asked == ["c0", "c1"], said
    assert len(said) > 1
    if not restart:
        assert listed[:2] == ["c0", "c1"], "the listing began again"


def test_a_file_that_comes_after_a_resumed_listing_is_noticed(
    project: Project, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        project.write(f"c0/n{number:02}.md", f"# {number}\n")
    project.folders(1)
    settle(project, "c0")
    monkeypatch.setattr(sensors, "TICK_SECONDS", 3.0)
    monkeypatch.setattr(sensors, "DEADLINE_ITEMS", 10)
    daemon = Daemon(project)
    assert daemon.tick() == []
    assert "still being listed" in daemon.said
    project.write("c0/a-first.md", "# Sorts before the place where the listing stands\n")
    asked: list[str] = []
    for _ in range(20):
        asked = daemon.tick()
        if asked:
            break
    assert asked == ["c0"]
    assert clock == [0.0]


def test_one_tick_asks_for_a_bounded_number_of_runs(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "MAX_REQUESTS", 2)
    project.folders(5)
    daemon = Daemon(project)
    ticks = [daemon.tick() for _ in range(3)]
    assert [len(each) for each in ticks] == [2, 2, 1]
    assert sorted(itertools.chain(*ticks)) == [f"c{number}" for number in range(5)]


def test_the_corpus_is_published_once_its_partitions_are_at_rest(project: Project, clock: list[float]) -> None:
    project.configure(
        "{name: handbook, type: local_directory, path: ./docs}",
        "{name: gone, type: local_directory, path: ./gone}",
        more="sensors: {debounce_seconds: 60}",
    )
    daemon = Daemon(project, "corpus_trigger")
    clock[0] = 3600.0
    assert daemon.tick() == []
    assert daemon.said == "no partition is complete yet"
    clock[0] = 0.0
    project.chain("local_directory", "handbook")
    assert daemon.tick() == []
    assert daemon.said == "partitions are still changing"
    clock[0] = 61.0
    assert daemon.tick() == [""], "a partition that was never made must not hold the release up"
    assert daemon.tick() == []
    assert daemon.said == "no partition changed"

    project.chain("local_directory", "handbook")
    assert daemon.tick() == [], "nothing changed, but a release was asked for"
    project.write("docs/tide.md", "# Tide\n\nAnother text.\n")
    assert project.run("local_directory/documents", "local_directory/chunks", partition="handbook").success
    assert daemon.tick() == [], "a partition half way through its chain is no reason for a release"
    assert project.run("local_directory/embeddings", partition="handbook").success
    clock[0] = 0.0
    assert daemon.tick() == []
    assert daemon.said == "partitions are still changing"
    clock[0] = 30.0
    project.write("docs/wind.md", "# Wind\n\nAnother text.\n")
    project.chain("local_directory", "handbook")
    storage = project.workspace.storage
    embeddings = storage.pointer("embeddings", Partition("local_directory", "handbook"))
    assert embeddings is not None
    with storage.ledger.leases.acquire("t", "a test") as lease:
        storage.pointers.move(lease, replace(embeddings, published_at=time.time() + 30))
    clock[0] = 61.0
    assert daemon.tick() == [], "the second change came 31 s ago"
    clock[0] = 100.0
    assert daemon.tick() == [""]


def test_no_release_is_asked_for_while_one_is_under_way(project: Project) -> None:
    project.configure("{name: handbook, type: local_directory, path: ./docs}", more="sensors: {debounce_seconds: 0}")
    project.chain("local_directory", "handbook")
    job = project.definitions.resolve_job_def("corpus_release")
    run = project.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED)
    daemon = Daemon(project, "corpus_trigger")
    assert daemon.tick() == []
    assert daemon.said == "a release is under way"
    project.instance.report_run_canceled(run)
    assert daemon.tick() == [""]


def test_a_release_that_failed_is_asked_for_again_later(project: Project, clock: list[float]) -> None:
    project.configure("{name: handbook, type: local_directory, path: ./docs}", more="sensors: {debounce_seconds: 0}")
    project.chain("local_directory", "handbook")
    daemon = Daemon(project, "corpus_trigger")
    assert daemon.tick() == [""]
    job = project.definitions.resolve_job_def("corpus_release")
    run = project.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED, tags=daemon.tags)
    project.instance.report_run_failed(run)
    assert daemon.tick() == [], "asked again at once: a release that can't succeed would run for ever"
    clock[0] = sensors.RETRY_SECONDS + 60
    assert daemon.tick() == [""]
    run = project.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.SUCCESS, tags=daemon.tags)
    clock[0] *= 3
    assert daemon.tick() == []
    assert daemon.tick() == []


def test_an_unchanged_release_is_confirmed_before_it_counts_as_out_of_date(project: Project, clock: list[float]) -> None:
    more = "sensors: {debounce_seconds: 0}\nfreshness: {hours: 12}"
    project.configure("{name: handbook, type: local_directory, path: ./docs}", more=more)
    project.chain("local_directory", "handbook")
    daemon = Daemon(project, "corpus_trigger")
    assert daemon.tick() == [""]
    clock[0] = 3.9 * 3600
    assert daemon.tick() == []
    clock[0] = 4.1 * 3600
    assert daemon.tick() == [""], "a third of the time has passed"
    assert daemon.tick() == []
    clock[0] = 8.3 * 3600
    assert daemon.tick() == [""]


def test_everything_runs_by_itself_unless_switched_off(project: Project) -> None:
    repository = project.definitions.get_repository_def()
    assert {each.name for each in repository.sensor_defs} >= {
        "local_directory_discovery",
        "local_zip_discovery",
        "upload_discovery",
        "corpus_trigger",
    }
    assert {each.default_status for each in repository.sensor_defs} == {dg.DefaultSensorStatus.RUNNING}
    assert {each.default_status for each in repository.schedule_defs} == {dg.DefaultScheduleStatus.RUNNING}


def test_the_nightly_schedule_runs_every_partition(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"telemetry": {"enabled": False}}) as instance:
        nightly(Project(tmp_path / "project", instance))


def nightly(project: Project) -> None:
    project.folders(2, dead=[1])
    project.configure(
        "{name: whole, type: local_directory, path: ./c0}",
        "{name: split, type: local_directory, path: ./c1, shards: 2}",
        more="schedule: {cron: '30 4 * * *', timezone: Europe/Berlin}",
    )
    schedule = project.definitions.resolve_schedule_def("local_directory_nightly")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 4 * * *", "Europe/Berlin")
    when = datetime(2026, 1, 2, 3, 30, tzinfo=UTC)
    context = dg.build_schedule_context(instance=project.instance, scheduled_execution_time=when)
    requests = schedule(context)
    assert isinstance(requests, list)
    assert [request.partition_key for request in requests] == ["whole", "split.001-of-002", "split.002-of-002"]
    again = schedule(dg.build_schedule_context(instance=project.instance, scheduled_execution_time=when))
    assert isinstance(again, list)
    assert [request.run_key for request in again] == [request.run_key for request in requests]


def test_the_cursor_is_small_json(two: Project) -> None:
    daemon = Daemon(two)
    daemon.tick()
    assert daemon.cursor is not None
    assert isinstance(json.loads(daemon.cursor), dict)
    assert len(daemon.cursor) < 1000
    assert str(Path(two.root)) not in daemon.cursor
