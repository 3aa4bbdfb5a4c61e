"""Several runs at once, and connections that die: the others go on, and nothing that was known is forgotten."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from kb_pipeline import tables
from kb_pipeline_tests.acceptance.project import (
    Project,
    difference,
    directory,
    equal_releases,
    sentences,
    wait_until,
)

_SUBJECTS = ["pensions", "gardens", "rivers", "bridges", "clocks", "maps"]


def test_two_runs_at_once_end_in_the_right_state(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.configure(directory("docs", "docs"))
    texts = sentences(_SUBJECTS)
    for name, text in texts.items():
        project.write(f"docs/{name}", text)
    with project.start("run", "--json") as one, project.start("run", "--json") as other:
        results = [one.result(), other.result()]
    assert 0 in [result.code for result in results]
    for result in results:
        assert "Traceback" not in result.stderr
        if result.code == 0:
            assert result.report["status"] == "completed"
        else:
            assert result.code == 1
            assert any("is in use by" in error["message"] for error in result.report["errors"])
    assert sorted(tables.values(project.rows()["text"])) == sorted(texts.values())
    stored = project.stored_vectors()
    assert len(stored) == len(_SUBJECTS)
    assert set(stored.values()) == {1}, "a text was embedded by both"
    assert project.unfinished_runs() == []


@pytest.mark.slow
def test_a_run_that_slept_past_its_lease_publishes_nothing_stale(tmp_path: Path) -> None:
    """A stopped process (a suspended machine) loses its lease to the next run; waking up, it must not undo its work."""
    project, rebuilt = Project(tmp_path / "project"), Project(tmp_path / "rebuilt")
    for each in (project, rebuilt):
        each.configure(directory("docs", tmp_path / "docs"))
    for name, text in sentences(_SUBJECTS).items():
        project.write(f"../docs/{name}", text)
    with project.start("run", "--json") as sleeper:
        # While documents are written aside: their lease is held, and no publication is under way.
        listed = project.storage / "local_directory/inventory/docs"
        aside = project.storage / "staging"
        wait_until(lambda: (listed.exists() and any(aside.glob("docs~*"))) or sleeper.over, "documents", pause=0.001)
        assert not sleeper.over
        os.killpg(sleeper.process.pid, signal.SIGSTOP)
        project.write("../docs/pensions.md", "# Pensions\n\nAll of this was changed meanwhile.\n")
        waiting = project.run()  # waits for the lease to run out
        assert waiting["status"] == "completed"
        os.killpg(sleeper.process.pid, signal.SIGCONT)
        result = sleeper.result()
    assert result.code == 1
    assert "Traceback" not in result.stderr
    (error,) = (each for each in result.report["errors"] if each["source"] == "docs")
    assert error["class"] == "conflict"
    assert "lease" in error["message"]
    rebuilt.run()
    assert equal_releases(project.rows(), rebuilt.rows()), difference(project.rows(), rebuilt.rows())


def test_dead_connections_stop_nobody_and_keep_what_they_had(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.configure(directory("one", "one"), directory("two", "two"), directory("three", "nowhere"))
    for name, text in sentences(["pensions", "gardens"]).items():
        project.write(f"one/{name}", text)
    for name, text in sentences(["rivers", "bridges", "clocks"]).items():
        project.write(f"two/{name}", text)

    first = project.run(exits=1)
    assert first["status"] == "completed_with_issues"
    (error,) = first["errors"]
    assert (error["source"], error["class"]) == ("three", "source")
    assert str(tmp_path / "nowhere") in error["message"]
    assert [name for name, counts in first["sources"].items() if counts["stale"]] == ["three"]
    assert first["sources"]["three"]["listed"] == 0
    assert first["totals"]["indexed"] == 5
    assert first["totals"]["stale"] is True
    assert len(project.uris()) == 5

    # One that was good dies, and another changes: the dead one keeps its documents and its counts.
    shutil.move(tmp_path / "two", tmp_path / "away")
    project.write("one/maps.md", "# Maps\n\nWhat everybody should know about maps.\n")
    second = project.run(exits=1)
    assert second["status"] == "completed_with_issues"
    assert sorted(error["source"] for error in second["errors"]) == ["three", "two"]
    two = second["sources"]["two"]
    assert two["stale"] is True
    known = {name: two[name] for name in ("listed", "unchanged", "deleted", "chunks", "embedded")}
    assert known == {"listed": 3, "unchanged": 3, "deleted": 0, "chunks": 3, "embedded": 0}
    assert second["sources"]["one"]["indexed"] == 1
    assert len(project.uris()) == 6
    hits = project.kb("search", "rivers", "--mode", "text", "--json").json["hits"]
    assert hits[0]["connection"] == "two"
    status = project.kb("status", "--json").json["sources"]
    assert str(tmp_path / "two") in status["two"]["error"]
    assert (status["two"]["listed"], status["two"]["indexed"]) == (3, 3)
    assert status["three"]["last_success"] is None

    # It comes back with one document less: only now is that one gone.
    shutil.move(tmp_path / "away", tmp_path / "two")
    (tmp_path / "two/clocks.md").unlink()
    third = project.run("--sources", "one,two")
    assert third["status"] == "completed"
    assert (third["sources"]["two"]["deleted"], third["sources"]["two"]["embedded"]) == (1, 0)
    assert len(project.uris()) == 5
    assert project.kb("status", "--json").json["sources"]["two"]["error"] is None


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_is_asked_to_stop_says_so_and_loses_nothing(tmp_path: Path, signal_number: signal.Signals) -> None:
    project = Project(tmp_path)
    project.configure(*(directory(name, name) for name in ("one", "two", "three", "four")))
    for name in ("one", "two", "three", "four"):
        project.write(f"{name}/{name}.md", f"# {name}\n\nThis is number {name}.\n")
    with project.start("run", "--json", "--max-concurrent-sources", "1") as running:
        wait_until(lambda: any(project.storage.glob("*/documents/*/*.parquet")) or running.over, "documents", pause=0.002)
        assert not running.over
        running.process.send_signal(signal_number)
        result = running.result()
        wait_until(lambda: not running.group(), "its children end", seconds=30)
    assert "Traceback" not in result.stderr
    assert result.code == 1
    assert result.report["status"] == "cancelled"
    assert [name for name, counts in result.report["sources"].items() if counts["stale"]], "nothing was left to do"
    assert project.run()["status"] == "completed"
    assert len(project.uris()) == 4
    assert project.unfinished_runs() == []
