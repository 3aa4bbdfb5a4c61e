"""The house stands: imports run from upper floors to lower ones, and Dagster stays where it belongs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kb_pipeline"
FLOORS = [
    {"flow", "monitoring", "tables", "statuses", "findings"},
    {"stages"},
    {"archives", "ledger"},
    {"storage"},
    {"sources", "settings", "parsing", "chunking", "embedding"},
    {"knowledge_base"},
    {"ingestion"},
    {"dagster_home"},
    {"defs", "environment", "batch"},
    {"definitions"},
    {"orchestrator"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
SAME_FLOOR = {("settings", "sources"), ("sources", "settings"), ("chunking", "parsing"), ("settings", "chunking")}
KNOW_DAGSTER = {"defs", "definitions", "orchestrator", "environment", "cli"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            if node.module == "kb_pipeline":
                yield from (f"kb_pipeline.{alias.name}" for alias in node.names)


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in MODULES} == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_downwards(path: Path) -> None:
    room = room_of(path)
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "dagster":
            assert room in KNOW_DAGSTER, f"{path.name} imports Dagster"
        if parts[0] != "kb_pipeline" or len(parts) < 2 or parts[1] not in LEVEL or parts[1] == room:
            continue
        below = LEVEL[parts[1]] < LEVEL[room] or (room, parts[1]) in SAME_FLOOR
        assert below, f"{room} (floor {LEVEL[room]}) imports {module} (floor {LEVEL[parts[1]]})"


def test_syntax_trees_are_drawn_in_the_parser_processes_only() -> None:
    """Native code over hostile bytes: ``parsing`` runs where it may be killed."""
    users = {room_of(path) for path in MODULES if "tree_sitter" in path.read_text(encoding="utf-8")}
    assert users == {"parsing"}
