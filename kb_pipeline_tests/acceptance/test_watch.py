"""What runs can be followed live, by whoever looks: `kb watch` beside a `kb run`, in a terminal and for programs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kb_pipeline_tests.acceptance.project import Project, directory, install_connectors, wait_until
from kb_pipeline_tests.acceptance.terminal import terminal

TEXTS = {"early.md": "# Early\n\nWhat comes first.\n", "late.md": "# Late\n\nWhat comes in the end.\n"}
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run, of a connection that makes it wait and of one that is dead, and three who look on."""
    told: dict[str, Any] = {}
    project = Project(
        tmp_path_factory.mktemp("watch"), environment=install_connectors(tmp_path_factory.mktemp("connectors"))
    )
    gated = {"name": "gated", "type": "gated", "path": "./files", "gate": "./open"}
    project.configure(gated, directory("dead", "./nowhere"))
    for name, text in TEXTS.items():
        project.write(f"files/{name}", text)
    arguments = ("run", "--json", "--sources", "gated,dead", "--max-concurrent-sources", "1")
    with terminal(project, *arguments) as run:
        # The run waits for the gate, and who comes now sees how far it is.
        wait_until(lambda: "1/2" in run.text or run.process.poll() is not None, "the run's own bar moves")
        told["before the end"] = run.text
        with project.start("watch", "--json", "--until-idle", "3") as watch, terminal(project, "watch") as person:
            wait_until(lambda: half_way(lines(watch.result_so_far)) or watch.over, "a watch tells of it")
            wait_until(lambda: "1/2" in person.text or person.process.poll() is not None, "a watch shows it")
            project.write("open", "")
            told["code"], told["stdout"] = run.end()
            wait_until(lambda: "corpus_release" in person.text, "the watch tells of the end")
            person.process.send_signal(signal.SIGINT)
            told["person code"], _ = person.end()
            told["watch"] = watch.result()
            told["person"] = person
        told["run"] = run
    return SimpleNamespace(project=project, **{name.replace(" ", "_"): value for name, value in told.items()})


def lines(text: str) -> list[dict[str, Any]]:
    """Whole lines as JSON."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def half_way(events: list[dict[str, Any]]) -> bool:
    return any((each.get("stage"), each.get("done"), each.get("total")) == ("documents", 1, 2) for each in events)


def test_a_watch_for_programs_has_every_stage_and_every_run(story: SimpleNamespace) -> None:
    report = json.loads(story.stdout)
    events = lines(story.watch.stdout)
    progress = [each for each in events if each["type"] == "progress"]
    assert {each["run"] for each in events} == {report["orchestration_id"]}
    last = {(each["partition"], each["stage"]): (each["done"], each["total"]) for each in progress}
    assert last == {
        ("gated", "listing"): (2, None),
        ("gated", "documents"): (2, 2),
        ("gated", "chunks"): (2, 2),
        ("gated", "embeddings"): (2, 2),
        ("release", "release"): (last["release", "release"][1],) * 2,
    }
    sizes = [each["bytes"] for each in progress if each["stage"] == "documents"]
    assert sizes == sorted(sizes)
    assert sizes[-1] == sum(len(text) for text in TEXTS.values())
    states = {(each["job"], each["partition"], each["state"]) for each in events if each["type"] == "run"}
    assert {("gated_chain", "gated", "started"), ("gated_chain", "gated", "succeeded")} <= states
    assert {("corpus_release", None, "succeeded"), ("local_directory_chain", "dead", "failed")} <= states
    assert not any(state == "failed" for job, _, state in states if job in ("gated_chain", "corpus_release"))


def test_a_watch_says_why_a_run_failed_and_exits_accordingly(story: SimpleNamespace) -> None:
    assert story.code == 1
    assert story.watch.code == 1
    failed = [each for each in lines(story.watch.stdout) if each.get("state") == "failed"]
    assert failed
    assert all(str(story.project.root / "nowhere") in each["message"] for each in failed)


def test_bars_move_in_a_terminal_and_the_cursor_comes_back(story: SimpleNamespace) -> None:
    for seen in (story.run, story.person):
        assert seen.raw.count(HIDE_CURSOR) == seen.raw.count(SHOW_CURSOR) == 1
        assert "gated" in seen.text
    assert "documents" in story.before_the_end
    assert "2/2" not in story.before_the_end
    assert "2/2" in story.run.text


def test_a_watch_in_a_terminal_tells_how_runs_end_and_leaves_at_ctrl_c(story: SimpleNamespace) -> None:
    assert story.person_code == 130
    assert "gated_chain gated" in story.person.text
    assert "succeeded in" in story.person.text
    assert "Traceback" not in story.person.text


def test_a_watch_of_nothing_ends_when_asked_to(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.configure()
    result = project.kb("watch", "--until-idle", "0.1")
    assert result.stdout == ""
    assert "nothing runs yet" in result.stderr
    assert "--until-idle" in project.kb("watch", "--until-idle", "soon", exits=2).stderr
