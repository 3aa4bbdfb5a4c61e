"""The parser processes that the limits of a workspace ask for."""

from __future__ import annotations

from kb_pipeline.ingestion.accounts import Limits
from kb_pipeline.parsing.child import Limits as ParserLimits
from kb_pipeline.parsing.pool import ParserPool, shared_pool, usable_cores

_REPLY_BYTES = 16 << 20


def parsers(limits: Limits) -> ParserPool:
    """The parser processes of this process; they start when there is something to parse."""
    # A text may be longer than its bytes (another encoding, a compressed format), but not without end.
    reply_bytes = 2 * limits.max_item_bytes + _REPLY_BYTES
    parsing = ParserLimits(limits.parse_seconds, limits.parse_memory_mib, reply_bytes)
    return shared_pool(parsing, min(usable_cores(), limits.workers))
