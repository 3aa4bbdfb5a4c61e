"""A source that is asked with patience: tried again, waited for, left alone, given up when it never answers.

What belongs here: the strategies for errors of a source (``settings.strategies``), for listings, reads and change feeds
alike, in this one place. What doesn't: which class an error is of (``flow.errors``), when a breaker opens
(``flow.breaker``), how often errors came (``flow.tally`` counts).

Sources themselves try nothing again: they raise what happened. An error is that of an item, or of the whole connection:

- A listing, a change feed and a probe speak for the connection.
- An item that can't be had after all tries is set aside, if others could be had meanwhile, or if the source answers a
  probe. If not, it is the connection that fails, and no item is set aside on its account.

Waiting has three bounds: the tries of a class, ``max_wait_seconds`` in which nothing at all came of the connection, and a
stop of the whole work, which ends it at once. While a connection can only wait, its turn is others' (``flow.turns``).
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, ClassVar, NoReturn, TypeVar, cast

from kb_pipeline.flow import backoff
from kb_pipeline.flow.calls import Beat, Caller, Silent, TooManyLeft
from kb_pipeline.flow.errors import Diagnosis, ErrorClass, diagnose
from kb_pipeline.flow.tally import Measure, Tally
from kb_pipeline.flow.turns import Stopped, Turns
from kb_pipeline.settings.errors import ConfigError
from kb_pipeline.settings.strategies import ErrorHandling, Resolved
from kb_pipeline.sources.base import (
    ConnectorError,
    Item,
    ItemCorrupt,
    ItemEncrypted,
    ItemUnreadable,
    ItemVanished,
    ListingFailed,
    Source,
    SourceConfig,
    SourceError,
)
from kb_pipeline.sources.capabilities import Access, ChangePage, Changes, CursorExpired, ReadMany, passing_on
from kb_pipeline.sources.circuit import BreakerOpen, Circuit, refusal

T = TypeVar("T")

MOST_LEFT = 8
"""Calls of a connection that may be left behind in this process; each is a thread that waits for its source."""
_BLOCK = 64 << 10
"""Bytes read between two signs of life: so that a slow source is told from a silent one."""
_QUIET_SECONDS = 1.0
"""After so much silence a connection counts as waiting."""
_LOOK_SECONDS = 1.0
"""Between two looks at a breaker that another process may have closed."""
_ANSWERS = frozenset(ErrorClass) - {
    ErrorClass.INTERNAL,
    ErrorClass.RESOURCE_EXHAUSTION,
    ErrorClass.NETWORK,
    ErrorClass.RATE_LIMITING,
}
"""Classes of errors that show that the source answers."""
_ABOUT_ITEMS = (ItemVanished, ItemUnreadable, ItemCorrupt, ItemEncrypted)


@dataclass(slots=True, eq=False)
class _Operation:
    """A listing, or the reading of an item, with what went wrong so far.

    ``whole``: it speaks for the connection, and each of its failures counts for the circuit breaker. Of an item the first
    one does: a single bad item opens nothing. ``probing``: it is the one that finds out whether the connection is well.
    """

    what: str
    whole: bool
    tries: int = 0
    since: float = 0.0
    counted: bool = False
    probing: bool = False
    met: Counter[tuple[ErrorClass, Measure]] = field(default_factory=Counter)


class Resilient:
    """Does what the source does, and what ``errors`` in kb.yaml says when that fails. ``resilient`` adds capabilities.

    ``most_bytes``: no item is read further than that and one byte more, so that nobody has to hold what is too large.
    """

    Config: ClassVar[type[SourceConfig]] = SourceConfig

    def __init__(
        self,
        source: Source,
        name: str,
        errors: ErrorHandling,
        circuit: Circuit,
        tally: Tally,
        turns: Turns,
        *,
        timeout: float,
        most_bytes: int,
        patient: bool = True,
    ) -> None:
        self._source: Any = source
        self._name = name
        self._errors = errors
        self.circuit = circuit
        self.tally = tally
        self._turns = turns
        self._most_bytes = most_bytes
        self._patient = patient
        self._caller = Caller(name, timeout, MOST_LEFT, self._on_silence)
        self._lock = threading.Lock()
        self._asked = False
        self._last_good = 0.0
        self._in_flight = 0
        self._waiting: set[int] = set()
        self._lent = False
        self._over: Exception | None = None
        self._at_work = 0
        self._at_a_time: int | None = None

    def list(self) -> Iterator[Item]:
        """As the source does. After trouble it is listed anew, and what had been yielded is skipped."""
        return cast("Iterator[Item]", self._listed(idle=False))

    def list_as_it_comes(self) -> Iterator[Item | None]:
        """The same for somebody with other things to do: None while nothing comes, a few times a second.

        What was begun may be left for a while, and gone on with by whoever keeps the iterator.
        """
        return self._listed(idle=True)

    def _listed(self, *, idle: bool) -> Iterator[Item | None]:
        operation = _Operation("its listing", whole=True)
        last: str | None = None
        while True:
            self._begin(operation)
            resumed, arrived = last, False
            try:
                for batch in self._batches(self._source.list, idle=idle):
                    if not batch:
                        yield None
                        continue
                    if not arrived:
                        arrived = True
                        self._answered()
                    self._last_good = time.monotonic()
                    for item in batch:
                        if resumed is not None:
                            # Keys ascend: all that the listing before would have yielded in the end comes after these.
                            if item.key <= resumed:
                                continue
                            resumed = None
                            self._finished(operation)
                        last = item.key
                        yield item
                self._answered()
                self._finished(operation)
                return
            except Exception as error:  # noqa: BLE001 - a source is foreign code, and strategies tell what to do
                self._failed(operation, error)

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        """The bytes of an item, all of them read: what fails on the way is tried again from the start."""
        yield io.BytesIO(self.fetch(item))

    def fetch(self, item: Item) -> bytes:
        """The bytes of an item, up to ``most_bytes`` and one more. Raises what ``read`` does, and ListingFailed."""
        return self._persist(_Operation(item.key, whole=False), lambda beat: self._whole(item, beat))

    def probe(self) -> str:
        """As the source does, once, for as long as it shows signs of life."""
        try:
            with self._flying():
                answer: str = self._caller.call(lambda beat: self._source.probe())
        except (Silent, TooManyLeft) as error:
            raise SourceError(str(error), kind=ErrorClass.NETWORK) from error
        return answer

    def close(self) -> None:
        """Hand over what was counted."""
        self.tally.flush()

    # One operation

    def _persist(self, operation: _Operation, call: Callable[[Beat], T]) -> T:
        while True:
            self._begin(operation)
            try:
                with self._seat(), self._flying():
                    result = self._caller.call(call)
            except Exception as error:  # noqa: BLE001 - a source is foreign code, and strategies tell what to do
                self._failed(operation, error)
            else:
                self._answered()
                self._finished(operation)
                return result

    def _batches(self, function: Callable[[], Iterator[T]], *, idle: bool = False) -> Iterator[Sequence[T]]:
        """What the source yields, as it comes. ``idle``: with empty batches while nothing comes."""
        with closing(cast("Generator[Sequence[T]]", self._caller.batches(function))) as batches:
            while True:
                with self._flying():
                    batch = next(batches, None)
                    while batch is not None and not batch and not idle:
                        batch = next(batches, None)
                if batch is None:
                    return
                yield batch

    def _begin(self, operation: _Operation) -> None:
        """Before a try: wait while the connection is left alone. Raises BreakerOpen, Stopped, what ended it all."""
        while True:
            self._check()
            admission, breaker = self.circuit.admit()
            now = time.monotonic()
            operation.probing = admission == "probes"
            if admission != "waits":
                with self._lock:
                    if not self._asked:
                        self._asked, self._last_good = True, now
                return
            # Who comes to a connection that is being left alone turns away. Who was there when it began waits.
            left = max(0.0, (breaker.probe_at or 0.0) - time.time())
            if not (self._asked and self._patient and self._may_wait(left)):
                raise self._end(refusal(breaker))
            seen = self.circuit.changes
            self._wait(min(left, _LOOK_SECONDS), lambda seen=seen: self.circuit.changes != seen)  # type: ignore[misc]

    def _failed(self, operation: _Operation, error: Exception) -> None:
        """After a failed try: returns when it is to be tried again. Raises what becomes of the operation otherwise."""
        if isinstance(error, BreakerOpen | Stopped) or error is self._over:
            raise error
        found = _diagnosed(error)
        strategy = self._errors.of(found.kind)
        operation.tries += 1
        operation.since = operation.since or time.monotonic()
        if strategy.breaker and (operation.whole or operation.probing or not operation.counted):
            operation.counted = True
            self._tell_circuit(found, error)
        elif not strategy.breaker and found.kind in _ANSWERS:
            self._answered()
        pause = backoff.delay(
            operation.tries, self._errors.backoff_seconds, self._errors.max_backoff_seconds, found.retry_after
        )
        patient = self._patient and self._may_wait(pause)
        if operation.tries > strategy.retries or found.lasting or not patient:
            # Nothing came of it for too long, or it said itself that it doesn't want to be asked before a certain time.
            trip = (self._patient and not patient) or (found.retry_after or 0.0) > self._errors.breaker.cooldown_seconds
            self._give_up(operation, error, found, strategy, trip=trip)
        measure = Measure.RETRY
        if found.kind is ErrorClass.RESOURCE_EXHAUSTION:
            measure = Measure.DEGRADE
            self._fewer()
        operation.met[found.kind, measure] += 1
        self.tally.add(found.kind, measure, occurred=1)
        self._wait(pause)

    def _give_up(
        self, operation: _Operation, error: Exception, found: Diagnosis, strategy: Resolved, *, trip: bool
    ) -> NoReturn:
        """Raise what an operation comes to: the end of the connection, or an item that is set aside."""
        # A second look at the same thing by somebody else, Dagster's own retries among them, would bring nothing.
        found = replace(found, lasting=True)
        whole = operation.whole or strategy.then == "fail" or self._is_down(found, strategy, operation)
        told = _told(error, operation, found, whole=whole)
        self.tally.add(found.kind, Measure.FAIL if whole else Measure.SKIP, occurred=1)
        if whole and strategy.breaker and trip:
            self._tell_circuit(found, error, trip=True)
        raise self._end(told) if whole else told

    def _is_down(self, found: Diagnosis, strategy: Resolved, operation: _Operation) -> bool:
        """Whether an item can't be had because nothing can."""
        if not strategy.breaker:
            return False
        with self._lock:
            others = len(self._waiting - {id(operation)}) > 0
            alive = self._last_good > operation.since
        if alive and self._may_wait(0.0):
            return False
        if found.kind is ErrorClass.RATE_LIMITING and others:
            return True
        try:
            self.probe()
        except Exception as error:  # noqa: BLE001 - whatever it is, the source doesn't answer
            self._tell_circuit(_diagnosed(error), error)
            return True
        return False

    def _finished(self, operation: _Operation) -> None:
        """An operation got on: what it met is over."""
        for (kind, measure), number in operation.met.items():
            self.tally.add(kind, measure, recovered=number)
        operation.met.clear()
        operation.tries = 0

    def _answered(self) -> None:
        """The source answered somebody."""
        self._last_good = time.monotonic()
        if (kind := self.circuit.succeeded()) is not None:
            self.tally.add(kind, Measure.BREAKER, recovered=1)
            self._turns.notify()

    def _tell_circuit(self, found: Diagnosis, error: Exception, *, trip: bool = False) -> None:
        if self.circuit.failed(found, str(error) or type(error).__name__, trip=trip):
            self.tally.add(found.kind, Measure.BREAKER, occurred=1)
        self._turns.notify()

    def _whole(self, item: Item, beat: Beat) -> bytes:
        """All bytes of an item. The buffer grows with them and is handed over as it is: they are there once."""
        buffer = io.BytesIO()
        left = self._most_bytes + 1
        with self._source.read(item) as stream:
            while left and not beat.dropped and (data := stream.read(min(_BLOCK, left))):
                beat()
                self._last_good = beat.at
                buffer.write(data)
                left -= len(data)
        return buffer.getvalue()

    # The end of it all

    def _end(self, error: Exception) -> Exception:
        """No more is asked of the source, by nobody."""
        with self._lock:
            self._over = self._over or error
        self._turns.notify()
        return error

    def _check(self) -> None:
        if self._over is not None:
            raise self._over
        if self._turns.stopped:
            raise Stopped(f"stopped while waiting for {self._name}")

    # Waiting

    def _may_wait(self, seconds: float) -> bool:
        return time.monotonic() + seconds - self._last_good <= self._errors.max_wait_seconds

    def _wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Wait so long, or until something holds. Raises Stopped, what ended it all."""
        deadline = time.monotonic() + seconds

        def over() -> bool:
            return self._over is not None or until()

        with self._flying():
            while (left := deadline - time.monotonic()) > 0 and not over():
                # Again and again: another thread of this connection may have come to rest after this one.
                self._rest()
                self._turns.wait(min(left, _LOOK_SECONDS), over)
        self._check()

    def _on_silence(self, seconds: float) -> None:
        """Of a call: called a few times a second while nothing comes."""
        self._check()
        if seconds >= _QUIET_SECONDS:
            self._rest()

    @contextmanager
    def _flying(self) -> Iterator[None]:
        """While something is asked of the source, or waited for."""
        with self._lock:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1
                self._waiting.discard(threading.get_ident())
                lent, self._lent = self._lent, False
            if lent:
                self._turns.reclaim(self._name)

    def _rest(self) -> None:
        """This thread can only wait; when all can, so can the connection."""
        with self._lock:
            self._waiting.add(threading.get_ident())
            if len(self._waiting) >= self._in_flight:
                self._turns.lend(self._name)
                self._lent = True

    # Less at a time

    @contextmanager
    def _seat(self) -> Iterator[None]:
        """One of as many as may ask at a time, once memory or open files ran out."""
        while True:
            with self._lock:
                if self._at_a_time is None or self._at_work < self._at_a_time:
                    self._at_work += 1
                    break
            self._wait(_LOOK_SECONDS, lambda: self._at_a_time is None or self._at_work < self._at_a_time)
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
            if self._at_a_time is not None:
                self._turns.notify()

    def _fewer(self) -> None:
        """Half as many at a time from now on, down to one."""
        with self._lock:
            self._at_a_time = max(1, (self._at_a_time or self._at_work + 1) // 2)


class _ResilientChanges:
    _source: Any
    _persist: Any

    def changes(self, cursor: str | None) -> ChangePage:
        """As the source does."""
        operation = _Operation("its change feed", whole=True)

        def ask(beat: Beat) -> ChangePage | CursorExpired:
            try:
                page: ChangePage = self._source.changes(cursor)
                return page
            except CursorExpired as expired:  # an answer like any other: nothing to try again
                return expired

        answer: ChangePage | CursorExpired = self._persist(operation, ask)
        if isinstance(answer, CursorExpired):
            raise answer
        return answer


class _ResilientReadMany:
    _source: Any
    _begin: Any
    _batches: Any
    fetch: Callable[[Item], bytes]

    def read_many(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | Exception]]:
        """As the source does; what goes wrong with some of them is tried again one by one."""
        again = {item.key: item for item in items}
        self._begin(_Operation("several items", whole=False))
        try:
            for batch in self._batches(lambda: self._source.read_many(items)):
                for item, answer in batch:
                    if isinstance(answer, bytes):
                        again.pop(item.key, None)
                        yield item, answer
        except Exception as error:
            # Asked for one by one, each says for itself what is wrong with it. A defect is none of them.
            if _diagnosed(error).kind is ErrorClass.INTERNAL:
                raise
        for item in again.values():
            try:
                yield item, self.fetch(item)
            except _ABOUT_ITEMS as error:
                yield item, error


class _ResilientAccess:
    _source: Any
    _persist: Any

    def access(self, item: Item) -> AbstractSet[str]:
        """As the source does."""
        operation = _Operation(item.key, whole=False)
        principals: AbstractSet[str] = self._persist(operation, lambda beat: self._source.access(item))
        return principals


_CAPABILITIES: Mapping[type, type] = {Changes: _ResilientChanges, ReadMany: _ResilientReadMany, Access: _ResilientAccess}


def resilient(
    source: Source,
    config: SourceConfig,
    errors: ErrorHandling,
    circuit: Circuit,
    *,
    most_bytes: int,
    tally: Tally | None = None,
    turns: Turns | None = None,
    patient: bool = True,
    most_seconds: float = math.inf,
) -> Resilient:
    """A source that is asked with patience, and can do whatever else the source can.

    ``patient``: False is for somebody who comes again soon: nothing is tried again or waited for. ``most_seconds``: of
    silence, where that is less than the connection's time-out.
    """
    made = passing_on(Resilient, _CAPABILITIES, source)
    timeout = min(most_seconds, config.timeout_seconds or errors.timeout_seconds)
    return made(
        source,
        config.name,
        errors,
        circuit,
        tally or Tally(),
        turns or Turns(),
        timeout=timeout,
        most_bytes=most_bytes,
        patient=patient,
    )


def _diagnosed(error: Exception) -> Diagnosis:
    if isinstance(error, Silent | TooManyLeft):
        return Diagnosis(ErrorClass.NETWORK, lasting=isinstance(error, TooManyLeft))
    return diagnose(error)


def _told(error: Exception, operation: _Operation, found: Diagnosis, *, whole: bool) -> Exception:
    """The error in the end: of a kind that the rest of the pipeline knows, and with what was tried.

    One of the source's own that was raised at once stays as it is, and so does a defect, whoever's it is.
    """
    if operation.tries == 1 or found.kind is ErrorClass.INTERNAL:
        fitting = isinstance(error, SourceError) if whole else isinstance(error, _ABOUT_ITEMS)
        if fitting or found.kind is ErrorClass.INTERNAL:
            with suppress(AttributeError):
                error.diagnosis = found  # type: ignore[attr-defined]
            return error
    words = str(error) or type(error).__name__
    if not isinstance(error, ConnectorError | Silent | TooManyLeft | ConfigError):
        words = f"{type(error).__name__}: {words}"
    if operation.tries > 1:
        seconds = time.monotonic() - operation.since
        words = f"{words} (tried {operation.tries} times in {seconds:.0f} s)"
    kind: type[ConnectorError] = ItemUnreadable
    if whole:
        kind = ListingFailed
        words = words if operation.whole else f"{operation.what}: {words}"
    elif isinstance(error, _ABOUT_ITEMS):
        kind = type(error) if type(error) in _ABOUT_ITEMS else ItemUnreadable
    elif found.kind is ErrorClass.NOT_FOUND:
        kind = ItemVanished
    told = kind(words, kind=found.kind, retry_after=found.retry_after)
    told.__cause__ = error
    told.diagnosis = found  # type: ignore[attr-defined]
    return told
