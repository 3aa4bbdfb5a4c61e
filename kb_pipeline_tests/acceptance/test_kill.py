"""``kb run`` is killed at any moment: readers keep what they had, and the next run makes everything right.

Moments are found from outside, by what appears in the storage folder; nothing in the product helps.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from _pytest.mark import ParameterSet

from kb_pipeline.knowledge_base.releases import NoRelease
from kb_pipeline_tests.acceptance.project import (
    Project,
    Running,
    difference,
    directory,
    equal_releases,
    wait_until,
)


def _note(number: int) -> str:
    """A note of two sections."""
    sections = (f"## Part {part}\n\nThe board answered question {number}-{part} in spring.\n" for part in range(2))
    return f"# Note {number}\n\n" + "\n".join(sections)


@dataclass(frozen=True)
class Worlds:
    """The documents, a storage as it was before their last change, and the releases before and after it."""

    root: Path
    earlier: Path
    before: pa.Table
    after: pa.Table
    total: int


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    root = tmp_path_factory.mktemp("kill")
    project = _project(root, "earlier")
    for number in range(30):
        project.write(f"../{'alpha' if number % 2 else 'beta'}/note-{number}.md", _note(number))
    project.run()
    before = project.rows()
    for number in range(0, 10):
        project.write(f"../{'alpha' if number % 2 else 'beta'}/note-{number}.md", _note(100 + number))
    for number in range(10, 14):
        (root / "alpha" / f"note-{number}.md").unlink(missing_ok=True)
        project.write(f"../alpha/new-{number}.md", _note(200 + number))
    rebuilt = _project(root, "rebuilt")
    report = rebuilt.run()
    return Worlds(root, project.root, before, rebuilt.rows(), report["totals"]["embedded"])


def _project(root: Path, name: str) -> Project:
    project = Project(root / name)
    for connection in ("alpha", "beta"):
        (root / connection).mkdir(exist_ok=True)
    project.configure(directory("alpha", root / "alpha"), directory("beta", root / "beta"))
    return project


Seen = Callable[[Path], bool]


def _any(pattern: str, count: int = 1) -> Seen:
    """True when at least ``count`` files below the storage match."""
    return lambda storage: sum(1 for _ in storage.glob(pattern)) >= count


_INDEX = "corpus/knowledge_base/index/chunks.lance"
_MOMENTS: dict[str, tuple[Seen, float]] = {
    "before anything": (_any("dagster/dagster.yaml"), 0.0),
    "the instance is made": (_any("dagster/history/runs.db"), 0.2),
    "a listing is written aside": (_any("staging/*"), 0.0),
    "one connection is listed": (_any("local_directory/inventory/*/*.parquet"), 0.0),
    "both connections are listed": (_any("local_directory/inventory/*/*.parquet", 2), 0.0),
    "documents are written aside": (_any("local_directory/inventory/*/*.parquet", 2), 0.3),
    "parsing": (_any("local_directory/inventory/*/*.parquet", 2), 0.8),
    "documents are published": (_any("local_directory/documents/*/*.parquet"), 0.0),
    "chunks are published": (_any("local_directory/chunks/*/*.parquet"), 0.0),
    "the model loads": (_any("local_directory/chunks/*/*.parquet", 2), 0.5),
    "the vector store is made": (_any("vectors/*.lance/_versions/*.manifest"), 0.0),
    "vectors are committed": (_any("vectors/*.lance/_versions/*.manifest", 2), 0.0),
    "between two connections' vectors": (_any("local_directory/embeddings/*/*.parquet"), 0.0),
    "more vectors are committed": (_any("vectors/*.lance/_versions/*.manifest", 3), 0.0),
    "all embeddings are published": (_any("local_directory/embeddings/*/*.parquet", 2), 0.0),
    "the index is made": (_any(f"{_INDEX}/_versions/*.manifest"), 0.0),
    "the index is filled": (_any(f"{_INDEX}/_versions/*.manifest", 2), 0.0),
    "indices are built": (_any(f"{_INDEX}/_indices/*", 2), 0.0),
    "manifests are kept": (_any("corpus/knowledge_base/manifests/*.parquet"), 0.0),
    "the release is tagged": (_any(f"{_INDEX}/_refs/tags/release-1.json"), 0.0),
    "the release is recorded": (_any("corpus/knowledge_base/releases/release-1.json"), 0.0),
    "the tag has moved": (_any(f"{_INDEX}/_refs/tags/current.json"), 0.0),
}
_QUICK = {"parsing": True, "vectors are committed": False}


def _cases(moments: dict[str, object], quick: dict[str, bool]) -> list[ParameterSet]:
    cases = []
    for name in moments:
        for whole_group in (True, False):
            marks = [] if quick.get(name) is whole_group else [pytest.mark.slow]
            cases.append(pytest.param(name, whole_group, marks=marks, id=f"{name}-{'group' if whole_group else 'parent'}"))
    return cases


@pytest.mark.parametrize(("moment", "whole_group"), _cases(dict(_MOMENTS), _QUICK))
def test_a_first_run_that_is_killed_is_completed_by_the_next(
    worlds: Worlds, tmp_path: Path, moment: str, whole_group: bool
) -> None:
    project = _project(worlds.root, tmp_path.name)
    seen, delay = _MOMENTS[moment]
    with project.start("run", "--json") as running:
        _kill_when(running, lambda: seen(project.storage), delay, whole_group)
        wait_until(lambda: not running.group(), "the children of the killed process end", seconds=30)
    stored = project.stored_vectors()
    assert set(stored.values()) <= {1}
    # Whatever readers see now, if anything, is whole.
    if (visible := _visible(project)) is not None:
        assert equal_releases(visible, worlds.after), difference(visible, worlds.after)
    report = project.run()
    assert report["status"] == "completed"
    assert report["totals"]["embedded"] == worlds.total - len(stored), "a text was embedded twice, or never"
    _assert_right(project, worlds)


# What an update replaces is there from the start: these moments are told by numbers that grow, or by what is new.
_UPDATES = {
    "a listing is replaced": ("local_directory/inventory/*/*.parquet", 0.0),
    "documents are replaced": ("local_directory/documents/*/*.parquet", 0.0),
    "chunks are replaced": ("local_directory/chunks/*/*.parquet", 0.0),
    "vectors are added": ("vectors/*.lance/_versions/*.manifest", 0.0),
    "embeddings are replaced": ("local_directory/embeddings/*/*.parquet", 0.0),
    "the index is changed": (f"{_INDEX}/_versions/*.manifest", 0.0),
    "the indices are refreshed": (f"{_INDEX}/_indices/*", 0.0),
    "a manifest is kept": ("corpus/knowledge_base/manifests/*.parquet", 0.0),
    "the release is tagged": (f"{_INDEX}/_refs/tags/release-2.json", 0.0),
    "the release is recorded": ("corpus/knowledge_base/releases/release-2.json", 0.0),
    "the tag has moved": (f"{_INDEX}/_refs/tags/current.json", 0.0),
    "the tag has moved a while ago": (f"{_INDEX}/_refs/tags/current.json", 0.2),
}
_QUICK_UPDATES = {"documents are replaced": False, "the index is changed": True}


@pytest.mark.parametrize(("moment", "whole_group"), _cases(dict(_UPDATES), _QUICK_UPDATES))
def test_an_update_that_is_killed_leaves_a_whole_release_and_is_completed_by_the_next(
    worlds: Worlds, tmp_path: Path, moment: str, whole_group: bool
) -> None:
    project = _project(worlds.root, tmp_path.name)
    shutil.copytree(worlds.earlier / ".kb", project.storage)
    pattern, delay = _UPDATES[moment]

    def files() -> set[tuple[str, int]]:
        found = set()
        for path in project.storage.glob(pattern):
            try:
                found.add((str(path), path.stat().st_ino))
            except FileNotFoundError:
                continue
        return found

    at_first = files()
    with project.start("run", "--json") as running:
        _kill_when(running, lambda: bool(files() - at_first), delay, whole_group)
        wait_until(lambda: not running.group(), "the children of the killed process end", seconds=30)
    visible = _visible(project)
    assert visible is not None
    assert equal_releases(visible, worlds.before) or equal_releases(visible, worlds.after), "half an update is visible"
    report = project.run()
    assert report["status"] == "completed"
    _assert_right(project, worlds)


def _kill_when(running: Running, seen: Callable[[], bool], delay: float, whole_group: bool) -> None:
    """Kill it ``delay`` seconds after something was seen. Fails when the run was faster than that."""
    wait_until(lambda: seen() or running.over, "the moment comes", pause=0.002)
    until = time.monotonic() + delay
    wait_until(lambda: time.monotonic() >= until, "the delay passes", pause=0.002)
    assert not running.over, f"it ended before it could be killed: {running.stderr}"
    running.kill(whole_group=whole_group)


def _visible(project: Project) -> pa.Table | None:
    try:
        return project.rows()
    except NoRelease:
        return None


def _assert_right(project: Project, worlds: Worlds) -> None:
    """The state after a rerun is that of a project where nothing ever happened."""
    rows = project.rows()
    assert equal_releases(rows, worlds.after), difference(rows, worlds.after)
    assert project.unfinished_runs() == []
    stored = project.stored_vectors()
    assert max(stored.values()) == 1
    assert set(rows["text_sha256"].to_pylist()) <= set(stored)
