"""What the tests of the stages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests.ingestion.made import Made


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An empty connection with a storage of its own."""
    return Made(Storage.of_folder(tmp_path))
