"""What a source may be able to do beside its three verbs: protocols of their own, each optional.

What belongs here: the contract of each. What doesn't: what the pipeline makes of them, and wrappers (``guard``).

A source has a capability by having its method; nothing is declared. The pipeline asks with ``isinstance``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from kb_pipeline.sources.base import Item, SourceError

T = TypeVar("T")


class CursorExpired(SourceError):
    """The feed can't tell what happened since this cursor: list anew."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one key. ``item``: as ``list`` would list it now; None is a tombstone: it would list it no more."""

    key: str
    item: Item | None


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Some changes, in the order in which they happened.

    ``cursor``: where the next page begins. ``more``: there is one already; False: this is all up to now.
    """

    changes: Sequence[Change]
    cursor: str
    more: bool = False


@runtime_checkable
class Changes(Protocol):
    """A source that can tell what changed, so that it need not be listed whole each time."""

    def changes(self, cursor: str | None) -> ChangePage:
        """What changed since ``cursor``; with None nothing but the cursor of this moment.

        What happens after a cursor was handed out is told from it, at least once: an item that was added, edited, moved in
        or out of what ``list`` lists, and a deletion as a tombstone. What isn't told did not happen: items that a listing
        had and the feed says nothing of stay as they were listed, their rules (``excluded``) included. A cursor is text of
        the source's own, kept with the listing.

        Raises CursorExpired when the feed doesn't reach back so far, or can't vouch for it: the connector itself was
        changed, say. Raises ListingFailed when the feed can't be had.
        """
        ...


SMALL_ITEM_BYTES = 64 << 10
"""Items up to this listed size are read several at a time, where a source can."""
READ_MANY_ITEMS = 64
"""Items asked for at once, at most."""


@runtime_checkable
class ReadMany(Protocol):
    """A source where a round trip is dear, and that can deliver several small items in one."""

    def read_many(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | Exception]]:
        """Yield each item with its bytes, or with the error that ``read`` would raise because of it; in any order.

        Called from several threads at a time, with up to READ_MANY_ITEMS items of a listed size of up to SMALL_ITEM_BYTES.
        An item that it says nothing of is read by ``read``. It raises what ``read`` raises: an error because of items is
        that of all it said nothing of, any other one fails the connection.
        """
        ...


@runtime_checkable
class Access(Protocol):
    """A source that knows who may read what."""

    def access(self, item: Item) -> AbstractSet[str]:
        """The principals who may read an item: ``user:NAME``, ``group:NAME``, ``domain:NAME`` or ``anyone``.

        NAME is what the source calls them: an address, an id. An empty set is nobody. Raises ItemVanished, ItemUnreadable.
        """
        ...


CAPABILITIES: tuple[type, ...] = (Changes, ReadMany, Access)
"""All of them: what a wrapper around a source has to pass on."""


def capabilities(source: object) -> tuple[type, ...]:
    """Which of them a source has, in the order of CAPABILITIES."""
    return tuple(each for each in CAPABILITIES if isinstance(source, each))


def passing_on(wrapper: type[T], forwards: Mapping[type, type], source: object) -> type[T]:
    """The class of a wrapper around ``source`` that has the capabilities it has and no others.

    ``forwards``: for each of CAPABILITIES a class whose method passes it on. What has a method must have it to some purpose:
    ``isinstance`` is how the pipeline asks.
    """
    made: type[T] = _extended(cast("type", wrapper), tuple(forwards[each] for each in capabilities(source)))
    return made


@cache
def _extended(wrapper: type, bases: tuple[type, ...]) -> Any:
    return type(wrapper.__name__, (*bases, wrapper), {"__doc__": wrapper.__doc__}) if bases else wrapper
