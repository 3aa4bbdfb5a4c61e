"""What leaves a connector that knows a secret never tells it."""

from __future__ import annotations

import io
import itertools
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from urllib.error import HTTPError

import pytest

from kb_pipeline.flow.errors import ErrorClass, classify, diagnose
from kb_pipeline.settings.secrets import SecretEnv, redact
from kb_pipeline.sources.base import Item, ItemUnreadable, ListingFailed, Source, SourceConfig, SourceContext, SourceError
from kb_pipeline.sources.capabilities import (
    CAPABILITIES,
    Access,
    ChangePage,
    Changes,
    CursorExpired,
    ReadMany,
    capabilities,
)
from kb_pipeline.sources.guard import guarded

_SECRET = "pa ss/word-81c4"
_CONTEXT = SourceContext(Path(), Path())
_ITEM = Item("a.md", "1", "a.md", "x://a.md")


class _Config(SourceConfig):
    token: SecretEnv


class _Talkative:
    """Quotes its token in whatever goes wrong."""

    Config: ClassVar[type[SourceConfig]] = _Config

    def __init__(self, config: SourceConfig, context: SourceContext) -> None:
        assert isinstance(config, _Config)
        self.token = config.token

    def list(self) -> Iterator[Item]:
        yield _ITEM
        try:
            raise ConnectionError(f"GET /?token={self.token.resolve().replace(' ', '%20').replace('/', '%2F')}")
        except ConnectionError as error:
            raise ListingFailed(f"refused: {self.token.resolve()}") from error

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        yield io.BytesIO(b"fine")
        raise ItemUnreadable(f"{item.key}: {self.token.resolve()}")

    def probe(self) -> str:
        return f"logged in with {self.token.resolve()}"


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TALKATIVE", _SECRET)
    config = _Config(name="talkative", type="talkative", token=SecretEnv(env="TALKATIVE"))
    return guarded(_Talkative(config, _CONTEXT), config, _CONTEXT)


def test_an_error_keeps_its_kind_and_its_cause_but_not_the_secret(source: Any) -> None:
    items = source.list()
    assert next(items) == _ITEM
    with pytest.raises(ListingFailed, match=r"refused: \*\*\*") as caught:
        next(items)
    told = "".join(traceback.format_exception(caught.value))
    assert "GET /?token=***" in told
    assert _SECRET not in told
    assert "pa%20ss" not in told
    assert classify(caught.value) is ErrorClass.NETWORK


def test_what_an_error_is_goes_along_when_its_words_are_cleaned(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service answered is in the exception's fields, which the clean copy hasn't."""

    def refused() -> str:
        secret = source._source.token.resolve()
        headers = Message()
        headers["Retry-After"] = "12"
        raise HTTPError(f"https://x/?token={secret}", 429, f"slow down, {secret}", headers, None)

    def told() -> str:
        raise SourceError(f"no, {source._source.token.resolve()}", kind=ErrorClass.NETWORK, retry_after=3)

    for call, expected in ((refused, (ErrorClass.RATE_LIMITING, 12.0)), (told, (ErrorClass.NETWORK, 3.0))):
        monkeypatch.setattr(source._source, "probe", call)
        with pytest.raises(Exception, match=r"\*\*\*") as caught:
            source.probe()
        assert _SECRET not in str(caught.value)
        found = diagnose(caught.value)
        assert (found.kind, found.retry_after) == expected


def test_errors_while_reading_and_the_probe_are_guarded_too(source: Any) -> None:
    with pytest.raises(ItemUnreadable, match=r"a\.md: \*\*\*"), source.read(_ITEM) as opened:
        assert opened.read() == b"fine"
    assert source.probe() == "logged in with ***"


@pytest.mark.parametrize("capability", [(), *itertools.combinations(CAPABILITIES, 1), CAPABILITIES])
def test_what_else_a_source_can_do_is_passed_on_and_nothing_is_made_up(capability: tuple[type, ...]) -> None:
    methods = {Changes: "changes", ReadMany: "read_many", Access: "access"}
    able: Any = type("Able", (_Talkative,), {methods[each]: lambda self, _: None for each in capability})
    config = _Config(name="talkative", type="talkative", token=SecretEnv(env="TALKATIVE"))
    guard = guarded(able(config, _CONTEXT), config, _CONTEXT)
    assert isinstance(guard, Source)
    assert capabilities(guard) == capability


class _Indiscreet(_Talkative):
    """Quotes it where it does more than it must, too."""

    def changes(self, cursor: str | None) -> ChangePage:
        raise CursorExpired(f"no such cursor with {self.token.resolve()}")

    def read_many(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | Exception]]:
        yield items[0], b"fine"
        yield items[1], ItemUnreadable(f"refused: {self.token.resolve()}")
        raise ItemUnreadable(f"hung up on {self.token.resolve()}")

    def access(self, item: Item) -> frozenset[str]:
        raise ItemUnreadable(f"not for {self.token.resolve()}")


def test_errors_of_capabilities_are_guarded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALKATIVE", _SECRET)
    config = _Config(name="talkative", type="talkative", token=SecretEnv(env="TALKATIVE"))
    source: Any = guarded(_Indiscreet(config, _CONTEXT), config, _CONTEXT)
    with pytest.raises(CursorExpired, match=r"with \*\*\*"):
        source.changes("7")
    with pytest.raises(ItemUnreadable, match=r"not for \*\*\*"):
        source.access(_ITEM)
    answers = source.read_many([_ITEM, _ITEM])
    assert next(answers) == (_ITEM, b"fine")
    told = next(answers)[1]
    assert isinstance(told, ItemUnreadable)
    assert str(told) == "refused: ***"
    with pytest.raises(ItemUnreadable, match=r"hung up on \*\*\*"):
        next(answers)


def test_the_consumers_own_errors_pass_as_they_are(source: Any) -> None:
    mine = KeyError("mine")
    with pytest.raises(KeyError) as caught, source.read(_ITEM):
        raise mine
    assert caught.value is mine


def test_a_source_without_secrets_is_left_as_it_is() -> None:
    config = SourceConfig(name="plain", type="plain")
    plain: Any = object()
    assert guarded(plain, config, _CONTEXT) is plain


def test_a_secret_too_short_to_be_one_garbles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "e")
    assert SecretEnv(env="SHORT").resolve() == "e"
    assert redact("seven eggs") == "seven eggs"
