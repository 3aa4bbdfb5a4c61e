"""A project seen from outside: a folder with kb.yaml, the real ``kb`` command as a subprocess, and what it leaves behind.

What belongs here: writing files, running and killing ``kb``, reading its report and the release. What doesn't: tests.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dagster as dg
import psutil
import pyarrow as pa
import pytest
import yaml

from kb_pipeline import tables
from kb_pipeline.embedding.vector_store import stores
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.settings.load import load
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests.acceptance.homes import IN_A_FOLDER, Home

TIMEOUT = 300.0
"""Seconds one ``kb`` may take: many times what it needs, so that only a hang reaches it."""

COUNTS = ["listed", "indexed", "unchanged", "quarantined", "excluded", "deleted", "chunks", "embedded", "reused", "stale"]
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
    dg.DagsterRunStatus.QUEUED,
]


@dataclass(frozen=True)
class Result:
    """What one call of ``kb`` left at the terminal."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Stdout as the one JSON document that it must be."""
        return json.loads(self.stdout)

    @property
    def report(self) -> dict[str, Any]:
        """Stdout as the report of ``kb run --json``, after a check of its keys and of the conservation of items."""
        report: dict[str, Any] = self.json
        assert list(report) == [
            "orchestration_id",
            "status",
            "seconds",
            "release",
            "sources",
            "totals",
            "errors",
            "warnings",
        ]
        for name, counts in [*report["sources"].items(), ("totals", report["totals"])]:
            assert list(counts) == COUNTS, name
            assert conserved(counts), (name, counts)
        for warning in report["warnings"]:
            assert list(warning) == ["source", "message"]
        for error in report["errors"]:
            assert list(error) == ["source", "class", "message"]
        return report


def conserved(counts: Mapping[str, int]) -> bool:
    """listed = indexed + unchanged + quarantined + excluded."""
    return counts["listed"] == sum(counts[name] for name in ("indexed", "unchanged", "quarantined", "excluded"))


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = TIMEOUT, pause: float = 0.05) -> None:
    """Wait for a condition; fail the test naming ``what`` when it doesn't come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(pause)


class Running:
    """A ``kb`` that runs, in a process group of its own, its output going to files."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
        self.process = process
        self._stdout = stdout
        self._stderr = stderr

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    @property
    def stderr(self) -> str:
        """What it said so far."""
        return self._stderr.read_text(encoding="utf-8", errors="replace")

    @property
    def result_so_far(self) -> str:
        """What it printed so far."""
        return self._stdout.read_text(encoding="utf-8", errors="replace")

    def kill(self, *, whole_group: bool) -> None:
        """SIGKILL, to it and all its children or to it alone; returns when it is gone."""
        if whole_group:
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait(30)

    def group(self) -> list[psutil.Process]:
        """Processes of its group that still live."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def result(self, timeout: float = TIMEOUT) -> Result:
        """Wait for its end."""
        self.process.wait(timeout)
        return Result(self.process.returncode, self._stdout.read_text(encoding="utf-8"), self.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind that outlives the test."""
        if not self.over:
            self.kill(whole_group=True)
        for process in self.group():
            process.kill()


