"""The source type upload: an inbox below the storage that `kb upload` puts files into.

What belongs here: the inbox's layout, adding, removing, listing and reading. What doesn't: deciding what is uploaded.

Layout, below ``<storage>/uploads/<connection>/``: ``blobs/<first 2 digits>/<sha256>`` holds bytes by their content,
``entries/<percent-encoded name>.json`` says which name has which content, ``aside/`` holds what is being written. A
blob is complete before an entry names it, and an entry is replaced in one step, so a reader never sees half an upload.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal
from urllib.parse import quote, unquote

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
from kb_pipeline.sources.names import escape
from kb_pipeline.sources.streams import BLOCK, stream
from kb_pipeline.statuses import Status

if sys.platform != "win32":
    import fcntl

_SUFFIX = ".json"
_LONGEST_NAME = 200  # bytes; file systems allow 255, and the suffix and the name of the file aside need room
_ABANDONED = 24 * 3600  # seconds after which a copy aside has no writer any more
_SHA256 = re.compile(r"[0-9a-f]{64}")


class UploadConfig(SourceConfig):
    """Settings of an upload connection: none of its own."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    sha256: str
    size: int
    uploaded_at: datetime


class Upload:
    """An inbox of uploaded files. The key of an item is its file name, its version the sha256 of its bytes."""

    Config: ClassVar[type[SourceConfig]] = UploadConfig

    def __init__(self, config: SourceConfig, context: SourceContext) -> None:
        self.name = config.name
        self.root = context.storage / "uploads" / config.name
        self._entries = self.root / "entries"
        self._aside = self.root / "aside"

    def add(self, path: Path) -> Literal["added", "replaced", "unchanged"]:
        """Copy a file into the inbox under its own name, replacing one of the same name.

        Raises SourceError when it isn't a regular file that can be read, OSError when the storage can't take it.
        """
        name = escape(path.name)
        for folder in (self._entries, self._aside):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            opened = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - closed by the with below
        except OSError as error:
            raise SourceError(f"{path} can't be read: {error.strerror}.") from error
        with opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise SourceError(f"{path} is not a regular file.")
            aside, sha256, size = self._copy(opened, path)
        try:
            with self._lock():
                known = self._known(name)
                if known is not None and known.sha256 == sha256 and self._has(sha256, size):
                    return "unchanged"
                self._keep(aside, sha256, size)
                entry = _Entry(name, sha256, size, datetime.now(UTC))
                self._write(entry)
                return "added" if known is None else "replaced"
        finally:
            aside.unlink(missing_ok=True)

    def remove(self, name: str) -> bool:
        """Take a name out of the inbox; False when it isn't there. Its bytes stay until ``collect``."""
        if not self._entries.is_dir():
            return False
        with self._lock():
            try:
                self._path(name).unlink()
            except FileNotFoundError:
                return False
            _sync_folder(self._entries)
            return True

    def collect(self) -> int:
        """Delete the bytes that no entry names any more, and copies left by a crash. Returns how many files went.

        Raises ListingFailed, before anything is deleted, when the entries can't all be read.
        """
        if not self.root.is_dir():
            return 0
        with self._lock():
            entries = [self._load(path) for path in self._entry_paths()]
            if any(isinstance(entry, str) for entry in entries):
                raise ListingFailed(f"The inbox {self.name} holds damaged entries: remove them first.")
            named = {entry.sha256 for entry in entries if isinstance(entry, _Entry)}
            unnamed = [p for p in self.root.glob("blobs/[0-9a-f][0-9a-f]/*") if p.name not in named]
            old = time.time() - _ABANDONED
            unnamed += [p for p in self._aside.glob("*") if p.stat().st_mtime < old]
            for path in unnamed:
                path.unlink(missing_ok=True)
            return len(unnamed)

    def list(self) -> Iterator[Item]:
        """Yield every uploaded file in ascending order of name. An inbox that doesn't exist yet is empty.

        Raises ListingFailed when the inbox can't be read. A damaged entry is an item with the problem "corrupt".
        """
        items = []
        for path in self._entry_paths():
            entry = self._load(path)
            if entry is not None:
                items.append(self._item(path, entry))
        items.sort(key=lambda item: item.key)
        yield from items

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        """Open an uploaded file. Raises ItemVanished, ItemUnreadable; ItemCorrupt at the end if the bytes are wrong."""
        if not _SHA256.fullmatch(item.version):
            raise ItemCorrupt("The inbox's entry is damaged: upload the file again.")
        try:
            blob = open(self._blob(item.version), "rb", buffering=0)  # noqa: SIM115 - closed by the with below
        except FileNotFoundError as error:
            raise ItemVanished(f"The bytes of {item.name} are no longer in the inbox.") from error
        except OSError as error:
            raise ItemUnreadable(f"The bytes of {item.name} can't be opened: {error.strerror}.") from error
        digest = hashlib.sha256()

        def fill(size: int) -> bytes:
            try:
                data: bytes = blob.read(size)
            except OSError as error:
                raise ItemUnreadable(f"The bytes of {item.name} can't be read: {error.strerror}.") from error
            digest.update(data)
            if not data and digest.hexdigest() != item.version:
                raise ItemCorrupt(f"The bytes of {item.name} changed in the inbox: upload the file again.")
            return data

        with blob, stream(fill) as opened:
            yield opened

    def probe(self) -> str:
        """One line about the inbox. Raises SourceError when it can't be read."""
        return f"{self.root}: readable, files: {sum(1 for _ in self._entry_paths())}"

    def _entry_paths(self) -> Iterator[Path]:
        try:
            with os.scandir(self._entries) as found:
                names = [entry.name for entry in found if entry.name.endswith(_SUFFIX)]
        except FileNotFoundError:
            return
        except OSError as error:
            raise ListingFailed(f"The inbox {self._entries} can't be read: {error.strerror}.") from error
        for name in names:
            yield self._entries / name

    def _load(self, path: Path) -> _Entry | str | None:
        """An entry; what is wrong with it, if it's damaged; None when it has just been removed."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ListingFailed(f"The inbox's entry {path} can't be read: {error.strerror}.") from error
        try:
            entry = _decode(raw)
        except (ValueError, KeyError, TypeError):
            return "the inbox's entry is damaged: upload the file again"
        if self._path(entry.name) != path:
            return "the inbox's entry lies under another name: upload the file again"
        return entry

    def _item(self, path: Path, entry: _Entry | str) -> Item:
        if isinstance(entry, _Entry):
            return Item(
                key=entry.name,
                version=entry.sha256,
                name=entry.name,
                uri=self._uri(entry.name),
                size=entry.size,
                modified=entry.uploaded_at,
            )
        name = unquote(path.name.removesuffix(_SUFFIX), errors="surrogateescape")
        if self._path(name) != path:  # a file of foreign origin, or a name too long to be told from its entry's
            name = f"entries/{path.name}"
        key = escape(name)
        return Item(key, "damaged", key, self._uri(key), problem=Status.CORRUPT, problem_detail=entry)

    def _uri(self, name: str) -> str:
        return f"upload://{self.name}/{quote(name, safe='')}"

    def _path(self, name: str) -> Path:
        return self._entries / (_file_name(name) + _SUFFIX)

    def _blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256[:2] / sha256

    def _known(self, name: str) -> _Entry | None:
        entry = self._load(self._path(name))
        return entry if isinstance(entry, _Entry) else None

    def _has(self, sha256: str, size: int) -> bool:
        try:
            return self._blob(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def _copy(self, opened: BinaryIO, path: Path) -> tuple[Path, str, int]:
        """Copy into a file aside; returns it with the sha256 and the number of bytes copied."""
        digest, size = hashlib.sha256(), 0
        descriptor, name = tempfile.mkstemp(dir=self._aside)
        aside = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as target:
                while data := _read(opened, path):
                    digest.update(data)
                    size += len(data)
                    target.write(data)
                target.flush()
                os.fsync(target.fileno())
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        return aside, digest.hexdigest(), size

    def _keep(self, aside: Path, sha256: str, size: int) -> None:
        if self._has(sha256, size):
            return
        blob = self._blob(sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside, blob)
        _sync_folder(blob.parent)

    def _write(self, entry: _Entry) -> None:
        data = {
            "name": entry.name,
            "sha256": entry.sha256,
            "size": entry.size,
            "uploaded_at": entry.uploaded_at.isoformat(),
        }
        descriptor, aside = tempfile.mkstemp(dir=self._aside)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as target:
                json.dump(data, target)
                target.flush()
                os.fsync(target.fileno())
            os.replace(aside, self._path(entry.name))
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(aside)
            raise
        _sync_folder(self._entries)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One writer at a time: no blob is collected between being found and being named."""
        with open(self.root / ".lock", "ab") as lock:
            if sys.platform != "win32":
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _file_name(name: str) -> str:
    """A file name for any text: lower-case ASCII, so that file systems that ignore case keep "A" and "a" apart."""
    encoded = re.sub("%[0-9A-F]{2}", lambda m: m[0].lower(), quote(name, safe=""))
    encoded = re.sub("[A-Z]", lambda m: f"%{ord(m[0]):02x}", encoded)
    if len(encoded) <= _LONGEST_NAME:
        return encoded
    # "%s" is no percent-encoding: no other name can come to lie here.
    return "%sha256-" + hashlib.sha256(name.encode()).hexdigest()


def _decode(raw: bytes) -> _Entry:
    data: Any = json.loads(raw)
    entry = _Entry(data["name"], data["sha256"], data["size"], datetime.fromisoformat(data["uploaded_at"]))
    if not (isinstance(entry.name, str) and isinstance(entry.size, int) and _SHA256.fullmatch(entry.sha256)):
        raise ValueError("not an entry")
    if entry.uploaded_at.tzinfo is None:
        raise ValueError("a time without a time zone")
    entry.name.encode()  # a lone surrogate would be no valid key; UnicodeEncodeError is a ValueError
    return entry


def _read(opened: BinaryIO, path: Path) -> bytes:
    try:
        return opened.read(BLOCK)
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror}.") from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer must not block


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
