"""The Dagster instance: kb's own is set up, anybody else's stays as it is and is worked on all the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from kb_pipeline.cli.main import cli
from kb_pipeline.dagster_home import is_marked, is_own, marked
from kb_pipeline.defs.history import prune
from kb_pipeline.defs.orchestration import PROCESS_TAG
from kb_pipeline.environment import install, instance
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.orchestrator import Options, Orchestrator, reap_dead_runs
from kb_pipeline.settings.load import load
from kb_pipeline.settings.model import Settings
from kb_pipeline_tests.defs.conftest import HashEmbedder

THEIRS = """# our platform's: ask before you touch it
storage:
  sqlite: {{base_dir: {database}}}
compute_logs:
  module: dagster._core.storage.local_compute_log_manager
  class: LocalComputeLogManager
  config: {{base_dir: {logs}}}
python_logs: {{python_log_level: INFO}}
telemetry: {{enabled: false}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project of one folder in an environment that says nothing of Dagster."""
    monkeypatch.setattr(os, "environ", dict(os.environ))  # `install` exports the project's variables
    for name in ("DAGSTER_HOME", "KB_CONFIG"):
        os.environ.pop(name, None)
    root = tmp_path / "project"
    (root / "docs").mkdir(parents=True)
    (root / "docs/tide.md").write_text("# Tide\n\nA float rises and falls.\n")
    (root / "kb.yaml").write_text("sources:\n  - {name: handbook, type: local_directory, path: ./docs}\n")
    return load(root / "kb.yaml")


@pytest.fixture
def theirs(tmp_path: Path, project: Settings) -> Path:
    """$DAGSTER_HOME with somebody's dagster.yaml, whose database lies elsewhere."""
    home = tmp_path / "theirs"
    home.mkdir()
    (home / "dagster.yaml").write_text(THEIRS.format(database=tmp_path / "database", logs=tmp_path / "logs"))
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@dg.job
def _nothing() -> None:
    """A job for runs that are only recorded."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kb(project: Settings, *arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["--config", str(project.path), *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_its_own_instance_is_set_up_and_kept_up_to_date(project: Settings) -> None:
    said: list[str] = []
    home = install(project, said.append)
    assert home == project.path.parent / ".kb/dagster"
    assert said == [f"installed {home / 'dagster.yaml'}"]
    assert install(project, said.append) == home
    assert len(said) == 1
    (home / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    install(project, said.append)
    assert said[1:] == [f"replaced {home / 'dagster.yaml'}"]
    with instance(project, said.append) as opened:
        limits = {pool.name: pool.limit for pool in opened.event_log_storage.get_pool_limits()}
    assert limits == dict(project.pools)
    assert len(said) == 2


def test_an_empty_folder_becomes_its_own_until_somebody_changes_the_file(project: Settings, tmp_path: Path) -> None:
    os.environ["DAGSTER_HOME"] = str(tmp_path / "home")
    said: list[str] = []
    config = install(project, said.append) / "dagster.yaml"
    shipped = config.read_text()
    assert is_marked(shipped)
    config.write_text(marked("# an earlier version's\n"))
    install(project, said.append)
    assert config.read_text() == shipped
    config.write_text(shipped + "nux: {enabled: true}\n")
    assert not is_own(project)
    install(project, said.append)
    assert config.read_text() == shipped + "nux: {enabled: true}\n"
    assert len(said) == 2


def test_a_run_on_an_instance_of_somebody_else_leaves_it_as_it_is(project: Settings, theirs: Path) -> None:
    before = files(theirs)
    said: list[str] = []
    with instance(project, said.append) as opened:
        report = Orchestrator(project, opened, resources={"embedder": HashEmbedder()}).run(Options())
        assert opened.event_log_storage.get_pool_limits() == []
    assert report.status == "completed"
    assert files(theirs) == before
    [sentence] = said
    assert f"{theirs} isn't kb's own" in sentence
    assert "dagster instance concurrency set gpu 1" in sentence
    with dg.DagsterInstance.from_config(str(theirs)) as plain:
        assert {run.status for run in plain.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
        assert set(plain.get_dynamic_partitions("kb_local_directory")) == {"handbook"}
        for pool in project.pools:
            plain.event_log_storage.set_concurrency_slots(pool, 7)
    with instance(project, said.append) as opened:
        assert {pool.limit for pool in opened.event_log_storage.get_pool_limits()} == {7}
    assert len(said) == 1, "nothing is lacking any more"


def test_commands_leave_somebody_elses_instance_as_it_is(
    project: Settings, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(theirs)
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    sync = kb(project, "sync")
    assert "local_directory handbook (new)" in sync.stdout
    env = kb(project, "env")
    assert f"export DAGSTER_HOME={theirs}" in env.stdout
    for each in (sync, env):
        assert "isn't kb's own" in each.stderr
    kb(project, "dev", "--port", "3999")
    assert [command[1] for command in started] == ["dev"]
    assert files(theirs) == before
    with dg.DagsterInstance.from_config(str(theirs)) as plain:
        assert plain.event_log_storage.get_pool_limits() == []


def test_runs_of_others_are_not_taken_for_dead_on_an_instance_of_somebody_else(project: Settings, theirs: Path) -> None:
    """Another machine's processes can't be seen from here, and Dagster doesn't note which machine it was."""
    with instance(project, print) as opened:
        gone = 2**22 + 1
        plain = opened.create_run_for_job(_nothing, status=dg.DagsterRunStatus.STARTED)
        opened.report_engine_event("x", plain, dg._core.events.EngineEventData(metadata={"pid": dg.MetadataValue.int(gone)}))
        elsewhere = opened.create_run_for_job(
            _nothing, status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: f"another.machine:{gone}:1.0"}
        )
        ours = opened.create_run_for_job(
            _nothing, status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: f"{os.uname().nodename}:{gone}:1.0"}
        )
        assert reap_dead_runs(opened, others=False) == [ours.run_id]
        assert reap_dead_runs(opened, others=True) == [plain.run_id]
        kept = opened.get_run_by_id(elsewhere.run_id)
        assert kept is not None
        assert kept.status == dg.DagsterRunStatus.STARTED


def test_the_history_of_somebody_elses_instance_is_not_pruned(project: Settings, theirs: Path) -> None:
    with instance(project, print) as opened:
        dropped = prune(opened, Workspace(project), 100)
    assert dropped.alone is not None
    assert f"{theirs} isn't kb's own" in dropped.alone
    assert json.dumps(dropped.runs) == "0"
