"""What an error means: its kind, how long its source asks to be left alone, whether waiting can mend it.

What belongs here: reading a chain of exceptions, and errors of our own. What doesn't: the kinds (``kinds``), exceptions of
third parties (``foreign``), what to do about an error.
"""

from __future__ import annotations

from collections.abc import Iterator

from kb_pipeline.flow import foreign
from kb_pipeline.flow.kinds import Diagnosis, ErrorClass

__all__ = ["Diagnosis", "ErrorClass", "chain", "classify", "diagnose", "innermost"]

# Of packages above this one, which can't be imported here. Errors of sources may state their kind; these say what remains
# when one doesn't.
_OURS = {
    "LeaseHeld": ErrorClass.CONFLICT,
    "LeaseLost": ErrorClass.CONFLICT,
    "ConfigError": ErrorClass.SOURCE,
    "LedgerUnavailable": ErrorClass.SOURCE,
    "SourceError": ErrorClass.SOURCE,
    "ItemUnreadable": ErrorClass.SOURCE,
    "ParseError": ErrorClass.DATA_CORRUPTION,
    "EmbeddingError": ErrorClass.DATA_CORRUPTION,
    "Unavailable": ErrorClass.RESOURCE_EXHAUSTION,
}
_VAGUE = (ErrorClass.INTERNAL, ErrorClass.SOURCE)


def classify(error: BaseException) -> ErrorClass:
    """The class of an exception. Looks through what it was raised from for the most telling one."""
    return diagnose(error).kind


def diagnose(error: BaseException) -> Diagnosis:
    """What is known of an exception and of those it was raised from.

    A kind that somebody stated goes before all others, the outermost first: whoever raised it knew what they were doing.
    Then a service's own answer, the outermost first as well, because it is the last that was heard. Of what is left, the
    innermost is the closest to the cause, if it says anything.
    """
    found = list(chain(error))
    answers = [each for each in map(foreign.answer, found) if each is not None]
    recognised = [each for each in map(_recognise, found) if each is not None]
    stated = next((each for each in map(_stated, found) if each is not None), None)
    if stated is not None:
        kind = stated.kind
    elif answers:
        kind = answers[0].kind
    else:
        kinds = [each.kind for each in reversed(recognised)]
        kind = next((each for each in kinds if each not in _VAGUE), kinds[0] if kinds else ErrorClass.INTERNAL)
    waits = [_retry_after(each) for each in found] + [each.retry_after for each in answers]
    return Diagnosis(
        kind,
        next((seconds for seconds in waits if seconds is not None), None),
        any(each.lasting for each in recognised) or (stated is not None and stated.lasting),
    )


def innermost(error: BaseException) -> str:
    """One line about an exception that nobody worded for people: what lies at its bottom, and what it surfaced as."""
    bottom = error
    while bottom.__cause__ is not None:
        bottom = bottom.__cause__
    lines = str(bottom).strip().splitlines() or [type(bottom).__name__]
    return f"{lines[0]} ({type(error).__module__.partition('.')[0]}: {type(error).__name__})"


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it was raised from, and so on; each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        context = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or context or foreign.inner(current)


def _stated(error: BaseException) -> Diagnosis | None:
    """What an exception says of itself: errors of sources have a ``kind``, copies without secrets a ``diagnosis``."""
    diagnosis = getattr(error, "diagnosis", None)
    if isinstance(diagnosis, Diagnosis):
        return diagnosis
    kind = getattr(error, "kind", None)
    return Diagnosis(kind) if isinstance(kind, ErrorClass) else None


def _retry_after(error: BaseException) -> float | None:
    diagnosis = getattr(error, "diagnosis", None)
    if isinstance(diagnosis, Diagnosis):
        return diagnosis.retry_after
    seconds = getattr(error, "retry_after", None)
    return float(seconds) if isinstance(seconds, int | float) and not isinstance(seconds, bool) else None


def _recognise(error: BaseException) -> Diagnosis | None:
    for name in (kind.__name__ for kind in type(error).__mro__):
        if name in _OURS:
            return Diagnosis(_OURS[name])
    return foreign.recognise(error)
