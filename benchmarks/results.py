"""What a benchmark says: figures with a reference, a target and a verdict, as one JSON document or as a table.

What belongs here: the shape of results, for all parts alike. What doesn't: measuring.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil

RESULTS = Path(__file__).with_name("results")
"""Where ``make bench`` keeps one JSON file per part; docs/performance.md quotes nothing else."""

_PACKAGES = ["dagster", "lancedb", "sentence-transformers", "torch", "pyarrow"]


@dataclass(frozen=True)
class Figure:
    """One measured figure beside its reference.

    ``target``: the bound, on ``ratio`` (value ÷ reference) where there is a reference and ``of_ratio``, else on ``value``.
    A figure without a target is shown for information.
    """

    name: str
    value: float
    unit: str
    reference: float | None = None
    reference_name: str = ""
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"
    of_ratio: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """value ÷ reference."""
        return round(self.value / self.reference, 3) if self.reference else None

    @property
    def verdict(self) -> str:
        """met, missed, or an empty string where there is no target."""
        judged = self.ratio if self.of_ratio else self.value
        if self.target is None:
            return ""
        if judged is None:
            return "missed"
        return "met" if (judged <= self.target if self.better == "lower" else judged >= self.target) else "missed"

    def document(self) -> dict[str, Any]:
        """As JSON, with ratio and verdict."""
        return {**asdict(self), "ratio": self.ratio, "verdict": self.verdict}


def machine() -> dict[str, Any]:
    """What it ran on; no names of hosts or people."""
    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


HEADINGS = ("figure", "value", "reference", "ratio", "target", "verdict")


def rows(figures: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Figures as text, one tuple of HEADINGS each."""
    found: list[tuple[str, ...]] = []
    for each in figures:
        sign = "≤" if each["better"] == "lower" else "≥"
        suffix = "x" if each["of_ratio"] else ""
        found.append(
            (
                each["name"],
                _number(each["value"], each["unit"]),
                "" if each["reference"] is None else _number(each["reference"], each["reference_name"]),
                "" if each["ratio"] is None else f"{each['ratio']:.2f}",
                "" if each["target"] is None else f"{sign} {each['target']:g}{suffix}",
                each["verdict"] + (f" ({each['note']})" if each["note"] else ""),
            )
        )
    return found


def _number(value: float, what: str) -> str:
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{text} {what}".strip()


def table(figures: Sequence[Mapping[str, Any]]) -> str:
    """Figures as an aligned table."""
    lines = [HEADINGS, *rows(figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


Part = Callable[[argparse.Namespace], tuple[dict[str, Any], Sequence[Figure]]]


def main(parser: argparse.ArgumentParser, part: Part) -> None:
    """Run one part from the command line: ``--json`` prints one JSON document, otherwise a table; notes go to stderr.

    ``part`` returns the document's own keys and its figures.
    """
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    own, figures = part(arguments)
    document = {**own, "figures": [each.document() for each in figures], "machine": machine()}
    print(json.dumps(document, indent=1, ensure_ascii=False) if arguments.json else table(document["figures"]))


def say(text: str) -> None:
    """A line about progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
