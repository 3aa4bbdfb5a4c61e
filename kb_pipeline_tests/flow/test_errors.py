"""What a chain of exceptions means, and how errors of our own say it themselves."""

from __future__ import annotations

import errno
import pickle
import urllib.error
from collections.abc import Callable
from email.message import Message

import pytest

from kb_pipeline.flow.errors import Diagnosis, ErrorClass, chain, classify, diagnose, innermost
from kb_pipeline.ledger.errors import LeaseHeld, LeaseLost
from kb_pipeline.parsing.child import Unavailable
from kb_pipeline.sources.base import (
    ConnectorError,
    ItemCorrupt,
    ItemEncrypted,
    ItemUnreadable,
    ItemVanished,
    ListingFailed,
    SourceError,
)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """``error``, raised from ``cause``."""
    error.__cause__ = cause
    return error


def http(status: int, **headers: str) -> urllib.error.HTTPError:
    """What urllib raises for an answer."""
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://x", status, "no", message, None)


@pytest.mark.parametrize("kind", [SourceError, ListingFailed, ItemUnreadable])
def test_an_error_of_a_source_is_of_the_kind_that_lies_behind_it(kind: type[ConnectorError]) -> None:
    assert classify(kind("the folder is odd")) is ErrorClass.SOURCE
    assert classify(caused(kind("no"), ConnectionRefusedError())) is ErrorClass.NETWORK
    assert classify(caused(kind("no"), ZeroDivisionError())) is ErrorClass.SOURCE
    assert diagnose(caused(kind("no"), http(429, Retry_After="4"))) == Diagnosis(ErrorClass.RATE_LIMITING, 4.0)


def test_a_source_that_knows_the_kind_says_so_and_is_believed() -> None:
    error = caused(ItemUnreadable("no", kind=ErrorClass.RATE_LIMITING, retry_after=2), ConnectionResetError())
    assert diagnose(error) == Diagnosis(ErrorClass.RATE_LIMITING, 2.0)
    assert diagnose(caused(ListingFailed("no listing"), error)) == Diagnosis(ErrorClass.RATE_LIMITING, 2.0)
    zero = caused(ItemUnreadable("no", kind=ErrorClass.NETWORK, retry_after=0), http(503, Retry_After="9"))
    assert diagnose(zero) == Diagnosis(ErrorClass.NETWORK, 0.0)
    assert str(ListingFailed("a sentence", kind=ErrorClass.NETWORK)) == "a sentence"
    with pytest.raises(ValueError, match="nonsense"):
        ListingFailed("no", kind="nonsense")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ItemVanished("gone"), ErrorClass.NOT_FOUND),
        (ItemCorrupt("bad"), ErrorClass.DATA_CORRUPTION),
        (ItemEncrypted("locked"), ErrorClass.PERMISSION),
        (LeaseHeld("held"), ErrorClass.CONFLICT),
        (LeaseLost("lost"), ErrorClass.CONFLICT),
        (Unavailable("no process"), ErrorClass.RESOURCE_EXHAUSTION),
        (ZeroDivisionError(), ErrorClass.INTERNAL),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_our_own(error: BaseException, kind: ErrorClass) -> None:
    assert classify(error) is kind


@pytest.mark.parametrize("kind", [SourceError, ListingFailed, ItemUnreadable, ItemVanished, ItemCorrupt, ItemEncrypted])
def test_what_a_source_says_survives_the_way_between_processes(kind: type[ConnectorError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a sentence", kind=ErrorClass.NETWORK, retry_after=3)))
    assert (str(error), diagnose(error)) == ("a sentence", Diagnosis(ErrorClass.NETWORK, 3.0))


def raised(call: Callable[[], None]) -> BaseException:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - what it is, is the question
        return error
    pytest.fail("nothing was raised")


def test_the_last_answer_of_a_service_goes_before_what_went_wrong_earlier() -> None:
    """A connector tries again after a broken connection, and the second try is refused."""

    def second_try_is_refused() -> None:
        try:
            raise ConnectionResetError
        except ConnectionResetError:
            raise http(401)  # noqa: B904 - what a careless connector does

    assert classify(raised(second_try_is_refused)) is ErrorClass.AUTHENTICATION


def test_a_context_that_was_declared_irrelevant_is() -> None:
    def unrelated() -> None:
        try:
            raise ConnectionResetError
        except ConnectionResetError:
            raise ZeroDivisionError from None

    assert classify(raised(unrelated)) is ErrorClass.INTERNAL


def test_the_closest_to_the_cause_tells_most() -> None:
    inner = caused(OSError(errno.EIO, "Input/output error"), OSError(errno.ENOSPC, "No space left on device"))
    assert classify(caused(RuntimeError("it failed"), inner)) is ErrorClass.RESOURCE_EXHAUSTION


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert list(chain(one)) == [one, other]
    assert classify(one) is ErrorClass.INTERNAL


def test_one_line_about_an_exception_that_nobody_worded() -> None:
    error = caused(RuntimeError("it failed"), OSError(errno.ENOSPC, "No space left on device"))
    assert innermost(error) == "[Errno 28] No space left on device (builtins: RuntimeError)"
    assert innermost(ValueError()) == "ValueError (builtins: ValueError)"
