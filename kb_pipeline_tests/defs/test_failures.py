"""Failed runs as the daemon's sensor sees them: recorded for `kb status`, told in a sentence, handed to hooks."""

from __future__ import annotations

import dagster as dg
import pytest

from kb_pipeline.definitions import build_defs
from kb_pipeline.defs.failures import FailedRun
from kb_pipeline.ingestion import checks
from kb_pipeline.settings.load import load
from kb_pipeline_tests.defs.conftest import RANGE_END, RANGE_START, Project

ERROR = tuple[str | None, str | None]


def noticed(project: Project, run: dg.DagsterRun) -> FailedRun:
    """What the sensor makes of a failed run."""
    told: list[FailedRun] = []
    definitions = build_defs(load(project.config), on_failure=[told.append])
    run = project.instance.get_run_by_id(run.run_id) or run
    assert run.status == dg.DagsterRunStatus.FAILURE
    event = project.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)[-1].dagster_event
    assert event is not None
    sensor = definitions.resolve_sensor_def("run_failures")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name, dagster_event=event, dagster_instance=project.instance, dagster_run=run
    )
    assert not list(sensor(context) or [])
    (failed,) = told
    return failed


def fault(project: Project, connection: str) -> ERROR:
    outcome = project.workspace.ledger.outcomes.outcome("local_directory", connection)
    return outcome.error_class, outcome.error


def left_behind(project: Project, **tags: str) -> dg.DagsterRun:
    """A run of the chain whose process died before it could say anything."""
    job = project.definitions.resolve_job_def("local_directory_chain")
    run = project.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    return project.instance.report_run_failed(run, "the process is gone") and run


def test_a_killed_run_is_recorded(project: Project) -> None:
    failed = noticed(project, left_behind(project, **{"dagster/partition": "handbook"}))
    assert [each.key for each in failed.partitions] == ["handbook"]
    assert failed.sentence.endswith(
        "of local_directory_chain (local_directory/handbook) failed at documents: the process is gone (internal)"
    )
    assert fault(project, "handbook") == ("internal", "the process is gone")
    project.chain("local_directory", "handbook")
    assert fault(project, "handbook") == (None, None), "the next success clears it"


def test_how_a_process_ended_is_told(project: Project) -> None:
    job = project.definitions.resolve_job_def("local_directory_chain")
    tags = {"dagster/partition": "handbook"}
    run = project.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    said = "[DagsterApiServer] Run execution process was terminated by signal 9 (SIGKILL)."
    project.instance.report_engine_event(f"{said} Possible solutions include increasing the amount of memory.", run)
    project.instance.report_run_failed(run)
    expected = "Run execution process was terminated by signal 9 (SIGKILL)."
    assert noticed(project, run).message == expected
    assert fault(project, "handbook") == ("internal", expected)


def test_a_killed_run_over_a_range_is_recorded_for_each_of_its_partitions(project: Project) -> None:
    project.folders(3)
    failed = noticed(project, left_behind(project, **{RANGE_START: "c0", RANGE_END: "c1"}))
    assert [each.key for each in failed.partitions] == ["c0", "c1"]
    assert [fault(project, name)[1] for name in ("c0", "c1", "c2")] == ["the process is gone", "the process is gone", None]


def test_a_failure_that_was_made_good_since_is_history(project: Project) -> None:
    run = left_behind(project, **{"dagster/partition": "handbook"})
    project.chain("local_directory", "handbook")
    noticed(project, run)
    assert fault(project, "handbook") == (None, None)


def test_what_an_asset_recorded_itself_is_left_as_it_is(project: Project) -> None:
    project.folders(2, dead=[1])
    result = project.run("local_directory/documents", partition="c1")
    before = fault(project, "c1")
    assert before[1] is not None
    failed = noticed(project, result.dagster_run)
    assert failed.recorded
    assert (failed.stage, failed.error_class) == ("documents", before[0])
    assert failed.message == before[1]
    assert fault(project, "c1") == before


def test_a_failed_check_is_recorded(project: Project) -> None:
    assert project.run("local_directory/documents", partition="handbook").success
    selection = dg.AssetSelection.checks(
        dg.AssetCheckKey(dg.AssetKey(["local_directory", "chunks"]), checks.every_document_chunked.__name__)
    )
    failed = noticed(project, project.execute(selection, partition="handbook").dagster_run)
    assert (failed.stage, failed.recorded) == ("chunks", False)
    assert fault(project, "handbook") == ("internal", "handbook: its chunks were never materialized")


def test_a_stage_that_was_under_way_is_named(project: Project) -> None:
    """The step began and never ended, as when the kernel kills the process for its memory."""
    job = project.definitions.resolve_job_def("local_directory_chain")
    run = project.instance.create_run_for_job(
        job_def=job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "handbook"}
    )
    for step in ("local_directory__documents", "local_directory__documents_conservation", "local_directory__chunks"):
        began = dg.DagsterEvent(dg.DagsterEventType.STEP_START.value, run.job_name, step_key=step)
        project.instance.report_dagster_event(began, run.run_id)
    project.instance.report_run_failed(run, "the process is gone")
    assert noticed(project, run).stage == "chunks"
    assert fault(project, "handbook") == ("internal", "the process is gone")


def test_an_exception_that_no_asset_told_is_recorded_in_its_own_words(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no such table: runs")

    monkeypatch.setattr("kb_pipeline.defs.assets.of_run", broken)
    failed = noticed(project, project.run("local_directory/documents", partition="handbook").dagster_run)
    assert (failed.stage, failed.recorded) == ("documents", False)
    assert "no such table: runs" in str(fault(project, "handbook")[1])


def test_a_failed_release_is_told_but_is_no_connection_s_fault(project: Project) -> None:
    job = project.definitions.resolve_job_def("corpus_release")
    run = project.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED)
    project.instance.report_run_failed(run, "the process is gone")
    failed = noticed(project, run)
    assert failed.partitions == ()
    assert "of corpus_release (no partition) failed" in failed.sentence
