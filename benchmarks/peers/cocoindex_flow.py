"""The flow that CocoIndex documents for Markdown files in LanceDB: a component per file, a memo per file and per text.

Apart from its program because CocoIndex reads the environment when it is imported. README.md says why each setting is
what it is.
"""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import cocoindex as coco
import numpy as np
import program
from cocoindex.connectors import lancedb, localfs
from cocoindex.ops.sentence_transformers import SentenceTransformerEmbedder
from cocoindex.ops.text import RecursiveSplitter
from cocoindex.resources.chunk import Chunk
from cocoindex.resources.file import FileLike, PatternFilePathMatcher
from cocoindex.resources.id import IdGenerator
from numpy.typing import NDArray

CHUNK_BYTES = 1000
"""CocoIndex measures chunks in bytes. This gives as many as 254 tokens do (1,118 and 1,066 on the Rust book)."""


class CountingEmbedder(SentenceTransformerEmbedder):
    """CocoIndex's own embedder; counts what goes through the model."""

    embedded = 0

    def _get_model(self) -> Any:
        loaded = self._model is not None
        model = super()._get_model()
        if not loaded:
            encode = model.encode

            def counting(texts: list[str], **options: Any) -> Any:
                self.embedded += len(texts)
                return encode(texts, **options)

            model.encode = counting
        return model


FOLDER = coco.ContextKey[pathlib.Path]("folder")
DATABASE = coco.ContextKey[lancedb.LanceAsyncConnection]("database")
EMBEDDER = coco.ContextKey[CountingEmbedder]("embedder")

_splitter = RecursiveSplitter()


@dataclass
class Row:
    """A row of the target."""

    id: int
    filename: str
    chunk_start: int
    chunk_end: int
    text: str
    embedding: Annotated[NDArray[np.float32], EMBEDDER]


@coco.fn
async def process_chunk(chunk: Chunk, filename: pathlib.PurePath, ids: IdGenerator, table: lancedb.TableTarget[Row]) -> None:
    table.declare_row(
        row=Row(
            id=await ids.next_id(chunk.text),
            filename=filename.as_posix(),
            chunk_start=chunk.start.char_offset,
            chunk_end=chunk.end.char_offset,
            text=chunk.text,
            embedding=await coco.use_context(EMBEDDER).embed(chunk.text),
        )
    )


@coco.fn(memo=True)
async def process_file(file: FileLike, table: lancedb.TableTarget[Row]) -> None:
    text = await file.read_text()
    chunks = _splitter.split(text, chunk_size=CHUNK_BYTES, chunk_overlap=0, language="markdown")
    await coco.map(process_chunk, chunks, file.file_path.path, IdGenerator(), table)


@coco.fn
async def process_folder() -> None:
    schema = await lancedb.TableSchema.from_class(Row, primary_key=["id"])
    table = await lancedb.mount_table_target(DATABASE, program.TABLE, schema)
    matcher = PatternFilePathMatcher(included_patterns=["**/*.md"])
    # By its key and not by its path: paths and memos are then relative, and folder and state can be moved together.
    files = localfs.walk_dir(FOLDER, recursive=True, path_matcher=matcher)
    await coco.mount_each(process_file, files.items(), table)


def update(folder: pathlib.Path, state: pathlib.Path) -> int:
    """Bring the table in step with the folder, once; returns the number of texts embedded."""
    embedder = CountingEmbedder(program.model_folder())

    @coco.lifespan
    async def resources(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
        builder.settings.db_path = state / "cocoindex.db"
        builder.provide(FOLDER, folder)
        builder.provide(DATABASE, await lancedb.connect_async(str(program.database(state))))
        builder.provide(EMBEDDER, embedder)
        yield

    coco.App(coco.AppConfig(name="peers"), process_folder).update_blocking()
    return embedder.embedded
