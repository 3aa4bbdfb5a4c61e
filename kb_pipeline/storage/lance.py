"""Where Lance tables lie: a local folder or a place in an object store, and how one is opened or made there.

What belongs here: locations, opening, and making a table that another process makes at the same moment. What doesn't: what
the tables hold (``embedding.vector_store``, ``knowledge_base.index``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.db import DBConnection
    from obstore.store import LocalStore, S3Store


@dataclass(frozen=True, slots=True)
class LanceLocation:
    """A LanceDB database: a folder's path, or ``s3://bucket/prefix`` with LanceDB's own ``storage_options``.

    Cheap to build and to pass to other processes; nothing is reached before a method is called. The options may hold
    secrets and aren't shown.
    """

    uri: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    def __str__(self) -> str:
        return self.uri

    @property
    def _folder(self) -> Path | None:
        return None if "://" in self.uri else Path(self.uri)

    @property
    def absent(self) -> bool:
        """Whether this is a local folder that isn't there: then there are no tables."""
        return (folder := self._folder) is not None and not folder.is_dir()

    def connect(self) -> DBConnection:
        """A connection of its own, with caches of its own. A local folder is made."""
        import lancedb

        if (folder := self._folder) is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return lancedb.connect(self.uri, storage_options=dict(self.options) or None)

    def tables(self) -> list[str]:
        """Names of all tables. Makes nothing."""
        if self.absent:
            return []
        return list(self.connect().list_tables().tables)

    def exists(self, table: str) -> bool:
        """Whether there is a table of this name. Makes nothing."""
        return self.open(table) is not None

    def open(self, table: str, connection: DBConnection | None = None) -> Any:
        """A table at its latest version, or None when there is none; through a connection that is there already, if any."""
        if self.absent:
            return None
        try:
            return (connection or self.connect()).open_table(table)
        except ValueError as error:
            if str(error) == f"Table '{table}' was not found":
                return None
            raise

    def create(self, table: str, schema: pa.Schema) -> None:
        """Make an empty table, unless another process has made it or does so now: then that one stays as it is.

        Lance's own creation doesn't hold here, on a folder or on S3: it looks whether the table is there, and what is made
        by another process between that look and its commit it overwrites, with all that was appended meanwhile. So the
        table is made aside, where nobody else is. It is its first manifest, which is put in place last and only if there is
        none: in one request, of which an object store or a file system lets one succeed.
        """
        import lancedb
        import obstore
        from obstore.exceptions import AlreadyExistsError

        target = self._files()
        with TemporaryDirectory(prefix="kb-lance-") as aside:
            lancedb.connect(aside).create_table(table, schema=schema)
            root = Path(aside)
            for path in sorted(root.glob(f"{table}.lance/_transactions/*")):
                obstore.put(target, path.relative_to(root).as_posix(), path.read_bytes())
            (manifest,) = root.glob(f"{table}.lance/_versions/*.manifest")
            try:
                obstore.put(target, manifest.relative_to(root).as_posix(), manifest.read_bytes(), mode="create")
            except AlreadyExistsError:
                return

    def _files(self) -> LocalStore | S3Store:
        from obstore.store import LocalStore, S3Store

        if (folder := self._folder) is not None:
            return LocalStore(folder, mkdir=True)
        config = {name: value for name, value in self.options.items() if name != "allow_http"}
        plain = self.options.get("allow_http", "").lower() == "true"
        return S3Store.from_url(self.uri, config=config, client_options={"allow_http": plain})  # type: ignore[arg-type]
