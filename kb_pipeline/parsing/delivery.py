"""Outcomes on their way from a parser process to whoever asked: as many in memory as there is room for, the rest in files.

What belongs here: where an outcome waits. A packed item may have a text hundreds of times its size, and outcomes are taken
in the order of the items: many of them may have to wait for one that takes its time.
"""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import Future, InvalidStateError
from typing import BinaryIO, cast

from kb_pipeline.parsing import wire
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.statuses import Status


class Room:
    """How many bytes of replies may wait in memory, over all that wait."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take room if there is any left."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Give room back."""
        with self._lock:
            self._left += size


class Delivery(Future[Outcome]):
    """The outcome that is to come. Where it waits in a file, it is read when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._room: Room | None = None
        self._size = 0
        self._file: BinaryIO | None = None
        self._header = b""

    def deliver(self, outcome: Outcome, reply: wire.Reply, room: Room) -> None:
        """Set the result: ``outcome``, which is what ``reply`` says. Nothing happens when it was cancelled."""
        size = len(reply.body)
        if room.take(size):
            self._room, self._size = room, size
        else:
            self._keep(reply)
        try:
            # What waits in a file is not to wait in memory too.
            self.set_result(outcome if self._file is None else Outcome(Status.PARSED))
        except InvalidStateError:
            self._let_go()

    def result(self, timeout: float | None = None) -> Outcome:
        """As of any future. The room that the outcome had is given back."""
        outcome = super().result(timeout)
        self._let_go()
        if self._file is None:
            return outcome
        self._file.seek(0)
        return wire.decode_outcome(0, wire.Reply(0, self._header, memoryview(self._file.read())))

    def _keep(self, reply: wire.Reply) -> None:
        try:
            file = tempfile.TemporaryFile(prefix="kb-outcome-")  # noqa: SIM115 - it lives as long as the outcome
            file.write(reply.body)
        except OSError:
            return  # no room on the disk either: memory has the better chances
        self._file, self._header = cast(BinaryIO, file), reply.header

    def _let_go(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.give(self._size)

    def __del__(self) -> None:
        # Its submitter may have failed before it came to this one.
        self._let_go()
