"""The same Markdown files into kb, LlamaIndex and CocoIndex: seconds, memory, texts embedded, and what was wrong afterwards.

    python benchmarks/ingest.py FOLDER [--rounds N] [--json]

Every contender is a whole process on its own copy of the state and the same files, model and cores, in turn. First full
runs into empty states, then on one state: an unchanged rerun, reruns after 1 % of the files was edited, renamed, deleted,
and one after 40 % of the target's rows were deleted behind its back.

What belongs here: the course of events and what is wrong with a target. What doesn't: how a peer is used (``peers``).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks import results
from benchmarks.peers.environment import PeersUnavailable, peers_python
from benchmarks.processes import KbProject, Measurement, measure

CHANGED = 0.01
"""Share of the files that is edited, renamed, deleted; at least one file."""
DROPPED = 0.4
MARK = "The quick auditor counted 40 zebras beside a silent turbine."
"""A sentence put into edited files; afterwards each of them must be found with it."""


@dataclass(frozen=True)
class Row:
    """One chunk in a target: the file it names, and its text."""

    path: str
    text: str


class Contender(Protocol):
    """One way to keep a target in step with the files in ``folder``."""

    name: str

    def ingest(self) -> tuple[Measurement, int]:
        """One incremental run as a process; also the number of texts that went through the model."""
        ...

    def rows(self) -> list[Row]:
        """What is in the target now."""
        ...

    def drop(self, share: float) -> None:
        """Delete a share of the target's rows directly."""
        ...


class Kb:
    """This project."""

    name = "kb"

    def __init__(self, folder: Path, state: Path) -> None:
        self._project = KbProject(state, [{"name": "files", "type": "local_directory", "path": str(folder)}])
        self._folder = folder

    def ingest(self) -> tuple[Measurement, int]:
        """``kb run``."""
        measured = self._project.kb("run", "--json")
        return measured, measured.json["totals"]["embedded"]

    def rows(self) -> list[Row]:
        """The index itself, not the release that readers have open."""
        table = self._index().to_arrow().select(["key", "text"])
        return [Row(row["key"], row["text"]) for row in table.to_pylist()]

    def drop(self, share: float) -> None:
        """Delete rows of the Lance table."""
        from kb_pipeline.knowledge_base.index import among

        index = self._index()
        ids = index.to_arrow()["chunk_id"].to_pylist()
        chosen = random.Random(0).sample(sorted(ids), int(len(ids) * share))
        index.delete(among(chosen))

    def _index(self) -> Any:
        from kb_pipeline.knowledge_base.index import TABLE
        from kb_pipeline.storage.storage import Storage

        return Storage.of_folder(self._project.storage).index_location.open(TABLE)


class Peer:
    """A framework in its own environment, driven by a program in ``benchmarks/peers``."""

    def __init__(self, name: str, program: str, python: Path, folder: Path, state: Path) -> None:
        self.name = name
        self.version = ""
        state.mkdir(parents=True)
        self._command = [str(python), str(Path(__file__).with_name("peers") / program)]
        self._folder = folder
        self._state = state

    def ingest(self) -> tuple[Measurement, int]:
        """One call of the program."""
        measured = measure([*self._command, "ingest", str(self._folder), str(self._state)], cwd=self._state)
        said = _last_json(measured.stdout)
        self.version = said["version"]
        return measured, said["embedded"]

    def rows(self) -> list[Row]:
        """Read by the program."""
        measured = measure([*self._command, "rows", str(self._state)], cwd=self._state)
        return [Row(row["path"], row["text"]) for row in _last_json(measured.stdout)]

    def drop(self, share: float) -> None:
        """Deleted by the program, past the framework."""
        measure([*self._command, "drop", str(self._state), str(share)], cwd=self._state)


def _last_json(text: str) -> Any:
    """A framework may chat on stdout; the program's own document is the last line."""
    return json.loads(text.strip().splitlines()[-1])


