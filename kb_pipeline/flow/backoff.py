"""How long to wait before the next try: exponential backoff with full jitter, by tenacity.

Full jitter: anything between nothing and the bound, so that those who failed together don't come back together
(M. Brooker, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

import random
from typing import Any, cast

from tenacity import RetryCallState, wait_random_exponential


def delay(tries: int, first: float, most: float, retry_after: float | None = None) -> float:
    """Seconds to wait after so many tries: up to ``first`` after one, then twice that, up to ``most``.

    What the source itself asked for goes before: never less than that, and a little more, for all were told the same.
    """
    if retry_after is not None:
        return retry_after + random.uniform(0, min(first, 0.1 * retry_after))
    state = RetryCallState(cast("Any", None), None, (), {})
    state.attempt_number = tries
    return float(wait_random_exponential(multiplier=first, max=most)(state))
