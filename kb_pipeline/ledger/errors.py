"""What can go wrong with the ledger, in the words a person reads."""

from __future__ import annotations


class LeaseHeld(Exception):
    """Somebody else holds the lease. The message names the holder."""


class LeaseLost(Exception):
    """The lease ran out or was taken over: nothing may be published under it."""


class LedgerUnavailable(Exception):
    """The ledger can't be opened. The message says which, why, and what to do."""
