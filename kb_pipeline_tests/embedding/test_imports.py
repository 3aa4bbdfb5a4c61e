"""Importing the package, and resolving a model, load neither a model library nor a database."""

from __future__ import annotations

import os
import subprocess
import sys

HEAVY = ("torch", "sentence_transformers", "transformers", "lancedb", "dagster", "sklearn", "pandas")


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ)
    )


def test_importing_and_resolving_load_nothing_heavy() -> None:
    code = f"""
import sys
import kb_pipeline.embedding as e
files = e.resolve()
embedder = e.SentenceTransformerEmbedder(files)
embedder.model_id, embedder.dimension, embedder.max_tokens
print([m for m in {HEAVY!r} if m in sys.modules])
"""
    assert _run(code).stdout.strip() == "[]"


def test_loading_is_silent_and_offline() -> None:
    code = """
import os
os.environ.pop("HF_HUB_OFFLINE", None)
import kb_pipeline.embedding as e
print(e.SentenceTransformerEmbedder(e.resolve(), device="cpu").embed(["a"]).shape)
from huggingface_hub import constants
print(constants.HF_HUB_OFFLINE)
"""
    done = _run(code)
    assert done.stdout.split("\n")[:2] == ["(1, 384)", "True"]
    assert done.stderr == ""