@dataclass(frozen=True)
class Outcome:
    """A run and the state after it.

    ``least``: distinct chunk texts in the target that no earlier run had put there, so the least that had to be embedded.
    ``stale``: rows of files that are gone, or whose text is not in the file they name. ``missing``: files without any row,
    edited files whose new sentence is in no row, and rows that were there before a run that had nothing to do with them.
    """

    seconds: float
    peak_mb: float
    embedded: int
    least: int
    chunks: int
    stale: int
    missing: int


class Observer:
    """Runs a contender and looks at what it left; remembers every text that it ever had."""

    def __init__(self, contender: Contender, folder: Path) -> None:
        self._contender = contender
        self._folder = folder
        self._seen: set[str] = set()
        self._rows: list[Row] = []

    def run(self, *, edited: Sequence[str] = (), touched: Sequence[str] = ()) -> Outcome:
        """One run. ``edited`` files must be found with MARK; files outside ``touched`` keep the rows they had."""
        measured, embedded = self._contender.ingest()
        before, self._rows = self._rows, self._contender.rows()
        new = {row.text for row in self._rows} - self._seen
        self._seen |= new
        missing = len(self._files() - {row.path for row in self._rows})
        missing += sum(not any(row.path == name and MARK in row.text for row in self._rows) for name in edited)
        kept = {row for row in before if row.path not in touched}
        missing += len(kept - set(self._rows))
        return Outcome(measured.seconds, measured.peak_mb, embedded, len(new), len(self._rows), self._stale(), missing)

    def drop(self, share: float) -> int:
        """Drop rows behind the contender's back; the number that is really gone."""
        before = len(self._rows)
        self._contender.drop(share)
        return before - len(self._contender.rows())

    def _files(self) -> set[str]:
        return {path.relative_to(self._folder).as_posix() for path in _files(self._folder)}

    def _stale(self) -> int:
        texts: dict[str, str] = {}
        count = 0
        for row in self._rows:
            path = self._folder / row.path
            if row.path not in texts:
                texts[row.path] = _squeezed(path.read_text(encoding="utf-8")) if path.is_file() else ""
            count += _squeezed(row.text) not in texts[row.path] or not texts[row.path]
        return count


def _squeezed(text: str) -> str:
    """Without white space, which splitters trim and fold."""
    return "".join(text.split())


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.md"))


@dataclass(frozen=True)
class Change:
    """What happened to the files before a run: the names that are touched, and those that were edited."""

    touched: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()


