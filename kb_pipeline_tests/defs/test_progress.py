"""Runs that Dagster executes can be followed like those of `kb run`: their progress, their states, their end."""

from __future__ import annotations

import dagster as dg
import pytest

from kb_pipeline.defs.runs import RunWatch, SeenRun
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ingestion.work import Orchestration
from kb_pipeline.monitoring.progress import ProgressEvent
from kb_pipeline.stages import STAGES
from kb_pipeline.storage.partitions import Partition
from kb_pipeline_tests.acceptance.project import wait_until
from kb_pipeline_tests.defs.conftest import Project, failure_sentence

ASSETS = tuple(f"local_directory/{stage.name}" for stage in STAGES)


def recorded(project: Project, run: str) -> dict[tuple[str, str], ProgressEvent]:
    return {(each.partition, each.stage): each for each in project.workspace.ledger.progress.latest(run)}


def test_a_run_of_dagsters_own_records_its_progress(project: Project) -> None:
    project.folders(2)
    result = project.run(*ASSETS, between=("c0", "c1"))
    expected = {(name, stage) for name in ("c0", "c1") for stage in ("listing", *(each.name for each in STAGES))}
    wait_until(lambda: recorded(project, result.run_id).keys() == expected, "everything is recorded")
    for (_, stage), event in recorded(project, result.run_id).items():
        assert event.finished == (stage != "listing")
        assert event.done == 1


def test_runs_of_one_orchestration_record_together(project: Project) -> None:
    project.folders(1)
    for asset in ASSETS:
        assert project.run(asset, partition="c0", tags={"kb/orchestration": "o"}).success
    wait_until(lambda: len(recorded(project, "o")) == 1 + len(ASSETS), "everything is recorded")


def test_bytes_are_those_that_were_read(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.folders(1)
    text = project.write("c0/more.md", "# More\n")
    told: list[tuple[str, int, int | None, int | None]] = []

    class Told:
        def update(
            self, run: str, partition: str, stage: str, done: int, total: int | None, size: int | None = None
        ) -> None:
            told.append((stage, done, total, size))

        def flush(self) -> None:
            pass

    chain = Chain(project.workspace, Told())
    (documents, *_) = STAGES
    chain.make(documents, Partition("local_directory", "c0"), Orchestration("o", 2.0**40, "a test"))
    note = project.root / "c0/note.md"
    assert told[-1] == ("documents", 2, 2, note.stat().st_size + text.stat().st_size)


def states(watch: RunWatch) -> list[tuple[str, str, str]]:
    return [(each.job, each.about, each.state) for each in watch.look()]


def test_a_watch_sees_runs_come_and_go_also_those_between_two_looks(project: Project) -> None:
    project.folders(2, dead=[1])
    watch = RunWatch(project.instance, project.workspace)
    assert states(watch) == []
    job = project.definitions.resolve_job_def("local_directory_chain")
    tags = {"dagster/partition": "c0", "kb/orchestration": "o"}
    run = project.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    assert states(watch) == [("local_directory_chain", "c0", "started")]
    assert list(watch.under_way) == [run.run_id]
    assert states(watch) == []
    project.instance.report_run_canceled(run)
    result = project.run("local_directory/documents", partition="c1", tags={"kb/orchestration": "o"})
    seen = list(watch.look())
    assert [(each.about, each.state) for each in seen] == [("c0", "canceled"), ("c1", "failed")]
    assert watch.under_way == {}
    assert seen[1].message is not None
    assert seen[1].message in failure_sentence(result)
    assert seen[1].id == result.run_id
    assert states(watch) == []


def test_a_watch_that_begins_late_sees_what_is_under_way_and_nothing_that_is_over(project: Project) -> None:
    project.folders(1)
    assert project.run("local_directory/documents", partition="c0").success
    job = project.definitions.resolve_job_def("corpus_release")
    run = project.instance.create_run_for_job(
        job_def=job, status=dg.DagsterRunStatus.STARTED, tags={"kb/orchestration": "o"}
    )
    others = project.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED)
    seen = list(RunWatch(project.instance, project.workspace).look())
    assert run.run_id in {each.id for each in seen}
    assert all(each.ended or each.id == run.run_id for each in seen), "a run without our tags is somebody else's"
    assert others.run_id not in {each.id for each in seen}


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (SeenRun("0123456789", "o", "corpus_release", "", "started"), "corpus_release (run 01234567) started"),
        (SeenRun("0123456789", "o", "x_chain", "a", "succeeded", 1.25), "x_chain a (run 01234567) succeeded in 1.2 s"),
        (SeenRun("0123456789", "o", "x_chain", "a", "failed", 1.0, "why"), "x_chain a (run 01234567) failed: why"),
    ],
)
def test_a_run_has_a_sentence(run: SeenRun, sentence: str) -> None:
    assert run.sentence == sentence
