"""LlamaIndex's IngestionPipeline over a folder of Markdown files, into LanceDB: ``python llamaindex.py --help``.

The pipeline is the one that LlamaIndex documents for keeping a store in step: docstore, UPSERTS_AND_DELETE, cache,
``persist`` and ``load``. README.md says why each setting is what it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import program

CHUNK_TOKENS = 254
"""What the model reads of a text, and what kb cuts to."""

EMBED_BATCH = 32


def ingest(folder: Path, state: Path) -> int:
    """One run of the pipeline; returns the number of texts embedded."""
    # Both before the imports below, which read them.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

    from llama_index.core import SimpleDirectoryReader
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.vector_stores.lancedb import LanceDBVectorStore
    from tokenizers import Tokenizer

    embedded = 0

    class CountingEmbedding(HuggingFaceEmbedding):
        def _embed(self, inputs: list[Any], prompt_name: str | None = None) -> list[list[float]]:
            nonlocal embedded
            embedded += len(inputs)
            return super()._embed(inputs, prompt_name)  # type: ignore[no-any-return]

    class Store(LanceDBVectorStore):
        def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
            # Its own (0.6.0) puts the id between double quotes, which lancedb takes for the name of a column: every sync
            # with an edit, a rename or a delete would end there, with ValueError.
            quoted = ref_doc_id.replace("'", "''")
            self.table.delete(f"{self.doc_id_key} = '{quoted}'")

    def metadata(path: str) -> dict[str, str]:
        # The default adds dates, which are part of a document's hash: a file that is only touched would be embedded anew.
        return {"file_path": Path(path).relative_to(folder).as_posix()}

    documents = SimpleDirectoryReader(
        folder, recursive=True, required_exts=[".md"], filename_as_id=True, file_metadata=metadata
    ).load_data()
    for document in documents:
        # Relative ids, so that folder and state can be moved together.
        document.id_ = document.metadata["file_path"]
        # By default the path goes into each text that is embedded. kb's texts have none, and it would take tokens from them.
        document.excluded_embed_metadata_keys.append("file_path")
        document.excluded_llm_metadata_keys.append("file_path")

    model = program.model_folder()
    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def tokens(text: str) -> list[int]:
        # Twice as fast as `encode`, which also computes offsets.
        return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids  # type: ignore[no-any-return]

    pipeline = IngestionPipeline(
        transformations=[
            SentenceSplitter(chunk_size=CHUNK_TOKENS, chunk_overlap=0, tokenizer=tokens),
            CountingEmbedding(model_name=model, embed_batch_size=EMBED_BATCH),
        ],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
        vector_store=Store(uri=str(program.database(state)), table_name=program.TABLE, mode="create"),
    )
    storage = state / "pipeline"
    if storage.is_dir():
        pipeline.load(str(storage))
    pipeline.run(documents=documents)
    pipeline.persist(str(storage))
    return embedded


def row_path(row: dict[str, Any]) -> str:
    """The path of a row's file, relative to the folder."""
    return str(row["metadata"]["file_path"])


if __name__ == "__main__":
    program.run(program.Peer("llama-index-core", ingest, row_path))
