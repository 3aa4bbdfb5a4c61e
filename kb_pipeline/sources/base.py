"""The source protocol: what a connection must be able to do. Three verbs: list, read and probe.

What belongs here: the contract between sources and the rest. What doesn't: anything about a particular source, and what
only some sources are able to do (``capabilities``).

A source type is a class registered under the entry-point group ``kb_pipeline.sources``; the entry point's name is the
``type`` in kb.yaml. The class names its pydantic settings model in ``Config`` (a subclass of ``SourceConfig``) and is
built with one instance of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from kb_pipeline.flow.kinds import ErrorClass
from kb_pipeline.statuses import Status
from kb_pipeline.storage.files import Files, Folder


class ConnectorError(Exception):
    """What all errors share that a source raises on purpose. The message is for the person who runs it.

    ``kind``         what sort of trouble it is, where the source knows: strategies, statistics and the circuit breaker go
                     by it. None: it is read from the exception that this one was raised from.
    ``retry_after``  seconds the source asked to be left alone, where it did. None: read from that exception as well.
    """

    kind: ErrorClass | None = None
    retry_after: float | None = None

    def __init__(self, *args: object, kind: ErrorClass | None = None, retry_after: float | None = None) -> None:
        super().__init__(*args)
        if kind is not None:
            self.kind = ErrorClass(kind)
        self.retry_after = retry_after


class SourceError(ConnectorError):
    """A source as a whole can't be listed or probed."""


class ListingFailed(SourceError):
    """A listing could not be completed: nothing may be deleted on its account."""


class ItemVanished(ConnectorError):
    """The item was listed, but no longer exists."""

    kind = ErrorClass.NOT_FOUND


class ItemUnreadable(ConnectorError):
    """The item exists, but its bytes can't be delivered now (permission, network, ...). Tried again in every run."""


class ItemCorrupt(ConnectorError):
    """The source delivered bytes that are provably wrong (a bad checksum inside an archive, for example)."""

    kind = ErrorClass.DATA_CORRUPTION


class ItemEncrypted(ConnectorError):
    """The item needs a password that the source doesn't have."""

    kind = ErrorClass.PERMISSION


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a source lists.

    ``key``      stable and unique within the connection: a path, a file id, archive + "!/" + member. Any Unicode text.
    ``version``  changes whenever the bytes may have changed; equal versions mean equal bytes.
    ``name``     the file name, with extension: parsers are chosen by it.
    ``uri``      where a person finds it.
    ``size``     bytes, where known.
    ``modified`` time of the last change at the source (UTC), where known.
    ``parent``   key of the item that holds this one (the archive of a member), if any.
    ``excluded`` name of the rule that leaves it out ("include", "exclude", "hidden", "link"), or None.
    ``problem``  an item the source already knows to be bad at listing time, with ``problem_detail``: never read.
    ``media_type`` what the source says the bytes are: the type a document was exported as, a stored Content-Type. A name
                 whose extension is known wins over it (``parsing.registry.choose``).
    """

    key: str
    version: str
    name: str
    uri: str
    size: int | None = None
    modified: datetime | None = None
    parent: str | None = None
    excluded: str | None = None
    problem: Status | None = None
    problem_detail: str = ""
    media_type: str | None = None


class SourceConfig(BaseModel):
    """Settings that every connection has. Subclasses add their own; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Unique name of the connection.")
    type: str = Field(description="Source type: a name of the entry-point group kb_pipeline.sources.")
    shards: int = Field(default=1, ge=1, le=999, description="Partitions the connection is split into.")
    timeout_seconds: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Seconds without a sign of life; null: errors.timeout_seconds."
    )


@dataclass(frozen=True, slots=True)
class SourceContext:
    """Where a source lives.

    ``base``     resolves its relative paths (the folder of kb.yaml)
    ``storage``  the folder of what stays on this machine: the storage itself, unless that is remote
    ``remote``   where what is kept lies when the storage is remote
    ``alone``    name -> a context in which nobody else, in whatever process, does what has this name
    """

    base: Path
    storage: Path
    remote: Files | None = None
    alone: Callable[[str], AbstractContextManager[object]] = nullcontext

    @property
    def files(self) -> Files:
        """Where a source keeps what it must not lose, below a folder of its own."""
        return self.remote or Folder(self.storage, self.storage / "staging")


@runtime_checkable
class Source(Protocol):
    """What the pipeline asks of a source. Implementations are cheap to build and open nothing before the first call."""

    Config: ClassVar[type[SourceConfig]]

    def __init__(self, config: SourceConfig, context: SourceContext) -> None: ...

    def list(self) -> Iterator[Item]:
        """Yield every item, in ascending order of ``key``.

        Raises ListingFailed when the listing can't be completed: what was yielded before must not be believed complete.
        """
        ...

    def read(self, item: Item) -> AbstractContextManager[BinaryIO]:
        """Open the bytes of a listed item. An open file will do: it closes itself after ``with``.

        Raises ItemVanished, ItemUnreadable, ItemCorrupt or ItemEncrypted, also while reading.
        """
        ...

    def probe(self) -> str:
        """Reach the source without changing anything; return one line for ``kb sources check``. Raises SourceError."""
        ...
