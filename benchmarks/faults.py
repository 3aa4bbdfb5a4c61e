"""Connections in trouble beside healthy ones: a storm of 429, and a server that accepts and never answers.

    python benchmarks/faults.py [--storm SECONDS] [--rounds N] [--documents N] [--json]

Three healthy connections (two folders, one service) are ingested alone, and then beside a service that throttles everything
for a while and one that is silent; in turn, so many rounds. A connection's time is from the start of ``kb run`` to its last
materialization, as Dagster's event log has it. The services are on this machine and plain (``kb_pipeline_tests.shelf``).

What belongs here: what trouble of some costs the others, and what becomes of it. What doesn't: speed (``ingest``).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks import results
from benchmarks.processes import KbProject
from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests.acceptance.project import install_connectors
from kb_pipeline_tests.shelf import Shelf, Storm, shelf

HEALTHY = ("letters", "minutes", "service")
STORMY, SILENT = "stormy", "silent"
FEW = 12
"""Documents of each connection in trouble: it is its trouble that is to be seen, not its work."""
TIMEOUT_SECONDS = 5.0
COOLDOWN_SECONDS = 5.0
ERRORS = {
    "timeout_seconds": TIMEOUT_SECONDS,
    "breaker": {"cooldown_seconds": COOLDOWN_SECONDS, "max_cooldown_seconds": 4 * COOLDOWN_SECONDS},
}
MOST = 1.1
"""A healthy connection may take so many times as long as alone."""


@dataclass(frozen=True)
class Round:
    """One ``kb run``. ``seconds``: by connection, to its last materialization; ``published``: to the first release."""

    seconds: Mapping[str, float]
    published: float
    report: Mapping[str, Any]
    status: Mapping[str, Any]


class Setting:
    """Three healthy connections, and servers for those in trouble."""

    def __init__(self, root: Path, documents: int, closing: ExitStack) -> None:
        self._root = root
        self._environment = install_connectors(root / "site")
        self._folders = root / "folders"
        for name in HEALTHY[:2]:
            (self._folders / name).mkdir(parents=True)
            for key, text in _documents(name, documents).items():
                (self._folders / name / key).write_text(text, encoding="utf-8")
        self._shelves: dict[str, Shelf] = {
            name: closing.enter_context(shelf(_documents(name, number)))
            for name, number in ((HEALTHY[2], documents), (STORMY, FEW), (SILENT, FEW))
        }
        self._number = 0

    def run(self, *, trouble: bool, storm: float = 0.0) -> tuple[Round, KbProject]:
        """Ingest into a storage of its own."""
        sources = [{"name": name, "type": "local_directory", "path": str(self._folders / name)} for name in HEALTHY[:2]]
        sources.append(self._connection(HEALTHY[2]))
        if trouble:
            sources += [self._connection(STORMY), self._connection(SILENT)]
            self._shelves[STORMY].fault = Storm(storm)
            self._shelves[SILENT].fault = self._shelves[SILENT].silence
        self._number += 1
        project = KbProject(self._root / f"round-{self._number}", sources, errors=ERRORS)
        began = time.time()
        report = project.kb("run", "--json", extra=self._environment, codes=(0, 1)).json
        status = project.kb("status", "--json", extra=self._environment).json
        names = HEALTHY + ((STORMY,) if trouble else ())
        seconds = {name: _finished(project, status["sources"][name]["type"], name) - began for name in names}
        first = Releases(Storage.of_folder(project.storage)).all()[0]
        published = datetime.fromisoformat(first.created_at).timestamp() - began
        return Round(seconds, published, report, status), project

    def heal(self, project: KbProject) -> str:
        """The silent server answers again: the state of its breaker after the next run that is due."""
        self._shelves[SILENT].fault = lambda path: None
        deadline = time.monotonic() + 20 * COOLDOWN_SECONDS
        while True:
            project.kb("run", "--json", "--sources", SILENT, extra=self._environment, codes=(0, 1))
            state = str(project.kb("status", "--json", extra=self._environment).json["sources"][SILENT]["breaker"])
            if state == "closed" or time.monotonic() > deadline:
                return state

    def _connection(self, name: str) -> dict[str, str]:
        return {"name": name, "type": "shelf", "url": self._shelves[name].url}


def _documents(name: str, number: int) -> dict[str, str]:
    """Documents of about one chunk each, all different."""
    sentence = "The {name} of day {day} say that pump {pump} of station {station} was serviced and that its seal held."
    return {
        f"{name}-{day:04d}.md": f"# {name.capitalize()} {day}\n\n"
        + " ".join(sentence.format(name=name, day=day, pump=day * 7 + line, station=line) for line in range(6))
        for day in range(number)
    }


def _finished(project: KbProject, type_: str, name: str) -> float:
    """When a connection's last stage was recorded, in seconds since the epoch."""
    with dg.DagsterInstance.from_config(str(project.storage / "dagster")) as instance:
        found = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey([type_, "embeddings"]), asset_partitions=[name]), limit=1
        ).records
    if not found:
        raise RuntimeError(f"{name} has no embeddings")
    return float(found[0].timestamp)


