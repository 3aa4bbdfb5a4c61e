"""What the tests of the stages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kb_pipeline.storage.lease import LeaseStore
from kb_pipeline.storage.table import Storage
from kb_pipeline_tests.ingestion.made import Made


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An empty connection with a storage of its own."""
    storage = Storage(tmp_path)
    return Made(storage, LeaseStore(storage.state_path))
