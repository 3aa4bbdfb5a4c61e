"""CocoIndex over a folder of Markdown files, into LanceDB: ``python cocoindex_lancedb.py --help``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import program


def ingest(folder: Path, state: Path) -> int:
    """One update of the flow; returns the number of texts embedded."""
    # Before the import, which would report to a server and wait for it.
    os.environ["COCOINDEX_DISABLE_USAGE_TRACKING"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

    from cocoindex_flow import update

    return update(folder, state)


def row_path(row: dict[str, Any]) -> str:
    """The path of a row's file, relative to the folder."""
    return str(row["filename"])


if __name__ == "__main__":
    program.run(program.Peer("cocoindex", ingest, row_path))