def _part(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[results.Figure]]:
    alone: list[Round] = []
    beside: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="kb-bench-") as folder, ExitStack() as closing:
        setting = Setting(Path(folder), arguments.documents, closing)
        setting.run(trouble=False)  # files and libraries come from the disk once
        for number in range(arguments.rounds):
            alone.append(setting.run(trouble=False)[0])
            found, project = setting.run(trouble=True, storm=arguments.storm)
            beside.append(found)
            results.say(f"round {number + 1}: alone {_shown(alone[-1])}; beside trouble {_shown(found)}")
        healed = setting.heal(project)
    own = {
        "storm_seconds": arguments.storm,
        "documents": arguments.documents,
        "timeout_seconds": TIMEOUT_SECONDS,
        "alone": [_shown(each) for each in alone],
        "beside": [_shown(each) for each in beside],
    }
    return own, _figures(alone, beside, healed)


def _shown(found: Round) -> dict[str, float]:
    return {name: round(seconds, 2) for name, seconds in {**found.seconds, "published": found.published}.items()}


def _figures(alone: Sequence[Round], beside: Sequence[Round], healed: str) -> list[results.Figure]:
    def median(rounds: Sequence[Round], name: str) -> float:
        return round(statistics.median(_shown(each)[name] for each in rounds), 2)

    figures = [
        results.Figure(
            f"{name}, beside a storm and a silent server",
            median(beside, name),
            "s",
            median(alone, name),
            "alone",
            MOST,
            of_ratio=True,
        )
        for name in HEALTHY
    ]
    figures.append(
        results.Figure(
            "first release", median(beside, "published"), "s", median(alone, "published"), "alone", MOST, of_ratio=True
        )
    )
    quarantined = max(each.report["totals"]["quarantined"] for each in beside)
    missing = max(FEW - each.report["sources"][STORMY]["indexed"] for each in beside)
    figures += [
        results.Figure("documents in quarantine", quarantined, "", target=0),
        results.Figure("documents of the throttled service that are missing", missing, "", target=0),
        results.Figure("throttled service, to the end", median(beside, STORMY), "s"),
    ]
    opened = min(_breaker(each, STORMY, "occurred") for each in beside)
    stayed = sum(each.status["sources"][STORMY]["breaker"] != "closed" for each in beside)
    ignored = sum(each.status["sources"][SILENT]["breaker"] != "open" for each in beside)
    figures += [
        results.Figure("times the breaker of the throttled service opened, at least", opened, "", target=1, better="higher"),
        results.Figure("rounds after which it was not closed again", stayed, "", target=0),
        results.Figure("rounds after which the breaker of the silent server was not open", ignored, "", target=0),
        results.Figure("breakers not closed after the silent server answered again", int(healed != "closed"), "", target=0),
    ]
    return figures


def _breaker(found: Round, name: str, what: str) -> int:
    errors = found.status["sources"][name]["errors"]
    return sum(int(each[what]) for each in errors if each["strategy"] == "breaker")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what connections in trouble cost the others.")
    parser.add_argument("--storm", type=float, default=20.0, metavar="SECONDS", help="how long everything is throttled")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="runs of each kind; the median counts")
    parser.add_argument("--documents", type=int, default=60, metavar="N", help="of each healthy connection")
    results.main(parser, _part)