def _edit(folder: Path, names: Sequence[str]) -> Change:
    for name in names:
        path = folder / name
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        middle = next(index for index in range(len(lines) // 2, len(lines)) if not lines[index].strip())
        path.write_text("".join([*lines[:middle], "\n", MARK, "\n", *lines[middle:]]), encoding="utf-8")
    return Change(tuple(names), tuple(names))


def _rename(folder: Path, names: Sequence[str]) -> Change:
    for name in names:
        (folder / name).rename(folder / name.replace(".md", "-renamed.md"))
    return Change(tuple(names))


def _delete(folder: Path, names: Sequence[str]) -> Change:
    for name in names:
        (folder / name).unlink()
    return Change(tuple(names))


CHANGES: Mapping[str, Callable[[Path, Sequence[str]], Change]] = {"edit": _edit, "rename": _rename, "delete": _delete}


def _contenders(python: Path | None, folder: Path, states: Path) -> list[Contender]:
    found: list[Contender] = [Kb(folder, states / "kb")]
    if python is not None:
        found.append(Peer("llamaindex", "llamaindex.py", python, folder, states / "llamaindex"))
        found.append(Peer("cocoindex", "cocoindex_lancedb.py", python, folder, states / "cocoindex"))
    return found


def compare(source: Path, rounds: int, work: Path, python: Path | None) -> dict[str, dict[str, Any]]:
    """The whole course of events. Returns stage -> contender -> outcome; full runs as medians over ``rounds``."""
    folder = work / "files"
    for path in _files(source):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    full: dict[str, list[Outcome]] = {}
    observers: dict[str, Observer] = {}
    versions: dict[str, Any] = {}
    for number in range(rounds):
        contenders = _contenders(python, folder, work / f"round-{number}")
        # The order turns, so that nobody always runs on a machine that somebody else has warmed.
        for contender in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
            observers[contender.name] = Observer(contender, folder)
            outcome = observers[contender.name].run()
            full.setdefault(contender.name, []).append(outcome)
            results.say(f"full {number + 1}/{rounds} {contender.name}: {outcome}")
            versions[contender.name] = getattr(contender, "version", "")
    stages: dict[str, dict[str, Any]] = {
        "versions": {name: version for name, version in versions.items() if version},
        "full": {name: _median(outcomes) for name, outcomes in full.items()},
    }
    stages["unchanged"] = _stage("unchanged", observers, Change())
    names = [path.relative_to(folder).as_posix() for path in _files(folder)]
    count = max(1, round(CHANGED * len(names)))
    chosen = random.Random(7).sample(names, count * len(CHANGES))
    for index, (kind, change) in enumerate(CHANGES.items()):
        stages[kind] = _stage(kind, observers, change(folder, chosen[index * count : (index + 1) * count]))
    gone = {name: observer.drop(DROPPED) for name, observer in observers.items()}
    stages["drift"] = _stage("drift", observers, Change())
    for name, number in gone.items():
        stages["drift"][name]["dropped"] = number
    return stages


def _stage(kind: str, observers: Mapping[str, Observer], change: Change) -> dict[str, Any]:
    found = {}
    for name, observer in observers.items():
        outcome = observer.run(edited=change.edited, touched=change.touched)
        results.say(f"{kind} {name}: {outcome}")
        found[name] = asdict(outcome)
    return found


def _median(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The run with the median seconds, with the least and greatest beside it."""
    seconds = [each.seconds for each in outcomes]
    middle = min(outcomes, key=lambda each: abs(each.seconds - statistics.median(seconds)))
    return {**asdict(middle), "seconds": round(statistics.median(seconds), 3), "all_seconds": seconds}


def figures(stages: Mapping[str, Mapping[str, Any]]) -> list[results.Figure]:
    """What is judged: speed and memory against the better peer, embeddings against the least possible, and correctness."""
    kb = {stage: outcomes["kb"] for stage, outcomes in stages.items() if "kb" in outcomes}
    peers = [name for name in stages["full"] if name != "kb"]
    found = []
    if peers:
        fastest = min(peers, key=lambda name: stages["full"][name]["seconds"])
        smallest = min(peers, key=lambda name: stages["full"][name]["peak_mb"])
        seconds, memory = stages["full"][fastest]["seconds"], stages["full"][smallest]["peak_mb"]
        found += [
            results.Figure("full run", kb["full"]["seconds"], "s", seconds, fastest, 1.0, of_ratio=True),
            results.Figure("peak memory", kb["full"]["peak_mb"], "MB", memory, smallest, 1.0, of_ratio=True),
        ]
        for stage in ("unchanged", *CHANGES, "drift"):
            quickest = min(peers, key=lambda name: stages[stage][name]["seconds"])
            reference = stages[stage][quickest]["seconds"]
            found.append(results.Figure(f"run after: {stage}", kb[stage]["seconds"], "s", reference, quickest))
    for stage, outcome in kb.items():
        least = outcome["least"]
        if least:
            found.append(
                results.Figure(
                    f"texts embedded: {stage}", outcome["embedded"], "", least, "least possible", 1.0, of_ratio=True
                )
            )
        else:
            found.append(results.Figure(f"texts embedded: {stage}", outcome["embedded"], "", target=0))
        found.append(results.Figure(f"stale or missing: {stage}", outcome["stale"] + outcome["missing"], "", target=0))
    return found


def _part(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[results.Figure]]:
    try:
        python = peers_python()
    except PeersUnavailable as reason:
        results.say(f"without peers: {reason}")
        python = None
    with tempfile.TemporaryDirectory(prefix="kb-bench-") as work:
        stages = compare(arguments.folder.absolute(), arguments.rounds, Path(work), python)
    size = sum(path.stat().st_size for path in _files(arguments.folder))
    return {"files": len(_files(arguments.folder)), "bytes": size, "stages": stages}, figures(stages)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Ingest Markdown files with kb and its peers, and compare.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder with Markdown files")
    parser.add_argument("--rounds", type=int, default=2, help="full runs of each contender (default: %(default)s)")
    results.main(parser, _part)
