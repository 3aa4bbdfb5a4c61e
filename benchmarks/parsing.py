"""Files of many formats through our parsers and through pypdf, python-docx and markitdown: statuses, speed, memory.

    python benchmarks/parsing.py FOLDER [--json] [--rounds N]

A file's format is the parser that our registry chooses for it. Each tool reads all files of a format in one process of its
own, in turn with the others; the process is ready, and has read the format's smallest file once, before the clock starts.
A file on which a tool crashes, or takes more than a minute, is that tool's failure, and a new process goes on after it.

What belongs here: the course of events and the counting. What doesn't: how a tool is used (``parse_worker``,
``peers/parsers``).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.peers.environment import PARSERS, PeersUnavailable, peers_python
from benchmarks.processes import BenchmarkFailed, PeakMemory, environment
from kb_pipeline.parsing.registry import HEAD_BYTES, choose
from kb_pipeline.statuses import Status

ROOT = Path(__file__).parents[1]
SECONDS = 60.0
"""What a file may take."""
_START_SECONDS = 120.0
NO_PARSER = "no parser"
_FAILED = ("failed", "crashed", "timed_out")


@dataclass(frozen=True)
class Tool:
    """One way to read files. ``extensions`` that it takes; None for all."""

    name: str
    command: tuple[str, ...]
    extensions: frozenset[str] | None = None

    def takes(self, files: Iterable[Path]) -> bool:
        """Whether it is meant for all of these files."""
        return self.extensions is None or all(path.suffix.lower() in self.extensions for path in files)


@dataclass
class Outcome:
    """One tool over the files of one format: statuses by name, seconds of reading and parsing, peak memory, restarts."""

    statuses: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    characters: int = 0
    peak_mb: float = 0.0
    restarts: int = 0
    version: str = ""
    failures: list[str] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)


class _Gone(Exception):
    """The worker ended, or took too long: the status of the file it had."""


class _Worker:
    """A tool's process, one file at a time."""

    def __init__(self, tool: Tool) -> None:
        self._process = subprocess.Popen(
            tool.command,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout.fileno()
        self._rest = b""
        self.memory = PeakMemory(self._process.pid)
        self.memory.__enter__()
        try:
            self.version = str(self._answer(_START_SECONDS)["version"])
        except _Gone as reason:
            self.end()
            raise BenchmarkFailed(f"{' '.join(tool.command)}: {reason} before it was ready") from None

    def read(self, path: Path) -> dict[str, Any]:
        """The answer for a file. Raises _Gone, after which the worker is of no use."""
        try:
            self._in.write(os.fsencode(path) + b"\n")
            self._in.flush()
        except BrokenPipeError:
            raise _Gone("crashed") from None
        return self._answer(SECONDS)

    def _answer(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Gone("timed_out")
            piece = os.read(self._out, 1 << 16)
            if not piece:
                raise _Gone("crashed")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> float:
        """Kill the worker with what it started; returns its peak memory in MB (10**6 bytes)."""
        self.memory.__exit__()
        os.killpg(self._process.pid, 9)
        self._process.communicate()
        return round(self.memory.peak / 1e6, 1)


def over(tool: Tool, files: Sequence[Path]) -> Outcome:
    """One tool over the files of one format."""
    outcome, statuses = Outcome(), Counter[str]()
    worker: _Worker | None = None
    first = min(files, key=lambda path: path.stat().st_size or float("inf"))
    queue = [(first, False), *((path, True) for path in files)]
    for path, counts in queue:
        if worker is None:
            worker = _Worker(tool)
            outcome.version = worker.version
        begin = time.perf_counter()
        try:
            answer = worker.read(path)
        except _Gone as reason:
            answer = {"status": str(reason), "characters": 0, "seconds": time.perf_counter() - begin}
            outcome.peak_mb = max(outcome.peak_mb, worker.end())
            outcome.restarts += 1
            worker = None
        if not counts:
            continue
        statuses[answer["status"]] += 1
        outcome.seconds += answer["seconds"]
        outcome.characters += answer["characters"]
        if answer["status"] in _FAILED:
            outcome.failures.append(f"{path.name}: {answer.get('error', answer['status'])}")
    if worker is not None:
        outcome.peak_mb = max(outcome.peak_mb, worker.end())
    size = sum(path.stat().st_size for path in files)
    outcome.statuses = dict(sorted(statuses.items()))
    outcome.rates = {
        "mb_per_s": round(size / 1e6 / outcome.seconds, 3),
        "docs_per_s": round(len(files) / outcome.seconds, 2),
    }
    outcome.seconds = round(outcome.seconds, 4)
    return outcome


def formats(folder: Path) -> dict[str, list[Path]]:
    """Parser's name -> the files it is chosen for."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or "\n" in str(path):
            continue
        with path.open("rb") as file:
            parser = choose(path.name, file.read(HEAD_BYTES))
        found.setdefault(parser.id.partition("/")[0] if parser else NO_PARSER, []).append(path)
    return dict(sorted(found.items()))


def compare(folder: Path, tools: Sequence[Tool], rounds: int) -> dict[str, dict[str, Any]]:
    """Format -> its files, bytes, and each tool's outcome: of the round in which it was fastest."""
    found: dict[str, dict[str, Any]] = {}
    for name, files in formats(folder).items():
        size = sum(path.stat().st_size for path in files)
        found[name] = {"files": len(files), "bytes": size, "tools": {}}
        # What we have no parser for is none of a comparison; that we say so is.
        chosen = [tool for tool in tools if tool.takes(files) and (name != NO_PARSER or tool.name == "kb")]
        for number in range(rounds):
            # The order turns, so that nobody always reads what somebody else has brought into memory.
            for tool in chosen[number % len(chosen) :] + chosen[: number % len(chosen)] if chosen else []:
                outcome = over(tool, files)
                results.say(f"{name}, {tool.name}: {outcome}")
                best = found[name]["tools"].get(tool.name)
                if best is None or outcome.seconds < best["seconds"]:
                    found[name]["tools"][tool.name] = asdict(outcome)
    return found


def figures(found: dict[str, dict[str, Any]]) -> list[results.Figure]:
    """What we do with each format, beside the fastest and the smallest of the others."""
    shown = []
    for name, facts in found.items():
        tools = dict(facts["tools"])
        ours = tools.pop("kb", None)
        shown.append(results.Figure(f"{name}: files", facts["files"], ""))
        if ours is None or name == NO_PARSER:
            continue
        shown.append(results.Figure(f"{name}: parsed", ours["statuses"].get("parsed", 0), ""))
        shown += [
            results.Figure(f"{name}: {status}", count, "")
            for status, count in ours["statuses"].items()
            if status != Status.PARSED
        ]
        for rate, unit in (("docs_per_s", "docs/s"), ("mb_per_s", "MB/s")):
            fastest = max(tools, key=lambda tool, rate=rate: tools[tool]["rates"][rate], default="")  # type: ignore[misc]
            reference = tools[fastest]["rates"][rate] if fastest else None
            figure = results.Figure(
                f"{name}: {unit}", ours["rates"][rate], unit, reference, f"{unit} {fastest}", better="higher"
            )
            shown.append(figure)
        smallest = min(tools, key=lambda tool: tools[tool]["peak_mb"], default="")
        reference = tools[smallest]["peak_mb"] if smallest else None
        shown.append(results.Figure(f"{name}: peak memory", ours["peak_mb"], "MB", reference, f"MB {smallest}"))
        for tool, theirs in tools.items():
            shown.append(
                results.Figure(f"{name}: parsed by {tool} {theirs['version']}", theirs["statuses"].get("parsed", 0), "")
            )
    return shown


def _tools() -> list[Tool]:
    found = [Tool("kb", (sys.executable, "-m", "benchmarks.parse_worker"))]
    try:
        program = (str(peers_python(PARSERS)), str(PARSERS / "worker.py"))
    except PeersUnavailable as reason:
        results.say(f"without peers: {reason}")
        return found
    return [
        *found,
        Tool("pypdf", (*program, "pypdf"), frozenset({".pdf"})),
        Tool("python-docx", (*program, "python-docx"), frozenset({".docx"})),
        Tool("markitdown", (*program, "markitdown")),
    ]


def _part(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[results.Figure]]:
    found = compare(arguments.folder.absolute(), _tools(), arguments.rounds)
    return {"seconds_allowed": SECONDS, "formats": found}, figures(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Parse files with our parsers and others, and compare.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder with files of any formats")
    parser.add_argument("--rounds", type=int, default=1, help="times that each tool reads them (default: %(default)s)")
    results.main(parser, _part)