class Project:
    """A folder with a kb.yaml. ``home``: where its storage and its ledger lie."""

    def __init__(self, root: Path, *, environment: Mapping[str, str] | None = None, home: Home = IN_A_FOLDER) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.home = home
        self.environment = dict(environment or {})
        self._numbers = itertools.count(1)

    @property
    def storage(self) -> Path:
        """Its storage folder; with a bucket, the folder of what stays on this machine."""
        return self.root / ".kb"

    @property
    def kept(self) -> Storage:
        """Its storage, wherever that is."""
        if self.home == IN_A_FOLDER:
            return Storage.of_folder(self.storage)  # the connections of kb.yaml may be unknown to this process
        return Workspace(load(self.root / "kb.yaml")).storage

    def configure(self, *sources: Mapping[str, Any], **keys: Any) -> None:
        """Write kb.yaml with these connections and further top-level keys."""
        text = yaml.safe_dump({"sources": [dict(each) for each in sources], **self.home.keys, **keys}, sort_keys=False)
        (self.root / "kb.yaml").write_text(text, encoding="utf-8")

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file below the project's folder."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    def start(self, *arguments: str) -> Running:
        """Start ``kb`` and return at once."""
        number = next(self._numbers)
        logs = self.root / "logs"
        logs.mkdir(exist_ok=True)
        stdout, stderr = logs / f"{number}.out", logs / f"{number}.err"
        hidden = ("DAGSTER_HOME", "KB_CONFIG", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
        environment = {key: value for key, value in os.environ.items() if key not in hidden} | self.environment
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "kb_pipeline.cli.main", *arguments],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return Running(process, stdout, stderr)

    def kb(self, *arguments: str, exits: int | None = 0) -> Result:
        """Run ``kb`` to its end; it must exit so, and never show a traceback."""
        with self.start(*arguments) as running:
            result = running.result()
        assert "Traceback" not in result.stderr, result.stderr
        if exits is not None:
            assert result.code == exits, f"kb {' '.join(arguments)}: exit {result.code}\n{result.stdout}\n{result.stderr}"
        return result

    def side_by_side(self, calls: Mapping[str, Sequence[str]]) -> dict[str, Result]:
        """Several calls that only read, two at a time; their results by name, whatever their exit."""
        with ThreadPoolExecutor(max_workers=2) as executor:
            results = executor.map(lambda arguments: self.kb(*arguments, exits=None), calls.values())
            return dict(zip(calls, results, strict=True))

    def run(self, *arguments: str, exits: int | None = 0) -> dict[str, Any]:
        """``kb run --json``: its report."""
        return self.kb("run", "--json", *arguments, exits=exits).report

    def rows(self, release: str = "current") -> pa.Table:
        """All rows of a release, vectors included, ordered by chunk id."""
        return Release.open(self.kept, release).to_arrow()

    def uris(self) -> set[str]:
        """Where the current release's chunks come from."""
        return set(tables.values(self.rows()["uri"]))

    def stored_vectors(self) -> Counter[str]:
        """Keys in the vector store of the one model in use, with how often each is there."""
        found: Counter[str] = Counter()
        for store in stores(self.kept.vectors_location):
            table = store._open()
            found.update(table.search().select(["key"]).limit(None).to_arrow()["key"].to_pylist())
        return found

    def unfinished_runs(self) -> list[str]:
        """Runs that the Dagster instance takes for running or waiting."""
        with dg.DagsterInstance.from_config(str(self.storage / "dagster")) as instance:
            runs = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
        return [f"{run.job_name}: {run.status.value}" for run in runs]


def equal_releases(one: pa.Table, other: pa.Table) -> bool:
    """Whether two releases hold the same rows; vectors within what batches of another shape may differ by."""
    import numpy as np

    plain = [name for name in one.column_names if name != "vector"]
    if one.column_names != other.column_names or not one.select(plain).equals(other.select(plain)):
        return False
    mine, theirs = (np.stack(tables.values(table["vector"])) if table.num_rows else np.empty(0) for table in (one, other))
    return bool(np.allclose(mine, theirs, atol=1e-5))


def difference(one: pa.Table, other: pa.Table) -> str:
    """What sets two releases apart, for the message of a failed test."""
    names = ["chunk_id", "uri", "text"]
    mine, theirs = ({tuple(row.values()) for row in table.select(names).to_pylist()} for table in (one, other))
    return f"only in the first: {sorted(mine - theirs)[:5]}; only in the second: {sorted(theirs - mine)[:5]}"


def tree_contains(folder: Path, needle: bytes) -> list[str]:
    """Files below a folder that contain these bytes."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


def install_connectors(folder: Path) -> dict[str, str]:
    """Lay out the test's own connectors as an installed distribution; returns the environment that finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("third_party.py"), folder / "acceptance_connectors.py")
    info = folder / "acceptance_connectors-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acceptance-connectors\nVersion: 1.0\n")
    names = ("Journalled", "Locked", "Broken", "Shelf", "Gated")
    points = "".join(f"{name.lower()} = acceptance_connectors:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[kb_pipeline.sources]\n{points}")
    return {"PYTHONPATH": str(folder)}


def directory(name: str, path: str | Path, **keys: Any) -> dict[str, Any]:
    """A local_directory connection for ``Project.configure``."""
    return {"name": name, "type": "local_directory", "path": str(path), **keys}


def archive(name: str, path: str | Path, **keys: Any) -> dict[str, Any]:
    """A local_zip connection for ``Project.configure``."""
    return {"name": name, "type": "local_zip", "path": str(path), **keys}


def sentences(subjects: Sequence[str]) -> dict[str, str]:
    """A few real words for each subject: file name -> text, one chunk each."""
    return {f"{each}.md": f"# {each.capitalize()}\n\nWhat everybody should know about {each}.\n" for each in subjects}
