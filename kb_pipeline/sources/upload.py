"""The source type upload: an inbox in the storage that `kb upload` puts files into.

What belongs here: the inbox's layout, adding, removing, listing and reading. What doesn't: deciding what is uploaded.

Layout, below ``uploads/<connection>/``: ``blobs/<first 2 digits>/<sha256>`` holds bytes by their content,
``entries/<percent-encoded name>.json`` says which name has which content. A blob is complete before an entry names it, and
an entry is replaced in one step, so a reader never sees half an upload.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
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
from kb_pipeline.storage.files import FilesError, aside_path

_SUFFIX = ".json"
_LONGEST_NAME = 200  # bytes; file systems allow 255, and the suffix and the name of the file aside need room
_READERS = 16  # entries read at a time: in a bucket each is a request
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
        self._context = context
        self._files = context.files
        self._root = f"uploads/{config.name}"
        self._entries = f"{self._root}/entries"

    def add(self, path: Path) -> Literal["added", "replaced", "unchanged"]:
        """Copy a file into the inbox under its own name, replacing one of the same name.

        Raises SourceError when it isn't a regular file that can be read, OSError or FilesError when the storage can't
        take it.
        """
        name = escape(path.name)
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
                if not self._has(sha256, size):
                    self._files.keep(_blob(self._root, sha256), aside, replace=True)
                self._write(_Entry(name, sha256, size, datetime.now(UTC)))
                return "added" if known is None else "replaced"
        finally:
            aside.unlink(missing_ok=True)

    def remove(self, name: str) -> bool:
        """Take a name out of the inbox; False when it isn't there. Its bytes stay until ``collect``."""
        with self._lock():
            if self._files.find(self._key(name)) is None:
                return False
            self._files.delete([self._key(name)])
            return True

    def collect(self) -> int:
        """Delete the bytes that no entry names any more. Returns how many files went.

        Raises ListingFailed, before anything is deleted, when the entries can't all be read.
        """
        if not any(True for _ in self._files.list(self._root)):
            return 0
        with self._lock():
            entries = [entry for _, entry in self._load_all()]
            if any(isinstance(entry, str) for entry in entries):
                raise ListingFailed(f"The inbox {self.name} holds damaged entries: remove them first.")
            named = {_blob(self._root, entry.sha256) for entry in entries if isinstance(entry, _Entry)}
            unnamed = [each.key for each in self._files.list(f"{self._root}/blobs") if each.key not in named]
            self._files.delete(unnamed)
            return len(unnamed)

    def list(self) -> Iterator[Item]:
        """Yield every uploaded file in ascending order of name. An inbox that doesn't exist yet is empty.

        Raises ListingFailed when the inbox can't be read. A damaged entry is an item with the problem "corrupt".
        """
        items = [self._item(key, entry) for key, entry in self._load_all() if entry is not None]
        items.sort(key=lambda item: item.key)
        yield from items

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        """Open an uploaded file. Raises ItemVanished, ItemUnreadable; ItemCorrupt at the end if the bytes are wrong."""
        if not _SHA256.fullmatch(item.version):
            raise ItemCorrupt("The inbox's entry is damaged: upload the file again.")
        try:
            blob = self._files.stream(_blob(self._root, item.version))
        except FileNotFoundError as error:
            raise ItemVanished(f"The bytes of {item.name} are no longer in the inbox.") from error
        except (OSError, FilesError) as error:
            raise ItemUnreadable(f"The bytes of {item.name} can't be opened: {_reason(error)}.") from error
        digest = hashlib.sha256()

        def fill(size: int) -> bytes:
            try:
                data: bytes = blob.read(size)
            except (OSError, FilesError) as error:
                raise ItemUnreadable(f"The bytes of {item.name} can't be read: {_reason(error)}.") from error
            digest.update(data)
            if not data and digest.hexdigest() != item.version:
                raise ItemCorrupt(f"The bytes of {item.name} changed in the inbox: upload the file again.")
            return data

        with blob, stream(fill) as opened:
            yield opened

    def probe(self) -> str:
        """One line about the inbox. Raises SourceError when it can't be read."""
        return f"{self._files.uri(self._root)}: readable, files: {len(self._entry_keys())}"

    def _entry_keys(self) -> Sequence[str]:
        try:
            found = [each.key for each in self._files.list(self._entries)]
        except (OSError, FilesError) as error:
            where = self._files.uri(self._entries)
            raise ListingFailed(f"The inbox {where} can't be read: {_reason(error)}.") from error
        return [key for key in found if key.endswith(_SUFFIX)]

    def _load_all(self) -> Iterator[tuple[str, _Entry | str | None]]:
        keys = self._entry_keys()
        with ThreadPoolExecutor(max_workers=_READERS) as executor:
            yield from zip(keys, executor.map(self._load, keys), strict=True)

    def _load(self, key: str) -> _Entry | str | None:
        """An entry; what is wrong with it, if it's damaged; None when it has just been removed."""
        try:
            raw = self._files.get(key)
        except FileNotFoundError:
            return None
        except (OSError, FilesError) as error:
            where = self._files.uri(key)
            raise ListingFailed(f"The inbox's entry {where} can't be read: {_reason(error)}.") from error
        try:
            entry = _decode(raw)
        except (ValueError, KeyError, TypeError):
            return "the inbox's entry is damaged: upload the file again"
        if self._key(entry.name) != key:
            return "the inbox's entry lies under another name: upload the file again"
        return entry

    def _item(self, place: str, entry: _Entry | str) -> Item:
        if isinstance(entry, _Entry):
            return Item(
                key=entry.name,
                version=entry.sha256,
                name=entry.name,
                uri=self._uri(entry.name),
                size=entry.size,
                modified=entry.uploaded_at,
            )
        file_name = place.removeprefix(f"{self._entries}/")
        name = unquote(file_name.removesuffix(_SUFFIX), errors="surrogateescape")
        if self._key(name) != place:  # a file of foreign origin, or a name too long to be told from its entry's
            name = f"entries/{file_name}"
        key = escape(name)
        return Item(key, "damaged", key, self._uri(key), problem=Status.CORRUPT, problem_detail=entry)

    def _uri(self, name: str) -> str:
        return f"upload://{self.name}/{quote(name, safe='')}"

    def _key(self, name: str) -> str:
        return f"{self._entries}/{_file_name(name)}{_SUFFIX}"

    def _known(self, name: str) -> _Entry | None:
        entry = self._load(self._key(name))
        return entry if isinstance(entry, _Entry) else None

    def _has(self, sha256: str, size: int) -> bool:
        found = self._files.find(_blob(self._root, sha256))
        return found is not None and found.size == size

    def _copy(self, opened: BinaryIO, path: Path) -> tuple[Path, str, int]:
        """Copy into a file aside; returns it with the sha256 and the number of bytes copied."""
        digest, size = hashlib.sha256(), 0
        aside = aside_path(self._context.storage / "staging", self.name)
        try:
            with aside.open("wb") as target:
                while data := _read(opened, path):
                    digest.update(data)
                    size += len(data)
                    target.write(data)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        return aside, digest.hexdigest(), size

    def _write(self, entry: _Entry) -> None:
        data = {
            "name": entry.name,
            "sha256": entry.sha256,
            "size": entry.size,
            "uploaded_at": entry.uploaded_at.isoformat(),
        }
        self._files.put(self._key(entry.name), json.dumps(data).encode())

    def _lock(self) -> AbstractContextManager[object]:
        """One writer at a time: no blob is collected between being found and being named."""
        return self._context.alone(f"{self._root}")


def _blob(root: str, sha256: str) -> str:
    return f"{root}/blobs/{sha256[:2]}/{sha256}"


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


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
