"""Taking over the tables of an earlier version, which lay at ``<type>/<asset>/<partition>.parquet``: once.

A table gets its new name beside the old one, then a pointer, then the old name goes. Cut short anywhere, it is gone through
once more: what has its pointer isn't taken over twice.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from kb_pipeline import stages, tables
from kb_pipeline.storage.files import Folder, aside_path
from kb_pipeline.storage.partitions import parse_key
from kb_pipeline.storage.storage import Storage, file_of

if TYPE_CHECKING:
    from kb_pipeline.ledger.ledger import Ledger
    from kb_pipeline.ledger.pointers import Pointer

_WAIT = 60.0
"""Seconds to wait for another process that is at it."""
_logger = logging.getLogger(__name__)


def take_over(storage: Storage, ledger: Ledger) -> int:
    """Make tables of an earlier version current where nothing newer is; returns how many. A storage in a bucket has none."""
    files = storage.files
    if not isinstance(files, Folder) or not _old(files.root):
        return 0
    taken = 0
    with ledger.leases.acquire("storage/takeover", "taking over tables of an earlier version", wait=_WAIT) as lease:
        for path in _old(files.root):
            pointer = _pointer(path)
            if pointer is None:
                path.replace(path.with_name(f"{path.name}.damaged"))
                _logger.warning("%s can't be read: it is kept as %s.damaged, and made anew", path, path.name)
                continue
            known = ledger.pointers.get(pointer.asset, pointer.partition)
            if known is None or known.published_at < pointer.published_at:
                _name(path, files.path(file_of(pointer)), storage.staging)
                ledger.pointers.move(lease, pointer)
                taken += 1
            path.unlink()
    if taken:
        _logger.warning("%d tables of an earlier version in %s were taken over: nothing is read anew", taken, files)
    return taken


def _old(root: Path) -> list[Path]:
    """Files with the names that tables had; strangers' files among ours are left alone."""
    found = []
    for asset in (stages.INVENTORY, *stages.names()):
        for path in sorted(root.glob(f"*/{asset}/*.parquet")):
            with suppress(ValueError):
                parse_key(path.parent.parent.name, path.stem)
                found.append(path)
    return found


def _pointer(path: Path) -> Pointer | None:
    """What a table's own metadata say; None for a file that is none, or says nothing."""
    from kb_pipeline.ledger.pointers import Pointer

    try:
        with pq.ParquetFile(path) as file:
            rows, metadata = file.metadata.num_rows, file.metadata.metadata or {}
    except (pa.ArrowException, OSError):
        return None
    link = metadata.get(tables.SOURCE_FINGERPRINT, b"").decode()
    recipe = metadata.get(tables.RECIPE, b"").decode()
    fingerprint = metadata.get(tables.FINGERPRINT, b"").decode()
    if path.parent.name == stages.INVENTORY:
        recipe = metadata.get(tables.LISTING_INFO, b"").decode()
        fingerprint = json.loads(recipe)["listing_id"] if recipe else ""
    if not fingerprint:
        return None
    asset = f"{path.parent.parent.name}/{path.parent.name}"
    return Pointer(asset, path.stem, fingerprint, link, recipe, rows, path.stat().st_mtime)


def _name(old: Path, new: Path, staging: Path) -> None:
    """Give a file a second name, or a copy where the file system has one name for a file."""
    new.parent.mkdir(parents=True, exist_ok=True)
    if new.exists():
        return
    try:
        os.link(old, new)
    except OSError:
        aside = aside_path(staging, old.name)
        shutil.copy2(old, aside)
        aside.replace(new)
