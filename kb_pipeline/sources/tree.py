"""Walking a folder in the order of its keys, and opening a file below it without leaving it.

What belongs here: what local_directory and local_zip share about a file tree: order, links, special files, and telling
"this was deleted" from "this could not be seen". What doesn't: include and exclude patterns, items, versions.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kb_pipeline.flow.kinds import ErrorClass
from kb_pipeline.sources.base import ItemUnreadable, ItemVanished, ListingFailed
from kb_pipeline.sources.names import escape


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, or one folder that is not entered.

    ``path``    relative to the root, as the operating system spells it, with "/".
    ``key``     the same as valid Unicode; a folder's ends in "/".
    ``status``  lstat of the entry; of the target, for a link that is listed like a file.
    ``rule``    why it is left out ("hidden", "link", "special", "storage", or what ``prune`` said), or None.
    """

    path: str
    key: str
    status: os.stat_result
    rule: str | None


@dataclass(slots=True)
class _Folder:
    path: str  # relative, with "/" at the end; "" for the root
    key: str
    identity: tuple[int, int]
    names: Iterator[tuple[str, str, bool]]  # sort key, name, is a link


class Tree:
    """A folder to be walked. Opens nothing before the first call.

    ``prune(key)`` names the rule that leaves out a whole folder, or None to enter it. ``depth`` limits the walk to so
    many levels (1: only the root's own files). ``outside`` is a folder that is never entered: the storage. ``advice``
    says what to do about a folder that can't be read, besides granting access; by default, to exclude it.
    """

    def __init__(
        self,
        root: Path,
        *,
        hidden: bool = False,
        follow_links: bool = False,
        prune: Callable[[str], str | None] = lambda _: None,
        depth: int | None = None,
        outside: Path | None = None,
        advice: str | None = None,
    ) -> None:
        self.root = root
        self._hidden = hidden
        self._follow = follow_links
        self._prune = prune
        self._depth = depth
        self._outside = outside
        self._advice = advice

    def walk(self) -> Iterator[Entry]:
        """Yield every entry in ascending order of ``key``.

        Raises ListingFailed when something exists but can't be seen. What disappears during the walk counts as deleted
        only if the folder that held it is still the same one: a drive that goes away deletes nothing.
        """
        real = self._real_root()
        outside = _identity(self._outside) if self._outside is not None else None
        stack = [self._enter(real, "", "", _identity_of(self._stat_root(real)))]
        root = stack[:]
        entered_by_link: set[tuple[int, int]] = set()
        while stack:
            folder = stack[-1]
            listed = next(folder.names, None)
            if listed is None:
                stack.pop()
                continue
            sort_key, name, is_link = listed
            path, key = folder.path + name, folder.key + sort_key
            try:
                status = os.lstat(os.path.join(real, path))
                if name.startswith(".") and not self._hidden:
                    yield Entry(path, key, status, "hidden")
                    continue
                if is_link or stat.S_ISLNK(status.st_mode):
                    target = self._target(real, path)
                    seen = {f.identity for f in stack} | entered_by_link
                    if target is None or (stat.S_ISDIR(target.st_mode) and self._refuse(target, seen)):
                        yield Entry(path, key, status, "link")
                        continue
                    if stat.S_ISDIR(target.st_mode):
                        entered_by_link.add(_identity_of(target))
                    status = target
            except FileNotFoundError:
                self._check_deleted(real, stack)
                continue
            except OSError as error:
                raise self._failed(path, error) from error
            if stat.S_ISDIR(status.st_mode) != key.endswith("/"):
                # It changed between reading the folder and looking at it; its place in the order is no longer right.
                raise ListingFailed(f"{self.root / path} changed while it was listed: list it again.")
            rule = self._rule(key, status, outside)
            if not stat.S_ISDIR(status.st_mode) or rule is not None:
                yield Entry(path, key, status, rule)
            elif self._depth is None or len(stack) < self._depth:
                try:
                    stack.append(self._enter(real, path + "/", key, _identity_of(status)))
                except FileNotFoundError as error:
                    self._check_deleted(real, stack)
                    if os.path.lexists(os.path.join(real, path)):
                        raise self._failed(path, error) from error
        self._check_deleted(real, root)

    def check(self) -> int:
        """The number of entries at the top of the root. Raises ListingFailed when it can't be read."""
        real = self._real_root()
        self._stat_root(real)
        try:
            with os.scandir(real) as entries:
                return sum(1 for _ in entries)
        except OSError as error:
            raise self._failed("", error) from error

    def open(self, path: str) -> int:
        """A file descriptor of a regular file below the root, for the caller to close.

        Raises ItemVanished or ItemUnreadable. The way is resolved once and then walked from the root without following
        any link, so that a file replaced by a link in between can't lead out of the root (unless links are followed).
        """
        shown = self.root / path
        try:
            descriptor = self._open(os.path.join(os.path.realpath(self.root), path), path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ItemVanished(f"{shown} no longer exists.") from error
        except OSError as error:
            raise ItemUnreadable(f"{shown} can't be opened: {error.strerror}.") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ItemVanished(f"{shown} is no longer a regular file.")
        return descriptor

    def _open(self, absolute: str, path: str) -> int:
        # O_NONBLOCK: opening a pipe that took the file's place must not wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        target = os.path.realpath(absolute, strict=True)
        if self._follow:
            return os.open(target, flags)
        root = os.path.realpath(self.root)
        if not _inside(target, root):
            raise ItemUnreadable(f"{self.root / path} is a link that leaves {self.root}: it is not followed.")
        if os.open not in os.supports_dir_fd:
            return os.open(target, flags)
        *folders, name = os.path.relpath(target, root).split(os.sep)
        here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = below
            return os.open(name, flags | os.O_NOFOLLOW, dir_fd=here)
        finally:
            os.close(here)

    def _real_root(self) -> str:
        return os.path.realpath(self.root)

    def _stat_root(self, real: str) -> os.stat_result:
        try:
            status = os.stat(real)
        except FileNotFoundError as error:
            raise ListingFailed(
                f"The folder {self.root} doesn't exist: create it, or correct the connection's path.",
                kind=ErrorClass.SOURCE,
            ) from error
        except OSError as error:
            raise self._failed("", error) from error
        if not stat.S_ISDIR(status.st_mode):
            raise ListingFailed(f"{self.root} is not a folder: correct the connection's path.")
        return status

    def _enter(self, real: str, path: str, key: str, identity: tuple[int, int]) -> _Folder:
        names: list[tuple[str, str, bool]] = []
        try:
            with os.scandir(os.path.join(real, path)) as entries:
                for entry in entries:
                    text = escape(entry.name)
                    # A link is sorted as what it is taken for; a folder sorts as "name/", or the keys below it
                    # would not ascend ("a-b" comes before "a/c").
                    folder = _leads_to_folder(entry)
                    names.append((text + "/" if folder else text, entry.name, entry.is_symlink()))
        except OSError as error:
            if path == "" or not isinstance(error, FileNotFoundError):
                raise self._failed(path, error) from error
            raise
        names.sort()
        return _Folder(path, key, identity, iter(names))

    def _target(self, real: str, path: str) -> os.stat_result | None:
        """What a link leads to; None when it may not be taken: it leaves the root, dangles or turns in circles."""
        absolute = os.path.join(real, path)
        try:
            target = os.path.realpath(absolute, strict=True)
            if not self._follow and not _inside(target, real):
                return None
            return os.stat(target)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EACCES):
                os.lstat(absolute)  # raises FileNotFoundError when the link itself is gone
                return None
            raise

    def _refuse(self, target: os.stat_result, seen: set[tuple[int, int]]) -> bool:
        # Each folder is entered through a link at most once and never from below itself: no circle, and no blow-up
        # where many folders link to each other.
        return not self._follow or _identity_of(target) in seen

    def _rule(self, key: str, status: os.stat_result, outside: tuple[int, int] | None) -> str | None:
        if stat.S_ISDIR(status.st_mode):
            if outside is not None and _identity_of(status) == outside:
                return "storage"
            return self._prune(key)
        return None if stat.S_ISREG(status.st_mode) else "special"

    def _check_deleted(self, real: str, stack: list[_Folder]) -> None:
        """Raise ListingFailed unless the folders on the way are the same as before, down to one that was deleted."""
        if _identity_of(self._stat_root(real)) != stack[0].identity:
            raise ListingFailed(f"The folder {self.root} was replaced while it was listed: list it again.")
        for folder in stack[1:]:
            now = _identity(Path(os.path.join(real, folder.path)))
            if now is None:
                return
            if now != folder.identity:
                raise ListingFailed(f"The folder {self.root / folder.path} was replaced while it was listed.")

    def _failed(self, path: str, error: OSError) -> ListingFailed:
        shown = self.root / path
        if path == "":
            return ListingFailed(f"The folder {shown} can't be read ({error.strerror}): grant access to it.")
        key = escape(path.rstrip("/"))
        advice = self._advice or f'add "{key}/**" to the connection\'s exclude'
        return ListingFailed(f"{shown} can't be read ({error.strerror}): grant access to it, or {advice}.")


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=True)
    except OSError:
        if entry.is_symlink():  # a link in a circle, or to where nobody may look
            return False
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        return _identity_of(os.stat(path))
    except OSError:
        return None


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
