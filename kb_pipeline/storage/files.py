"""The one port through which files are kept: whole or absent, found again by their key.

What belongs here: what a place for files must be able to do (``Files``), the words its troubles are told in, and the place
that is a local folder. What doesn't: S3 (``storage.bucket``), what files mean, and which of them is current (the ledger).

Keys are relative paths with ``/``. A file is written aside and appears at once: a reader finds the old one, the new one or
none, never a part. Files of a folder are read by their plain path and written with fsync and rename, which obstore's own
store for folders doesn't do.
"""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast
from urllib.parse import quote

import psutil

from kb_pipeline.storage.lance import LanceLocation

if TYPE_CHECKING:
    import pyarrow as pa

ABANDONED = 24 * 3600.0
"""Seconds after which a file aside that another machine wrote last is nobody's: its processes can't be asked for."""

_ASIDE = re.compile(r"~(?P<host>[^~]+)~(?P<pid>\d+)~[0-9a-f]{12}$")


class FilesError(Exception):
    """The place for files fails as a whole. The message says what to do."""


class FilesMisconfigured(FilesError):
    """It can't be used as kb.yaml describes it: no such bucket, credentials that are refused."""


class FilesUnavailable(FilesError):
    """It can't be reached, or doesn't answer, now."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file that is kept. ``size``: bytes. ``modified``: seconds since the epoch."""

    key: str
    size: int
    modified: float


class Files(Protocol):
    """A place for files. Every method raises FilesError when the place fails, OSError when a local disk does.

    ``grace``: seconds that a file which isn't wanted any more stays, for readers that have found it but not yet opened it,
    or opened it and not yet read it.
    """

    @property
    def grace(self) -> float: ...

    def get(self, key: str) -> bytes:
        """A whole, small file. Raises FileNotFoundError."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write a small file, replacing the one that is there."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write a small file, unless there is one already: then it stays as it is, and False is returned."""
        ...

    def keep(self, key: str, finished: Path, *, replace: bool = False) -> bool:
        """Take a finished local file in, of any size; ``finished`` is gone afterwards.

        With ``replace`` unset a file that is there already stays as it is, and False is returned.
        """
        ...

    def open(self, key: str) -> pa.NativeFile:
        """A file for reading at any place, as pyarrow and Python read. Raises FileNotFoundError."""
        ...

    def stream(self, key: str) -> BinaryIO:
        """A file for reading from its beginning to its end. Raises FileNotFoundError."""
        ...

    def find(self, key: str) -> FileInfo | None:
        """What is known of a file without reading it; None when there is none."""
        ...

    def list(self, folder: str = "") -> Iterator[FileInfo]:
        """Every file below a folder, in no particular order; a folder that doesn't exist has none."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; one that isn't there is none the worse."""
        ...

    def uri(self, key: str) -> str:
        """Where other programs find a file: a path, or an address."""
        ...

    def lance(self, folder: str) -> LanceLocation:
        """A folder as a LanceDB database, which has a client of its own."""
        ...


def get_json(files: Files, key: str) -> Any:
    """A value that ``put_json`` or ``create_json`` kept. Raises FileNotFoundError."""
    return json.loads(files.get(key))


def put_json(files: Files, key: str, value: Any) -> None:
    """Keep a small value, replacing the one that is there."""
    files.put(key, _json(value))


