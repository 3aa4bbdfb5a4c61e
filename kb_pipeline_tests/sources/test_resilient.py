"""A source asked with patience: what is tried again, waited for, set aside, given up, and what the breaker learns of it."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import pytest

from kb_pipeline.flow.breaker import Breaker, State
from kb_pipeline.flow.errors import ErrorClass, diagnose
from kb_pipeline.flow.tally import Tally
from kb_pipeline.flow.turns import Stopped, Turns
from kb_pipeline.ledger.ledger import Ledger
from kb_pipeline.settings.strategies import ErrorHandling
from kb_pipeline.sources.base import (
    Item,
    ItemCorrupt,
    ItemUnreadable,
    ItemVanished,
    ListingFailed,
    SourceConfig,
    SourceContext,
    SourceError,
)
from kb_pipeline.sources.capabilities import ChangePage, CursorExpired, capabilities
from kb_pipeline.sources.circuit import BreakerOpen, Circuit
from kb_pipeline.sources.resilient import MOST_LEFT, Resilient, resilient

RATE, NETWORK, AUTH = ErrorClass.RATE_LIMITING, ErrorClass.NETWORK, ErrorClass.AUTHENTICATION
CONTEXT = SourceContext(Path(), Path())
QUICK: dict[str, Any] = {"backoff_seconds": 0.001, "max_backoff_seconds": 0.005, "timeout_seconds": 20}


def throttled(seconds: float | None = None) -> ItemUnreadable:
    return ItemUnreadable("slow down", kind=RATE, retry_after=seconds)


def item(key: str) -> Item:
    return Item(key, "1", key, f"x://{key}")


class Scripted:
    """A source that does as it is told: errors are raised in their order, then all is well."""

    Config: ClassVar[type[SourceConfig]] = SourceConfig

    def __init__(self, keys: Sequence[str] = ("a", "b", "c")) -> None:
        self.keys = list(keys)
        self.listings: list[tuple[int, Exception]] = []
        """For each listing: how many items it yields, and what it raises then."""
        self.reads: dict[str, list[Exception]] = {}
        self.probes: list[Exception] = []
        self.always: Callable[[str], None] = lambda what: None
        """Called first by everything."""
        self.calls: Counter[str] = Counter()
        self.gate = threading.Event()

    def list(self) -> Iterator[Item]:
        self.calls["list"] += 1
        self.always("list")
        cut = self.listings.pop(0) if self.listings else None
        for number, key in enumerate(self.keys):
            if cut is not None and number == cut[0]:
                raise cut[1]
            yield item(key)
        if cut is not None:
            raise cut[1]

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        self.calls[item.key] += 1
        self.always(item.key)
        if self.reads.get(item.key):
            raise self.reads[item.key].pop(0)
        yield io.BytesIO(item.key.encode() * 3)

    def probe(self) -> str:
        self.calls["probe"] += 1
        self.always("probe")
        if self.probes:
            raise self.probes.pop(0)
        return "fine"

    def hang(self, what: str) -> None:
        """For ``always``: never answer."""
        self.gate.wait(30)


@pytest.fixture
def source() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.gate.set()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path}/ledger.sqlite") as opened:
        yield opened


_names = iter(f"c{number}" for number in range(10_000))


@pytest.fixture
def ask(source: Scripted, ledger: Ledger) -> Callable[..., Resilient]:
    """Makes the patient side of the source; keyword arguments are keys of ``errors``."""
    name = next(_names)

    def make(turns: Turns | None = None, most_bytes: int = 1_000, of: Any = None, **errors: Any) -> Resilient:
        handling = ErrorHandling.model_validate(QUICK | errors)
        circuit = Circuit(ledger.breakers, name, handling.policy)
        config = SourceConfig(name=name, type="scripted")
        return resilient(of or source, config, handling, circuit, most_bytes=most_bytes, tally=Tally(), turns=turns)

    return make


def counts(asked: Resilient) -> dict[str, str]:
    return asked.tally.sentences()


# Trying again


def test_what_is_well_is_asked_once(source: Scripted, ask: Callable[..., Resilient], ledger: Ledger) -> None:
    asked = ask()
    assert [each.key for each in asked.list()] == ["a", "b", "c"]
    with asked.read(item("a")) as stream:
        assert stream.read() == b"aaa"
    assert asked.probe() == "fine"
    assert source.calls == {"list": 1, "a": 1, "probe": 1}
    assert counts(asked) == {}
    assert ledger.breakers.all() == {}, "while all is well, nobody writes"


def test_no_more_is_read_than_anybody_wants(source: Scripted, ask: Callable[..., Resilient]) -> None:
    assert ask(most_bytes=1).fetch(item("abc")) == b"ab"
    assert ask(most_bytes=8).fetch(item("abc")) == b"abcabcabc"


def test_an_item_that_was_throttled_is_waited_for(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.reads["a"] = [throttled() for _ in range(7)]
    asked = ask()
    assert asked.fetch(item("a")) == b"aaa"
    assert source.calls["a"] == 8
    assert counts(asked) == {"rate_limiting, retry": "7, of which 7 recovered"}


def test_a_raw_exception_of_a_connector_is_judged_by_what_it_is(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.reads = {"a": [ConnectionResetError("reset")], "b": [FileNotFoundError("gone")], "c": [PermissionError("no")]}
    asked = ask()
    assert asked.fetch(item("a")) == b"aaa"
    with pytest.raises(ItemVanished, match="FileNotFoundError: gone"):
        asked.fetch(item("b"))
    with pytest.raises(ItemUnreadable, match="PermissionError: no"):
        asked.fetch(item("c"))
    assert source.calls == {"a": 2, "b": 1, "c": 1}


def test_what_a_source_says_of_an_item_stays_as_it_said_it(source: Scripted, ask: Callable[..., Resilient]) -> None:
    told = ItemCorrupt("a bad checksum")
    source.reads["a"] = [told]
    asked = ask()
    with pytest.raises(ItemCorrupt) as caught:
        asked.fetch(item("a"))
    assert caught.value is told
    assert counts(asked) == {"data_corruption, skip": "1, of which 0 recovered"}


def test_a_defect_is_nobodys_trouble_but_its_authors(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.reads["a"] = [ZeroDivisionError("oops")]
    with pytest.raises(ZeroDivisionError):
        ask().fetch(item("a"))
    source.listings = [(1, ZeroDivisionError("oops"))]
    with pytest.raises(ZeroDivisionError):
        list(ask().list())


def test_what_waiting_will_not_mend_is_not_tried_again(source: Scripted, ask: Callable[..., Resilient]) -> None:
    import ssl

    source.listings = [(0, ssl.SSLCertVerificationError(1, "certificate verify failed"))]
    with pytest.raises(ListingFailed, match="certificate"):
        list(ask().list())
    assert source.calls["list"] == 1


def test_a_listing_goes_on_where_it_broke_off(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.keys = [f"{number:05d}" for number in range(2_000)]
    source.listings = [(1_500, ListingFailed("page 15", kind=NETWORK)), (700, ListingFailed("page 7", kind=NETWORK))]
    asked = ask()
    assert [each.key for each in asked.list()] == source.keys
    assert source.calls["list"] == 3
    assert counts(asked) == {"network, retry": "2, of which 2 recovered"}


def test_a_listing_that_breaks_its_promise_is_not_mended_by_the_way(source: Scripted, ask: Callable[..., Resilient]) -> None:
    """Order and uniqueness are checked by whoever takes the listing: what is out of order must reach them."""
    source.keys = ["b", "c", "a", "d"]
    source.listings = [(2, ListingFailed("x", kind=NETWORK))]
    assert [each.key for each in ask().list()] == ["b", "c", "d"], "before the first new key nothing is known of order"
    source.keys = ["b", "c", "d", "a"]
    source.listings = [(2, ListingFailed("x", kind=NETWORK))]
    assert [each.key for each in ask().list()] == ["b", "c", "d", "a"]


def test_a_listing_that_fails_for_good_says_how_often_it_was_tried(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.listings = [(1, ConnectionResetError("reset"))] * 9
    asked = ask()
    with pytest.raises(ListingFailed, match=r"ConnectionResetError: reset \(tried 5 times in 0 s\)") as caught:
        list(asked.list())
    found = diagnose(caught.value)
    assert (found.kind, found.lasting) == (NETWORK, True), "nobody else need try again what was tried here"
    assert source.calls["list"] == 5
    assert counts(asked) == {"network, retry": "4, of which 0 recovered", "network, fail": "1, of which 0 recovered"}


# What is set aside, and what fails a connection


def test_an_item_that_fails_while_others_do_not_is_set_aside(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.reads["a"] = [ConnectionResetError("reset") for _ in range(9)]
    asked = ask()
    with pytest.raises(ItemUnreadable, match="tried 5 times"):
        asked.fetch(item("a"))
    assert source.calls["probe"] == 1, "nothing else was read meanwhile: the source is asked whether it lives"
    assert asked.fetch(item("b")) == b"bbb"


def test_when_the_source_does_not_answer_at_all_no_item_is_blamed(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.reads["a"] = [ConnectionResetError("reset") for _ in range(9)]
    source.probes = [SourceError("no", kind=NETWORK)]
    asked = ask()
    with pytest.raises(ListingFailed, match="a: ConnectionResetError: reset"):
        asked.fetch(item("a"))
    with pytest.raises(ListingFailed):
        asked.fetch(item("b"))
    assert source.calls["b"] == 0, "the connection has failed: nothing more is asked"


def test_who_is_not_known_need_not_ask_for_each_item(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.reads["a"] = [ItemUnreadable("401", kind=AUTH)]
    asked = ask()
    with pytest.raises(ListingFailed, match="a: 401") as caught:
        asked.fetch(item("a"))
    assert diagnose(caught.value).kind is AUTH
    with pytest.raises(ListingFailed):
        asked.fetch(item("b"))
    assert source.calls["b"] == 0


@pytest.mark.parametrize("then", ["skip", "fail"])
def test_what_becomes_of_an_item_is_a_setting(source: Scripted, ask: Callable[..., Resilient], then: str) -> None:
    source.reads["a"] = [ItemUnreadable("403", kind=ErrorClass.PERMISSION)]
    with pytest.raises(ItemUnreadable if then == "skip" else ListingFailed):
        ask(strategies={"permission": {"then": then}}).fetch(item("a"))


def test_the_number_of_tries_is_a_setting(source: Scripted, ask: Callable[..., Resilient]) -> None:
    for tries, strategies in ((1, {"network": {"retries": 0}}), (8, {"network": {"retries": 7}})):
        source.calls.clear()
        source.reads["a"] = [ConnectionResetError("reset") for _ in range(20)]
        with pytest.raises(ItemUnreadable):
            ask(strategies=strategies).fetch(item("a"))
        assert source.calls["a"] == tries


# Waiting


def test_the_sources_own_word_goes_before_ours(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.reads["a"] = [throttled(0.3)]
    began = time.monotonic()
    ask(backoff_seconds=0.001, max_backoff_seconds=0.001).fetch(item("a"))
    assert time.monotonic() - began >= 0.3


def test_waits_grow_up_to_a_bound(source: Scripted, ask: Callable[..., Resilient], monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []

    def uniform(low: float, high: float) -> float:
        bounds.append(high)
        return 0.0

    monkeypatch.setattr("random.uniform", uniform)
    source.reads["a"] = [throttled() for _ in range(6)]
    ask(backoff_seconds=1, max_backoff_seconds=10).fetch(item("a"))
    assert bounds == [1, 2, 4, 8, 10, 10]


def test_a_wait_beyond_all_patience_is_not_begun(source: Scripted, ask: Callable[..., Resilient], ledger: Ledger) -> None:
    source.listings = [(0, ListingFailed("tomorrow", kind=RATE, retry_after=7_200))]
    began = time.monotonic()
    asked = ask()
    with pytest.raises(ListingFailed, match="tomorrow"):
        list(asked.list())
    assert time.monotonic() - began < 60
    assert source.calls["list"] == 1
    breaker = asked.circuit.seen
    assert breaker.state is State.OPEN, "the source said when it wants to be asked again: nobody asks before"
    assert breaker.probe_at is not None
    assert breaker.probe_at - time.time() == pytest.approx(7_200, abs=60)


def test_how_long_nothing_may_come_is_a_setting(source: Scripted, ask: Callable[..., Resilient], ledger: Ledger) -> None:
    source.always = lambda what: (_ for _ in ()).throw(throttled())
    began = time.monotonic()
    with pytest.raises(ListingFailed, match="slow down"):
        ask(max_wait_seconds=0.3, backoff_seconds=0.02, max_backoff_seconds=0.02, breaker={"failures": 1_000}).fetch(
            item("a")
        )
    assert 0.2 < time.monotonic() - began < 20
    assert source.calls["a"] > 3
    for name in ledger.breakers.all():
        ledger.breakers.reset(name)
    source.calls.clear()
    with pytest.raises(ListingFailed):
        ask(max_wait_seconds=0).fetch(item("a"))
    assert source.calls["a"] == 1, "nobody waits at all"


def test_as_long_as_something_comes_an_item_may_wait_on(source: Scripted, ask: Callable[..., Resilient]) -> None:
    """One item is throttled for longer than nothing may come; the others come all the while."""
    until = time.monotonic() + 0.8

    def one_is_throttled(what: str) -> None:
        if what == "a" and time.monotonic() < until:
            raise throttled()
        if what == "b":
            threading.Event().wait(0.01)

    source.always = one_is_throttled
    asked = ask(max_wait_seconds=0.3, max_backoff_seconds=0.02)
    over = threading.Event()

    def others() -> None:
        while not over.is_set():
            asked.fetch(item("b"))

    with ThreadPoolExecutor(1) as executor:
        busy = executor.submit(others)
        assert asked.fetch(item("a")) == b"aaa"
        over.set()
        busy.result()


def test_a_stop_ends_all_waiting_at_once(source: Scripted, ask: Callable[..., Resilient]) -> None:
    turns = Turns()
    source.always = lambda what: (_ for _ in ()).throw(throttled(250))
    began = time.monotonic()
    threading.Timer(0.05, turns.stop).start()
    with pytest.raises(Stopped, match="stopped while waiting"):
        list(ask(turns).list())
    assert time.monotonic() - began < 60


def test_a_stop_ends_the_waiting_for_a_silent_call_too(source: Scripted, ask: Callable[..., Resilient]) -> None:
    turns = Turns()
    source.always = source.hang
    began = time.monotonic()
    threading.Timer(0.05, turns.stop).start()
    with pytest.raises(Stopped):
        ask(turns, timeout_seconds=250).fetch(item("a"))
    assert time.monotonic() - began < 60


# Silence


def test_a_read_that_never_answers_is_given_up_and_tried_again(source: Scripted, ask: Callable[..., Resilient]) -> None:
    asked = ask(timeout_seconds=0.05)
    silent = iter([True, False])
    source.always = lambda what: source.hang(what) if next(silent) else None
    assert asked.fetch(item("a")) == b"aaa"
    assert counts(asked) == {"network, retry": "1, of which 1 recovered"}


def test_a_listing_that_never_answers_fails_and_leaves_few_threads(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.always = source.hang
    for _ in range(4):
        with pytest.raises(ListingFailed, match=r"no answer|still hang|left alone"):
            list(ask(timeout_seconds=0.02, breaker={"failures": 1_000}).list())
    assert source.calls["list"] == MOST_LEFT
    hanging = [each for each in threading.enumerate() if each.name == "kb-call"]
    assert len(hanging) <= MOST_LEFT + 8, "those of other tests may not have ended yet"


def test_a_slow_source_is_not_a_silent_one(ask: Callable[..., Resilient]) -> None:
    class Slow(Scripted):
        @contextmanager
        def read(self, item: Item) -> Iterator[BinaryIO]:
            class Drops(io.RawIOBase):
                left = 10

                def readable(self) -> bool:
                    return True

                def readinto(self, buffer: Any) -> int:
                    self.left -= 1
                    threading.Event().wait(0.04)
                    buffer[:1] = b"x"
                    return 1 if self.left >= 0 else 0

            yield Drops()  # type: ignore[misc]

    assert ask(of=Slow(), timeout_seconds=0.25).fetch(item("a")) == b"x" * 10


def test_a_connection_has_a_timeout_of_its_own(source: Scripted, ledger: Ledger) -> None:
    source.always = source.hang
    handling = ErrorHandling.model_validate(QUICK | {"timeout_seconds": 250, "strategies": {"network": {"retries": 0}}})
    config = SourceConfig(name=next(_names), type="scripted", timeout_seconds=0.05)
    asked = resilient(source, config, handling, Circuit(ledger.breakers, config.name, handling.policy), most_bytes=1)
    with pytest.raises(ListingFailed, match=r"no answer for 0\.05 s"):
        list(asked.list())


def test_a_probe_that_never_answers_is_given_up(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.always = source.hang
    with pytest.raises(SourceError, match="no answer"):
        ask(timeout_seconds=0.05).probe()


# The circuit breaker


def dead(source: Scripted) -> None:
    source.always = lambda what: (_ for _ in ()).throw(ConnectionRefusedError("nobody there"))


def test_it_opens_after_failures_in_a_row_and_the_next_who_comes_turns_away(
    source: Scripted, ask: Callable[..., Resilient], ledger: Ledger
) -> None:
    dead(source)
    with pytest.raises(ListingFailed):
        list(ask(breaker={"failures": 5, "cooldown_seconds": 600, "max_cooldown_seconds": 600}).list())
    assert source.calls["list"] == 5
    with pytest.raises(BreakerOpen) as caught:
        list(ask().list())
    assert source.calls["list"] == 5, "it was asked although its breaker is open"
    name = next(iter(ledger.breakers.all()))
    words = str(caught.value)
    assert words.startswith("left alone since ")
    for part in ("after 5 failures in a row", "network: nobody there", "the next try is at ", f"kb sources reset {name}"):
        assert part in words
    assert diagnose(caught.value).kind is NETWORK
    ledger.breakers.reset(name)
    source.always = lambda what: None
    assert len(list(ask().list())) == 3


def test_the_probe_that_succeeds_closes_it(source: Scripted, ask: Callable[..., Resilient], ledger: Ledger) -> None:
    dead(source)
    quick = {"breaker": {"failures": 2, "cooldown_seconds": 0.01}, "max_wait_seconds": 0}
    for _ in range(2):
        with pytest.raises(ListingFailed):
            list(ask(**quick).list())
    (breaker,) = ledger.breakers.all().values()
    assert breaker.state is State.OPEN
    threading.Event().wait(0.02)
    source.always = lambda what: None
    asked = ask(**quick)
    assert len(list(asked.list())) == 3
    (breaker,) = ledger.breakers.all().values()
    assert breaker == Breaker(breaker.connection)
    assert counts(asked) == {"network, breaker": "0, of which 1 recovered"}


def test_who_was_there_when_it_opened_waits_and_goes_on(source: Scripted, ask: Callable[..., Resilient]) -> None:
    """A storm over several readers: all wait, one tries, and nothing is set aside."""
    until = time.monotonic() + 0.5
    answered: Counter[str] = Counter()
    lock = threading.Lock()

    def storm(what: str) -> None:
        calm = time.monotonic() > until
        with lock:
            answered["good" if calm else "bad"] += 1
        if not calm:
            raise throttled()

    source.always = storm
    asked = ask(breaker={"failures": 3, "cooldown_seconds": 0.15, "max_cooldown_seconds": 0.15}, max_backoff_seconds=0.05)
    keys = [f"{number:02d}" for number in range(24)]
    with ThreadPoolExecutor(8) as executor:
        assert [data[:2].decode() for data in executor.map(lambda key: asked.fetch(item(key)), keys)] == keys
    assert asked.circuit.seen.state is State.CLOSED
    assert counts(asked)["rate_limiting, breaker"] == "1, of which 1 recovered"
    assert answered["good"] == 24
    assert answered["bad"] <= 60, "while it is open one tries at a time, not all of them"


def test_one_bad_item_does_not_open_it(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.reads["a"] = [ConnectionResetError("reset") for _ in range(50)]
    asked = ask(breaker={"failures": 2}, strategies={"network": {"retries": 30}})
    with pytest.raises(ItemUnreadable):
        asked.fetch(item("a"))
    assert asked.circuit.seen.state is State.CLOSED


def test_whether_a_class_counts_is_a_setting(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.listings = [(0, ListingFailed("the folder is odd"))] * 9
    for _ in range(2):
        with pytest.raises(ListingFailed):
            list(ask(breaker={"failures": 2}).list())
    with pytest.raises(ListingFailed):
        list(ask(breaker={"failures": 1}, strategies={"source": {"breaker": True}}).list())
    with pytest.raises(BreakerOpen):
        list(ask().list())


def test_two_processes_make_one_probe(source: Scripted, ask: Callable[..., Resilient], ledger: Ledger) -> None:
    dead(source)
    with pytest.raises(ListingFailed):
        list(ask(breaker={"failures": 1, "cooldown_seconds": 0.01}, max_wait_seconds=0).list())
    threading.Event().wait(0.02)
    source.calls.clear()
    answer = threading.Event()
    source.always = lambda what: answer.wait(30)  # type: ignore[assignment]
    one, other = ask(max_wait_seconds=0), ask(max_wait_seconds=0)
    with ThreadPoolExecutor(1) as executor:
        listing = executor.submit(lambda: list(one.list()))
        while not source.calls["list"]:
            threading.Event().wait(0.005)
        with pytest.raises(BreakerOpen, match="being tried again now"):
            list(other.list())
        answer.set()
        assert len(listing.result()) == 3
    assert source.calls["list"] == 1


# Turns


def test_a_connection_that_can_only_wait_lends_its_turn(source: Scripted, ask: Callable[..., Resilient]) -> None:
    turns = Turns({"work": 1})
    source.reads["a"] = [throttled(30)]
    others = threading.Event()
    asked = ask(turns)

    def other() -> None:
        with turns.taken("other", "work"):
            others.set()
        turns.stop()

    thread = threading.Thread(target=other)
    with turns.taken(asked._name, "work"):
        thread.start()
        with pytest.raises(Stopped):
            asked.fetch(item("a"))
    assert others.is_set()
    thread.join()


def test_a_connection_of_which_a_part_waits_keeps_its_turn(source: Scripted, ask: Callable[..., Resilient]) -> None:
    turns = Turns({"work": 1})
    source.reads["a"] = [throttled(0.2)]
    source.always = lambda what: source.hang(what) if what == "b" else None
    asked = ask(turns)
    with turns.taken(asked._name, "work"), ThreadPoolExecutor(2) as executor:
        busy = executor.submit(asked.fetch, item("b"))
        while not source.calls["b"]:
            threading.Event().wait(0.005)
        waiting = executor.submit(asked.fetch, item("a"))
        threading.Event().wait(0.05)
        assert not turns._lent
        assert waiting.result() == b"aaa"
        source.gate.set()
        assert busy.result() == b"bbb"


# Exhaustion


def test_fewer_at_a_time_and_then_one_after_the_other(source: Scripted, ask: Callable[..., Resilient]) -> None:
    """A machine that can have two files open at a time."""
    opened, most = 0, 0
    lock = threading.Lock()

    def scarce(what: str) -> None:
        nonlocal opened, most
        with lock:
            opened += 1
            most = max(most, opened)
            many = opened > 2
        threading.Event().wait(0.002)
        with lock:
            opened -= 1
        if many:
            raise OSError(24, "Too many open files")

    source.always = scarce
    asked = ask(strategies={"resource_exhaustion": {"retries": 20}})
    keys = [f"{number:02d}" for number in range(40)]
    with ThreadPoolExecutor(8) as executor:
        assert len(list(executor.map(lambda key: asked.fetch(item(key)), keys))) == 40
    assert most > 2
    assert asked._at_a_time is not None
    assert asked._at_a_time <= 2
    (words,) = counts(asked).items()
    assert words[0] == "resource_exhaustion, degrade"
    occurred, recovered = words[1].split(", of which ")
    assert recovered == f"{occurred} recovered"


def test_when_there_is_nothing_left_at_all_the_connection_fails(source: Scripted, ask: Callable[..., Resilient]) -> None:
    source.always = lambda what: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(ListingFailed, match="tried 5 times") as caught:
        ask().fetch(item("a"))
    assert diagnose(caught.value).kind is ErrorClass.RESOURCE_EXHAUSTION


# Capabilities


class Capable(Scripted):
    """Everything a source can do."""

    def __init__(self) -> None:
        super().__init__()
        self.many: list[Exception | None] = []

    def changes(self, cursor: str | None) -> ChangePage:
        self.calls["changes"] += 1
        self.always("changes")
        if cursor == "old":
            raise CursorExpired("too old")
        return ChangePage((), "now")

    def read_many(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | Exception]]:
        self.calls["read_many"] += 1
        for each in items:
            if self.reads.get(each.key):
                yield each, self.reads[each.key].pop(0)
            else:
                yield each, b"many"
        if self.many and (error := self.many.pop(0)) is not None:
            raise error

    def access(self, item: Item) -> frozenset[str]:
        self.always("access")
        return frozenset({"anyone"})


def test_it_can_do_what_the_source_can_and_nothing_else(source: Scripted, ask: Callable[..., Resilient]) -> None:
    capable = Capable()
    assert capabilities(ask()) == ()
    assert capabilities(ask(of=capable)) == capabilities(capable)
    assert len(capabilities(capable)) == 3


def test_a_change_feed_is_tried_again_and_an_expired_cursor_is_an_answer(ask: Callable[..., Resilient]) -> None:
    capable = Capable()
    faults = iter([True, True, False])
    capable.always = lambda what: (_ for _ in ()).throw(throttled()) if next(faults, False) else None
    asked: Any = ask(of=capable)
    assert asked.changes(None).cursor == "now"
    with pytest.raises(CursorExpired):
        asked.changes("old")
    assert capable.calls["changes"] == 4
    assert len(list(asked.list())) == 3, "an expired cursor ends nothing"
    assert asked.access(item("a")) == {"anyone"}


def test_of_several_items_those_that_failed_are_tried_one_by_one(ask: Callable[..., Resilient]) -> None:
    capable = Capable()
    capable.reads = {"b": [throttled(), throttled()], "c": [ItemCorrupt("bad"), ItemCorrupt("bad")]}
    asked: Any = ask(of=capable)
    answers = {each.key: answer for each, answer in asked.read_many([item(key) for key in "abc"])}
    assert (answers["a"], answers["b"]) == (b"many", b"bbb")
    assert isinstance(answers["c"], ItemCorrupt)
    capable.many = [ConnectionResetError("reset")]
    assert len(list(asked.read_many([item(key) for key in "xyz"]))) == 3
    capable.many = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        list(asked.read_many([item("x")]))
