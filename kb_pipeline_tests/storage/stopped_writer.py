"""A writer for test_lease: takes a lease, says so, works until it is told to go on, and publishes a file.

Arguments: database, ttl in seconds, file to publish, file whose existence means "go on".
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from kb_pipeline.storage.lease import LeaseLost, LeaseStore

LOST = 3


def main() -> int:
    database, ttl, target, go_on = sys.argv[1:]
    with LeaseStore(Path(database), ttl=float(ttl)).acquire("t/documents/a", "the stopped writer") as lease:
        print("holding", flush=True)
        while not Path(go_on).exists():
            threading.Event().wait(0.01)
        try:
            lease.publish(lambda: Path(target).write_text("from the stopped writer"))
        except LeaseLost as error:
            print(error, flush=True)
            return LOST
    return 0


if __name__ == "__main__":
    sys.exit(main())
