"""What the tests of the stages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.storage.table import Storage
from kb_pipeline_tests.ingestion.made import Made


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An empty connection with a storage of its own."""
    storage = Storage(tmp_path)
    return Made(storage, Ledger.of_file(storage.ledger_path).leases)
