"""The files of a git repository at a branch, tag or commit: the source type "git" of kb_pipeline."""

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar
from urllib.parse import quote

from pydantic import Field

from kb_pipeline.sources.base import Item, ItemUnreadable, ItemVanished, ListingFailed, SourceConfig, SourceContext
from kb_pipeline.sources.names import escape


class GitConfig(SourceConfig):
    repository: str = Field(min_length=1, description="Folder of the repository, bare or not, relative to kb.yaml.")
    ref: str = Field("HEAD", pattern="^[^-:]", description="Branch, tag or commit; main:docs is the folder docs of main.")


class Git:
    """An item's key is its path, and its version the id that git gives to its bytes."""

    Config: ClassVar[type[SourceConfig]] = GitConfig

    def __init__(self, config: GitConfig, context: SourceContext) -> None:
        self._root = Path(os.path.abspath(context.base / os.path.expanduser(config.repository)))
        self._ref = config.ref

    def list(self) -> Iterator[Item]:
        entries = self._git("ls-tree", "-r", "-z", "--long", "--full-tree", self._ref).split(b"\0")[:-1]
        yield from sorted(map(self._item, entries), key=lambda item: item.key)

    def read(self, item: Item) -> BinaryIO:
        head, _, data = self._git("cat-file", "--batch", told=item.version, failure=ItemUnreadable).partition(b"\n")
        if head.endswith(b" missing"):
            raise ItemVanished(f"The repository {self._root} no longer has {item.version}, which was {item.key}.")
        return io.BytesIO(data[:-1])  # git ends it with a line break of its own

    def probe(self) -> str:
        return f"{self._root}: readable, entries in {self._ref}: {len(self._git('ls-tree', self._ref).splitlines())}"

    def _item(self, entry: bytes) -> Item:
        facts, _, path = escape(entry.decode(errors="surrogateescape")).partition("\t")
        mode, _, blob, size = facts.split()
        uri = f"{self._root.as_uri()}#{quote(self._ref)}{'/' if ':' in self._ref else ':'}{quote(path)}"
        rule = {"120000": "link", "160000": "special"}.get(mode)  # listed, but left out: symbolic links and submodules
        return Item(path, blob, os.path.basename(path), uri, int(size) if size.isdigit() else None, excluded=rule)

    def _git(self, *arguments: str, told: str = "", failure: type[Exception] = ListingFailed) -> bytes:
        command = ["git", "--no-replace-objects", "-C", str(self._root), *arguments]  # an id always means the same bytes
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(self._root.parent)}
        environment.pop("GIT_DIR", None)  # this folder's repository, never another that git would find
        try:
            return subprocess.run(command, input=told.encode(), env=environment, capture_output=True, check=True).stdout
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", b"").decode(errors="replace").strip() or error
            raise failure(f"The repository {self._root} can't be read at {self._ref}: {why}") from error
