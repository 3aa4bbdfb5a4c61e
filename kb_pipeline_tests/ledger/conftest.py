"""The contract suite: each test runs on SQLite and on a real Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from kb_pipeline.ledger.ledger import Ledger

OpenLedger = Callable[..., Ledger]


@pytest.fixture
def open_ledger(ledger_url: str) -> Iterator[OpenLedger]:
    """Opens the same database once more, as another process would; ``lease_ttl`` may be given."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Ledger(ledger_url, **options))


@pytest.fixture
def ledger(open_ledger: OpenLedger) -> Ledger:
    return open_ledger()
