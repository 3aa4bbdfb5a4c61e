"""The corpus in Dagster: the index, its checks, and a release only behind them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from kb_pipeline.findings import Finding, Severity
from kb_pipeline.knowledge_base import gate
from kb_pipeline.knowledge_base.candidates import Candidate
from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests.damage import double
from kb_pipeline_tests.defs.conftest import Project, failure_sentence

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def launch(project: Project, job: str = "corpus_release") -> dg.ExecuteInProcessResult:
    """Run a job as the UI or a sensor would."""
    project.at_rest()
    found = project.definitions.resolve_job_def(job)
    return found.execute_in_process(run_config=QUIET, instance=project.instance, raise_on_error=False)


def release(project: Project) -> str | None:
    current = Releases(Storage.of_folder(project.root / ".kb")).current()
    return current.name if current else None


def edit(project: Project) -> None:
    """Bring another text as far as its embeddings."""
    project.write("docs/tide.md", "# Tide\n\nAnother text.\n")
    project.chain("local_directory", "handbook")


def few_words(storage: Storage, made: Candidate) -> Finding:
    """Says enough."""
    return Finding(False, "few words", ("tide.md",), Severity.WARNING, {"words": 7.0})


def test_the_job_checks_the_index_before_it_publishes(project: Project) -> None:
    project.chain("local_directory", "handbook")
    result = launch(project)
    assert result.success, failure_sentence(result)
    assert [key.to_user_string() for key in _materialized(result)] == ["corpus/index", "corpus/knowledge_base"]
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.asset_key.to_user_string()) == ("index_equals_tables", "corpus/index")
    assert evaluation.metadata["partitions_compared"].value == 1
    assert project.metadata("corpus/index")["chunks"] == 2
    assert project.metadata("corpus/knowledge_base")["published"] is True
    assert release(project) == "release-1"

    again = launch(project)
    assert again.success
    assert project.metadata("corpus/index")["partitions_skipped"] == 1
    assert project.metadata("corpus/knowledge_base")["note"] == "readers have it already"
    assert release(project) == "release-1"


def test_a_damaged_table_fails_the_check_and_no_release_comes_about(project: Project) -> None:
    project.chain("local_directory", "handbook")
    launch(project)
    edit(project)
    double(project.root / ".kb", "handbook")
    result = launch(project)
    assert not result.success
    assert [key.to_user_string() for key in _materialized(result)] == ["corpus/index"]
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "handbook: " in str(evaluation.description)
    assert evaluation.metadata["examples"].value
    assert release(project) == "release-1"

    alone = project.run("corpus/knowledge_base", checks=False)
    assert not alone.success
    assert "index_equals_tables: the index differs" in failure_sentence(alone)
    assert release(project) == "release-1"


def test_a_warning_is_shown_and_the_release_comes_about(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CHECKS", (*gate.CHECKS, few_words))
    project.chain("local_directory", "handbook")
    result = launch(project)
    assert result.success
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    evaluation = found["few_words"]
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert evaluation.description == "few words"
    assert evaluation.metadata["words"].value == 7.0
    assert evaluation.metadata["examples"].value == ["tide.md"]
    assert release(project) == "release-1"


def test_the_index_without_its_checks_is_not_published_by_itself(project: Project) -> None:
    project.chain("local_directory", "handbook")
    assert project.run("corpus/index", checks=False).success
    alone = project.run("corpus/knowledge_base", checks=False)
    assert not alone.success
    assert "launch the job corpus_release, or `kb run`" in failure_sentence(alone)
    assert release(project) is None

    assert project.run("corpus/index").success
    assert release(project) is None
    assert project.run("corpus/knowledge_base", checks=False).success
    assert release(project) == "release-1"


def test_a_run_can_be_told_to_compare_everything(project: Project) -> None:
    project.chain("local_directory", "handbook")
    launch(project)
    assert project.run("corpus/index", tags={"kb/compare": "everything"}).success
    assert project.metadata("corpus/index")["partitions_compared"] == 1


def test_everything_is_verified_every_night(project: Project) -> None:
    project.chain("local_directory", "handbook")
    launch(project)
    schedule = project.definitions.resolve_schedule_def("corpus_nightly")
    when = datetime(2026, 1, 2, 3, 30, tzinfo=UTC)
    request = schedule(dg.build_schedule_context(instance=project.instance, scheduled_execution_time=when))
    assert isinstance(request, dg.RunRequest)
    result = launch(project, schedule.job_name)
    assert result.success
    assert [each.check_name for each in result.get_asset_check_evaluations()] == ["nothing_drifted"]

    next(Path(project.root / ".kb/corpus/knowledge_base/manifests").iterdir()).unlink()
    result = launch(project, schedule.job_name)
    assert not result.success
    assert "it is gone" in failure_sentence(result)


def _materialized(result: dg.ExecuteInProcessResult) -> list[dg.AssetKey]:
    return [event.asset_key for event in result.get_asset_materialization_events() if event.asset_key is not None]
