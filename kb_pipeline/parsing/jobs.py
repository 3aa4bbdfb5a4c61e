"""Items that wait for a parser process, and how they are shared out.

What belongs here: who gets which item next, and how many lanes there are to be. What doesn't: processes.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field

from kb_pipeline.parsing.delivery import Delivery


@dataclass(slots=True)
class Job:
    """One item on its way. ``inside``: it lies in another one. ``media_type``: what its source says it is. ``killed``: how
    often its process was killed while it was parsed, by whomever.
    """

    name: str
    data: bytes
    inside: bool = False
    media_type: str | None = None
    future: Delivery = field(default_factory=Delivery)
    killed: int = 0


class Closed(Exception):
    """Nothing is taken any more."""


class Jobs:
    """A queue for up to ``size`` lanes. A lane that has nothing to do for ``idle_seconds`` is told to end."""

    def __init__(self, size: int, idle_seconds: float) -> None:
        self._size = size
        self._idle_seconds = idle_seconds
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._lanes = 0
        # Lanes that have nothing to do, those included that were asked for and are about to come.
        self._waiting = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._closed

    def put(self, job: Job) -> bool:
        """Add a job. True: all lanes are busy and there is room for one more, which the caller must start. Raises Closed.

        A new lane calls ``wait`` with ``new``, or ``lost`` is called.
        """
        with self._changed:
            if self._closed:
                raise Closed
            self._queue.append(job)
            self._changed.notify()
            more = len(self._queue) > self._waiting and self._lanes < self._size
            self._lanes += more
            self._waiting += more
            return more

    def lost(self) -> None:
        """A lane that was asked for could not be started."""
        with self._changed:
            self._lanes -= 1
            self._waiting -= 1

    def take(self, items: int, size: int) -> list[Job]:
        """Take what waits without waiting for more: up to ``items`` jobs of ``size`` bytes together."""
        with self._changed:
            # A few items are shared out between lanes rather than queued in one, and a lane with nothing to do gets one.
            items = min(items, math.ceil(len(self._queue) / self._size), len(self._queue) - self._waiting)
            return self._take(items, size)

    def wait(self, *, new: bool = False) -> Job | None:
        """Wait for one job, of any size. None: the lane is to end, and isn't counted any more."""
        with self._changed:
            self._waiting += not new
            self._changed.wait_for(lambda: self._queue or self._closed, self._idle_seconds)
            self._waiting -= 1
            if self._queue:
                return self._queue.popleft()
            self._lanes -= 1
            return None

    def give_back(self, jobs: list[Job]) -> None:
        """Put jobs back, before all others. Raises Closed."""
        with self._changed:
            if self._closed:
                raise Closed
            self._queue.extendleft(reversed(jobs))
            self._changed.notify(len(jobs))

    def close(self) -> list[Job]:
        """Have every lane end. Returns the jobs that nobody took."""
        with self._changed:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
            return left

    def _take(self, items: int, size: int) -> list[Job]:
        taken: list[Job] = []
        while self._queue and len(taken) < items and len(self._queue[0].data) <= size:
            taken.append(self._queue.popleft())
            size -= len(taken[-1].data)
        return taken
