"""A writer for test_leases: takes a lease, says so, works until it is told to go on, and publishes a file.

Arguments: url of the ledger, ttl in seconds, file to publish, file whose existence means "go on".
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from kb_pipeline.ledger.errors import LeaseLost
from kb_pipeline.ledger.ledger import Ledger

LOST = 3


def main() -> int:
    url, ttl, target, go_on = sys.argv[1:]
    with Ledger(url, lease_ttl=float(ttl)).leases.acquire("t/documents/a", "the stopped writer") as lease:
        print("holding", flush=True)
        while not Path(go_on).exists():
            threading.Event().wait(0.01)
        try:
            lease.commit(lambda _: Path(target).write_text("from the stopped writer"))
        except LeaseLost as error:
            print(error, flush=True)
            return LOST
    return 0


if __name__ == "__main__":
    sys.exit(main())
