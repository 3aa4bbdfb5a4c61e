"""Dagster's own commands in an environment that ``kb`` set up, and runs whose process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from kb_pipeline.environment import install, variables
from kb_pipeline.orchestrator import reap_dead_runs
from kb_pipeline.settings.load import load
from kb_pipeline_tests.defs.conftest import Project

BIN = Path(sys.executable).parent


def clean() -> dict[str, str]:
    """The environment of a shell that knows nothing of a project."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "KB_CONFIG")}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def wait_for(what: str, done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one folder, without a Dagster instance yet; returns its kb.yaml."""
    monkeypatch.setattr(os, "environ", dict(os.environ))  # `install` exports the project's variables
    for name in ("DAGSTER_HOME", "KB_CONFIG"):
        os.environ.pop(name, None)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/tide.md").write_text("# Tide\n\nA float rises and falls.\n")
    config = tmp_path / "kb.yaml"
    config.write_text("sources:\n  - {name: handbook, type: local_directory, path: ./docs}\n")
    return config


def test_plain_dagster_works_after_kb_env_and_kb_sync(at_home: Path, tmp_path: Path) -> None:
    script = """
    set -e
    eval "$(kb env)"
    kb sync
    cd /
    dagster asset materialize --select local_directory/documents --partition handbook -m kb_pipeline.definitions
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=clean(), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "local_directory handbook (new)" in done.stdout
    (path,) = (tmp_path / ".kb/local_directory/documents/handbook").iterdir()
    documents = pq.read_table(path, columns=["key"])
    assert documents.column(0).to_pylist() == ["tide.md"]
    with dg.DagsterInstance.from_config(str(tmp_path / ".kb/dagster")) as instance:
        seen = Project(tmp_path, instance).metadata("local_directory/documents", "handbook")
        assert seen["indexed"] == 1
    assert "BetaWarning" not in done.stderr, done.stderr
    assert "PreviewWarning" not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_range_of_partitions_on_the_command_line(at_home: Path, tmp_path: Path) -> None:
    names = ["c0", "c1", "c2"]
    lines = []
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "note.md").write_text(f"# Note\n\nSaid in {name}.\n")
        lines.append(f"  - {{name: {name}, type: local_directory, path: ./{name}}}\n")
    at_home.write_text("sources:\n" + "".join(lines))
    script = """
    set -e
    eval "$(kb env)"
    kb run
    rm "$(dirname "$KB_CONFIG")"/.kb/local_directory/embeddings/*/*.parquet
    cd /
    dagster asset materialize --select local_directory/embeddings --partition-range c0...c2 -m kb_pipeline.definitions
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=clean(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with dg.DagsterInstance.from_config(str(tmp_path / ".kb/dagster")) as instance:
        project = Project(tmp_path, instance)
        for name in names:
            assert any((tmp_path / f".kb/local_directory/embeddings/{name}").iterdir())
            metadata = project.metadata("local_directory/embeddings", name)
            assert [metadata["embedded"], metadata["reused"]] == [0, 1]
        records = instance.fetch_materializations(dg.AssetKey(["local_directory", "embeddings"]), limit=3).records
        assert len({record.run_id for record in records}) == 1


def test_a_run_of_a_killed_process_is_reaped(at_home: Path, tmp_path: Path) -> None:
    settings = load(at_home)
    home = install(settings, lambda line: None)
    assert variables(settings)["DAGSTER_HOME"] == str(home)
    # A run whose first stage never ends: the process hangs in it until it is killed.
    os.mkfifo(tmp_path / "gate")
    code = f"""
from pathlib import Path
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.environment import instance
from kb_pipeline.orchestrator import Options, Orchestrator
from kb_pipeline.settings.load import load
def hang(self, *args, **options):
    open({str(tmp_path / "gate")!r}).read()
Chain.make = hang
settings = load(Path({str(at_home)!r}))
with instance(settings, print) as opened:
    Orchestrator(settings, opened).run(Options(connections=["handbook"]))
"""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=clean())
        try:
            wait_for("a run is started", lambda: instance.get_runs_count(started) == 1 or process.poll() is not None)
            assert process.poll() is None
            assert reap_dead_runs(instance) == [], "a run of a living process was reaped"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        [run] = instance.get_runs(started)
        said: list[str] = []
        assert reap_dead_runs(instance, said.append) == [run.run_id]
        assert "left behind by a killed process" in said[0]
        after = instance.get_run_by_id(run.run_id)
        assert after is not None
        assert after.status == dg.DagsterRunStatus.FAILURE
        assert reap_dead_runs(instance) == []


def test_a_run_of_plain_dagster_that_was_killed_is_reaped(at_home: Path, tmp_path: Path) -> None:
    home = install(load(at_home), lambda line: None)
    os.mkfifo(tmp_path / "gate")
    theirs = tmp_path / "theirs.py"
    theirs.write_text(
        f"import dagster as dg\n\n@dg.asset\ndef slow() -> None:\n    open({str(tmp_path / 'gate')!r}).read()\n"
    )
    command = [str(BIN / "dagster"), "asset", "materialize", "--select", "slow", "-f", str(theirs)]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                command, env=clean() | {"DAGSTER_HOME": str(home)}, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_for("a run is started", lambda: instance.get_runs_count(started) == 1 or process.poll() is not None)
            [run] = instance.get_runs(started)
            wait_for("its step is started", lambda: bool(instance.all_logs(run.run_id, dg.DagsterEventType.STEP_START)))
            assert reap_dead_runs(instance) == []
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
        assert reap_dead_runs(instance) == [run.run_id]
        after = instance.get_run_by_id(run.run_id)
        assert after is not None
        assert after.status == dg.DagsterRunStatus.FAILURE
