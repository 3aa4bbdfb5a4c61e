"""A bounded, ordered map over threads: so much work and so many bytes in flight, never more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int, budget: int, cost: Callable[[T], int]
) -> Iterator[R]:
    """``map`` over ``workers`` threads, in order, with at most ``budget`` cost units (bytes) started and not yet taken.

    ``ahead``: items started and not yet taken, at most.

    One item alone may exceed the budget: it then runs with nothing beside it. An exception of ``function`` is raised
    when its turn comes; what has started is finished, what hasn't is dropped.
    """
    pending: deque[tuple[int, Future[R]]] = deque()
    in_flight = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="kb-worker") as executor:
        try:
            for item in items:
                price = cost(item)
                while pending and (len(pending) >= ahead or in_flight + price > budget):
                    in_flight -= pending[0][0]
                    # No name is left for the result: it would be kept beside those that come.
                    yield pending.popleft()[1].result()
                pending.append((price, executor.submit(function, item)))
                in_flight += price
            while pending:
                yield pending.popleft()[1].result()
        finally:
            for _, future in pending:
                future.cancel()
