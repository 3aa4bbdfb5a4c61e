"""Files to documents, chunks and vectors from Python: the pipeline's own stages, without Dagster, storage or release.

What belongs here: the stages in a row over a list of files. What doesn't: anything that is kept for a next time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, ClassVar

import numpy as np
import pyarrow as pa

from kb_pipeline import tables
from kb_pipeline.embedding.base import Vectors
from kb_pipeline.ingestion import chunks, documents
from kb_pipeline.ingestion.parsers import parsers
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.settings.load import load
from kb_pipeline.settings.model import Settings
from kb_pipeline.sources.base import Item, ItemUnreadable, ItemVanished, SourceConfig
from kb_pipeline.sources.names import escape
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage

_PARTITION = Partition("batch", "batch")

Progress = Callable[[str, int, int], None]
"""(stage, done, total): "documents" and "embeddings" count what they work on, "chunks" counts documents."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of some files.

    ``documents``  one row for every file and for everything inside one, with its status; columns of ``tables.DOCUMENTS``.
                   Files that could not be read or parsed are rows as well: ``status`` and ``detail`` say why.
    ``chunks``     columns of ``tables.CHUNKS``; ``document_id`` says of which document.
    ``vectors``    (len(chunks), dimension) float32: row i is the vector of chunk i.
    ``counts``     listed = indexed + quarantined + excluded, as in the report of ``kb run``.
    ``model_id``   what the vectors were computed with; only vectors of one model id can be compared.
    """

    documents: pa.Table
    chunks: pa.Table
    vectors: Vectors
    counts: Mapping[str, int]
    model_id: str


def process_batch(
    paths: Iterable[str | os.PathLike[str]],
    profile: str = "balanced",
    *,
    config: str | os.PathLike[str] | None = None,
    on_progress: Progress | None = None,
) -> Batch:
    """Parse, cut and embed files, in the order given. A file that fails costs its row a status; the rest goes on.

    ``profile``: how much of the machine to take. ``config``: a kb.yaml whose model, chunking and limits hold.
    The same file gives the same chunks and vectors as in a release made with the same settings.
    Raises ValueError for an unknown profile, TypeError for a path by itself, ConfigError for a bad ``config``.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise TypeError(f"process_batch takes a list of paths, not {paths!r} by itself")
    report = on_progress or (lambda stage, done, total: None)
    here = Path.cwd()
    settings = load(Path(config)) if config is not None else Settings(base=here, path=here / "kb.yaml")
    workspace = Workspace(settings.with_profile(profile))
    files = _Files(paths)
    with TemporaryDirectory(prefix="kb-batch-") as folder:
        storage = Storage.of_folder(Path(folder))
        with storage.ledger as ledger, ledger.leases.acquire("batch", "a batch") as lease:
            staged = documents.update(
                storage,
                _PARTITION,
                list(files.list()),
                files,
                parsers(workspace.limits).submit,
                workspace.limits,
                retries=frozenset(),
                on_progress=lambda done, total, size=None: report("documents", done, total),
            )
            staged.publish(lease)
            chunks.update(
                storage,
                _PARTITION,
                workspace.tokenizer,
                workspace.chunkers,
                on_progress=lambda done, total, size=None: report("chunks", done, total),
            ).publish(lease)
            with (
                storage.require("documents", _PARTITION) as documents_table,
                storage.require("chunks", _PARTITION) as chunks_table,
            ):
                found, cut = files.in_order(documents_table.read(), chunks_table.read())
    vectors = _embed(cut, workspace, report)
    return Batch(found, cut, vectors, staged.counts, workspace.embedder.model_id)


def _embed(cut: pa.Table, workspace: Workspace, report: Progress) -> Vectors:
    """The vectors of chunks, (len(cut), dimension) float32; equal texts are embedded once."""
    numbers: dict[str, int] = {}
    place = [numbers.setdefault(key, len(numbers)) for key in tables.values(cut["text_sha256"])]
    distinct = cut.take(pa.array(np.unique(place, return_index=True)[1], pa.int64()))
    done = 0

    def embedded(texts: int) -> None:
        nonlocal done
        done += texts
        report("embeddings", done, len(numbers))

    texts = [
        prefix + text for prefix, text in zip(*(distinct[name].to_pylist() for name in ("prefix", "text")), strict=True)
    ]
    vectors = workspace.embedder.embed(texts, tables.values(distinct["n_tokens"]), embedded)
    return vectors[np.array(place, np.int64)]


class _Files:
    """Files by their paths, as a source."""

    Config: ClassVar[type[SourceConfig]] = SourceConfig

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self._paths = {escape(os.fspath(path)): Path(path) for path in paths}

    def list(self) -> Iterator[Item]:
        for key in sorted(self._paths):
            path = self._paths[key]
            try:
                size = path.stat().st_size if path.is_file() else None
                uri = Path(os.path.abspath(path)).as_uri()
            except (OSError, ValueError):  # told when it is read; ValueError: no name of a file has such characters
                size, uri = None, f"file:{key}"
            yield Item(key, "", escape(path.name), uri, size)

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        path = self._paths[item.key]
        try:
            # Not blocking, or a pipe would have us wait for whoever writes to it.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except (FileNotFoundError, ValueError):
            raise ItemVanished(f"{item.key} doesn't exist.") from None
        except OSError as error:
            raise ItemUnreadable(f"{item.key} can't be read: {error.strerror}.") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ItemUnreadable(f"{item.key} is no regular file.")
        with open(descriptor, "rb") as file:
            yield file

    def probe(self) -> str:
        return f"{len(self._paths)} files"

    def in_order(self, found: pa.Table, cut: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Documents in the order of the paths, what is inside each behind it; chunks in the order of documents."""
        order = {key: number for number, key in enumerate(self._paths)}
        rows = found.select(["key", "within", "document_id"]).to_pylist()
        place = [(order[row["within"] or row["key"]], row["within"] is not None, row["key"]) for row in rows]
        found = found.take(pa.array(sorted(range(len(rows)), key=place.__getitem__), pa.int64()))
        rank = {document: number for number, document in enumerate(found["document_id"].to_pylist())}
        rows = cut.select(["document_id", "ordinal"]).to_pylist()
        pieces = [(rank[row["document_id"]], row["ordinal"]) for row in rows]
        return found, cut.take(pa.array(sorted(range(len(rows)), key=pieces.__getitem__), pa.int64()))