def create_json(files: Files, key: str, value: Any) -> bool:
    """Keep a small value, unless there is one: then it stays as it is, and False is returned."""
    return files.create(key, _json(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def checked(key: str) -> str:
    """The key, if it is one. Raises ValueError: a key that leaves the place would be a mistake of ours."""
    if not key or any(part in ("", ".", "..") for part in key.split("/")) or "\\" in key or "\0" in key:
        raise ValueError(f"{key!r} is no key of a file")
    return key


class Folder:
    """Files below a local folder. ``aside``, on the same file system, is where they are written before they appear."""

    grace = 60.0
    """Who has a file open reads on after it was deleted; who has only found it needs a moment."""

    def __init__(self, root: Path, aside: Path) -> None:
        self.root = root
        self._aside = aside

    def path(self, key: str) -> Path:
        """The file's path."""
        return self.root / checked(key)

    def get(self, key: str) -> bytes:
        """See ``Files``."""
        return self.path(key).read_bytes()

    def put(self, key: str, data: bytes) -> None:
        """See ``Files``."""
        with self._written(key, data) as (aside, target):
            _appear(aside, target, Path.replace)

    def create(self, key: str, data: bytes) -> bool:
        """See ``Files``."""
        with self._written(key, data) as (aside, target):
            try:
                _appear(aside, target, os.link)  # unlike a rename, it replaces nothing
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        target = self.path(key)
        aside = aside_path(self._aside, target.name)
        try:
            aside.write_bytes(data)
            yield aside, target
        finally:
            aside.unlink(missing_ok=True)

    def keep(self, key: str, finished: Path, *, replace: bool = False) -> bool:
        """See ``Files``."""
        target = self.path(key)
        if not replace and target.exists():
            finished.unlink()
            return False
        _appear(finished, target, Path.replace)
        return True

    def open(self, key: str) -> pa.NativeFile:
        """See ``Files``."""
        import pyarrow as pa  # slow, and not every command opens a table

        return pa.OSFile(str(self.path(key)), "rb")

    def stream(self, key: str) -> BinaryIO:
        """See ``Files``."""
        return cast(BinaryIO, open(self.path(key), "rb", buffering=0))

    def find(self, key: str) -> FileInfo | None:
        """See ``Files``."""
        try:
            found = self.path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileInfo(key, found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def list(self, folder: str = "") -> Iterator[FileInfo]:
        """See ``Files``."""
        start = self.path(folder) if folder else self.root
        pending = [(start, f"{folder}/" if folder else "")]
        while pending:
            path, prefix = pending.pop()
            try:
                with os.scandir(path) as found:
                    entries = list(found)
            except FileNotFoundError:
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append((Path(entry.path), f"{prefix}{entry.name}/"))
                    continue
                with suppress(FileNotFoundError):
                    known = entry.stat()
                    yield FileInfo(prefix + entry.name, known.st_size, known.st_mtime)

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Files``. A folder that is empty then goes as well."""
        folders = set()
        for key in keys:
            path = self.path(key)
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders - {self.root}:
            with suppress(OSError):  # it isn't empty, or is gone already
                folder.rmdir()

    def uri(self, key: str) -> str:
        """See ``Files``."""
        return str(self.path(key))

    def lance(self, folder: str) -> LanceLocation:
        """See ``Files``."""
        return LanceLocation(self.uri(folder))

    def __str__(self) -> str:
        return str(self.root)


def _appear(aside: Path, target: Path, move: Callable[[Path, Path], object]) -> None:
    """Put a finished file in its place so that a reader sees the old one or the new one, also after a power cut."""
    with aside.open("rb") as handle:
        os.fsync(handle.fileno())
    _make_folder(target.parent)
    try:
        move(aside, target)
    except FileNotFoundError:
        if not aside.exists():
            raise
        _make_folder(target.parent)  # somebody deleted the last file in it meanwhile, and the folder with it
        move(aside, target)
    _sync(target.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each of which names it also after a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        _sync(each.parent)


def _sync(folder: Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def aside_path(folder: Path, name: str) -> Path:
    """A new path for a file that is being written, named after its machine and process; its folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{quote(name, safe='')[:100]}~{_host()}~{os.getpid()}~{uuid.uuid4().hex[:12]}"


def is_abandoned(path: Path) -> bool:
    """Whether a file aside has no writer any more: its process is gone; of another machine's, it hasn't grown for a day."""
    match = _ASIDE.search(path.name)
    if match is None:
        return True
    if match["host"] != _host():
        try:
            return time.time() - path.stat().st_mtime > ABANDONED
        except FileNotFoundError:
            return False
    return int(match["pid"]) != os.getpid() and not psutil.pid_exists(int(match["pid"]))


def _host() -> str:
    return quote(platform.node() or "localhost", safe="").replace("~", "%7e")
