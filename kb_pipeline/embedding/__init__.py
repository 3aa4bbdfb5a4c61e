"""Texts to vectors: the model, batching, and the content-addressed store of vectors.

What belongs here: the names that other packages use. Importing this loads no model library and no database.
"""

from kb_pipeline.embedding.base import Embedder, Vectors
from kb_pipeline.embedding.embed import EmbedResult, embed_missing, text_key
from kb_pipeline.embedding.errors import (
    EmbeddingError,
    ModelMismatch,
    ModelNotFound,
    UnsupportedModel,
    VectorStoreError,
)
from kb_pipeline.embedding.model_files import DEFAULT_MODEL, ModelFiles, resolve
from kb_pipeline.embedding.sentence_transformer import SentenceTransformerEmbedder
from kb_pipeline.embedding.vector_store import VectorStore

__all__ = [
    "DEFAULT_MODEL",
    "EmbedResult",
    "Embedder",
    "EmbeddingError",
    "ModelFiles",
    "ModelMismatch",
    "ModelNotFound",
    "SentenceTransformerEmbedder",
    "UnsupportedModel",
    "VectorStore",
    "VectorStoreError",
    "Vectors",
    "embed_missing",
    "resolve",
    "text_key",
]
