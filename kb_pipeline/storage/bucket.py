"""Files in an S3 bucket, or in anything that speaks S3, through obstore.

What belongs here: requests, as few as possible, and what S3's errors mean to a person. What doesn't: keys and their meaning.
"""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from kb_pipeline.storage.files import FileInfo, FilesError, FilesMisconfigured, FilesUnavailable, checked
from kb_pipeline.storage.lance import LanceLocation

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore.store import S3Store
    from typing_extensions import Buffer

TAIL_BYTES = 256 << 10
"""The first request for a file brings so much of its end: the footer of a Parquet table, or a small table as a whole."""
_STREAM_BYTES = 1 << 20
_PART_BYTES = 8 << 20
"""Of an upload in parts; S3 allows 10,000 of them."""
_PARTS_AT_A_TIME = 4
_RETRIES = 6
_NO_SUCH_BUCKET = re.compile(r"NoSuchBucket|specified bucket does not exist")
_REFUSED = re.compile(r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthorizationHeaderMalformed")
_CREDENTIALS = re.compile(r"latest/api/token|security-credentials|AssumeRoleWithWebIdentity", re.I)
_STATUS = re.compile(r"status code: (\d{3})")
_NO_RANGE = re.compile(r"status code: 416|non-partial response")
_AT_BOTTOM = re.compile(r'(?:message|error): "([^"]+)"')


@dataclass(frozen=True, slots=True, repr=False)
class S3Location:
    """A bucket and a prefix in it, with all that is needed to reach it. What is None comes from the usual environment."""

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = None

    @property
    def url(self) -> str:
        """Without credentials."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def allow_http(self) -> bool:
        """Plain HTTP is spoken only where the endpoint says so."""
        return self.endpoint_url is not None and self.endpoint_url.lower().startswith("http://")

    def lance_options(self) -> dict[str, str]:
        """The same for LanceDB, which has a client of its own: its ``storage_options``."""
        options = {
            "aws_endpoint": self.endpoint_url,
            "aws_region": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "allow_http": "true" if self.allow_http else None,
        }
        return {name: value for name, value in options.items() if value is not None}

    def __repr__(self) -> str:
        return f"S3Location({self.url!r})"


class Bucket:
    """Files below a prefix of a bucket."""

    grace = 900.0
    """A reader comes back for more of a file it has open, and finds nothing of one that was deleted."""

    def __init__(self, location: S3Location) -> None:
        """Reaches nothing yet."""
        self.location = location

    @cached_property
    def _store(self) -> S3Store:
        from obstore.store import S3Store

        where = self.location
        given = {
            "endpoint": where.endpoint_url,
            "region": where.region,
            "access_key_id": where.access_key,
            "secret_access_key": where.secret_key,
        }
        return S3Store(
            where.bucket,
            prefix=where.prefix or None,
            config={name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
            client_options={"allow_http": where.allow_http, "connect_timeout": "10s", "timeout": "120s"},
            retry_config={
                "max_retries": _RETRIES,
                "backoff": {
                    "base": 2,
                    "init_backoff": timedelta(seconds=0.2),
                    "max_backoff": timedelta(seconds=10),
                },
                "retry_timeout": timedelta(seconds=60),
            },
        )

    def get(self, key: str) -> bytes:
        """See ``Files``."""
        import obstore

        with self.told(key):
            return bytes(obstore.get(self._store, checked(key)).bytes())

    def put(self, key: str, data: bytes) -> None:
        """See ``Files``."""
        import obstore

        with self.told(key):
            obstore.put(self._store, checked(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """See ``Files``."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            with self.told(key):
                obstore.put(self._store, checked(key), data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def keep(self, key: str, finished: Path, *, replace: bool = False) -> bool:
        """See ``Files``. Until all is there, nothing is."""
        import obstore

        checked(key)
        try:
            if finished.stat().st_size <= _PART_BYTES:
                data = finished.read_bytes()
                if not replace:
                    return self.create(key, data)
                self.put(key, data)
                return True
            # obstore would hold the whole file in memory for a conditional request.
            if not replace and self.find(key) is not None:
                return False
            with self.told(key):
                obstore.put(self._store, key, finished, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_A_TIME)
            return True
        finally:
            finished.unlink(missing_ok=True)

    def open(self, key: str) -> pa.NativeFile:
        """See ``Files``."""
        import obstore
        import pyarrow as pa

        try:
            with self.told(key):
                tail = obstore.get(self._store, checked(key), options={"range": {"suffix": TAIL_BYTES}})
                meta, data = tail.meta, bytes(tail.bytes())
        except FilesError as error:
            # An empty file has no end to ask for: S3 answers 416, others send it whole.
            found = self.find(key) if _NO_RANGE.search(str(error.__cause__)) else None
            if found is None or found.size:
                raise
            return pa.PythonFile(_Remote(self, key, 0, b"", None), "r")
        return pa.PythonFile(_Remote(self, key, meta["size"], data, meta["e_tag"]), "r")

    def stream(self, key: str) -> BinaryIO:
        """See ``Files``. One request, however long the file is."""
        import obstore

        with self.told(key):
            chunks = iter(obstore.get(self._store, checked(key)).stream(min_chunk_size=_STREAM_BYTES))
        return cast(BinaryIO, _Stream(self, key, chunks))

    def read(self, key: str, start: int, length: int, e_tag: str | None) -> bytes:
        """Some bytes of a file that is still the one with this tag."""
        import obstore

        with self.told(key):
            options: Any = {"range": (start, start + length)}
            if e_tag is not None:
                options["if_match"] = e_tag
            try:
                return bytes(obstore.get(self._store, key, options=options).bytes())
            except FileNotFoundError as error:
                if _NO_SUCH_BUCKET.search(str(error)):
                    raise
                raise FilesError(f"{self.uri(key)} was removed while it was being read: run again") from error

    def find(self, key: str) -> FileInfo | None:
        """See ``Files``."""
        import obstore

        try:
            with self.told(key):
                found = obstore.head(self._store, checked(key))
        except FileNotFoundError:
            return None
        return FileInfo(key, found["size"], found["last_modified"].timestamp())

    def list(self, folder: str = "") -> Iterator[FileInfo]:
        """See ``Files``."""
        import obstore

        with self.told(folder):
            for batch in obstore.list(self._store, checked(folder) if folder else None):
                for each in batch:
                    yield FileInfo(each["path"], each["size"], each["last_modified"].timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Files``."""
        import obstore

        doomed = [checked(key) for key in keys]
        if doomed:
            with self.told(doomed[0]):
                obstore.delete(self._store, doomed)

    def uri(self, key: str) -> str:
        """See ``Files``."""
        return f"{self.location.url}/{checked(key)}"

    def lance(self, folder: str) -> LanceLocation:
        """See ``Files``."""
        return LanceLocation(self.uri(folder), self.location.lance_options())

    def __str__(self) -> str:
        return self.location.url

    @contextmanager
    def told(self, key: str) -> Iterator[None]:
        """Say what the client's errors mean; what only a caller can judge (is there already, isn't there) passes."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        where = self.uri(key) if key else self.location.url
        try:
            yield
        except FileNotFoundError as error:
            if _NO_SUCH_BUCKET.search(str(error)):
                raise self._no_bucket() from error
            raise FileNotFoundError(errno.ENOENT, "No such file", where) from error
        except AlreadyExistsError:
            raise
        except BaseError as error:
            raise self._meaning(error, where) from error

    def _meaning(self, error: Exception, where: str) -> FilesError:
        """An error of obstore in a person's words; most kinds arrive as one type, and differ in their text."""
        from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

        text = str(error)
        server = self.location.endpoint_url or "S3"
        match = _STATUS.search(text)
        status = int(match[1]) if match else None
        if _NO_SUCH_BUCKET.search(text):
            return self._no_bucket()
        if isinstance(error, UnauthenticatedError) or _REFUSED.search(text):
            return FilesMisconfigured(
                f"{server} refuses the credentials for the bucket {self.location.bucket}: check storage.access_key and "
                "storage.secret_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if _CREDENTIALS.search(text):
            return FilesMisconfigured(
                f"there are no credentials for {self.location.url}: set storage.access_key and storage.secret_key in "
                "kb.yaml, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if isinstance(error, PermissionDeniedError) or status == 403:
            return FilesMisconfigured(
                f"{server} doesn't allow {where} with these credentials: reading, writing, listing and deleting below "
                f"{self.location.url} must be allowed"
            )
        if isinstance(error, PreconditionError):
            return FilesError(f"{where} was replaced while it was being read: run again")
        if status is not None and (status >= 500 or status == 429):
            return FilesUnavailable(f"{server} answers {status}, however often it is asked: try again later")
        if status is None and "HTTP error" in text:
            return FilesUnavailable(f"{server} can't be reached: {_reason(text)}")
        return FilesError(f"{where}: {_reason(text)}")

    def _no_bucket(self) -> FilesMisconfigured:
        at = f" at {self.location.endpoint_url}" if self.location.endpoint_url else ""
        return FilesMisconfigured(f"there is no bucket {self.location.bucket}{at}: make it, or correct storage.url")


def _reason(text: str) -> str:
    """What obstore's error says at its bottom, or else in its first line, without its own workings."""
    found = _AT_BOTTOM.findall(text)
    line = found[-1] if found else text.splitlines()[0] if text else "no reason given"
    return str(line.rpartition(" - ")[2][:200])


class _Stream(io.RawIOBase):
    """An object from its beginning to its end, as it comes in."""

    def __init__(self, bucket: Bucket, key: str, chunks: Iterator[Buffer]) -> None:
        self._bucket = bucket
        self._key = key
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._rest:
            with self._bucket.told(self._key):
                chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _Remote(io.RawIOBase):
    """An object for reading at any place. Its end is in memory from the beginning; what lies before comes by request."""

    def __init__(self, bucket: Bucket, key: str, size: int, tail: bytes, e_tag: str | None) -> None:
        self._bucket = bucket
        self._key = key
        self._size = size
        self._tail = tail
        self._e_tag = e_tag
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        """Bytes, for pyarrow."""
        return self._size

    def read(self, size: int = -1, /) -> bytes:
        start = min(self._at, self._size)
        end = self._size if size is None or size < 0 else min(start + size, self._size)
        tail_start = self._size - len(self._tail)
        if end <= start:
            return b""
        if start >= tail_start:
            data = self._tail[start - tail_start : end - tail_start]
        else:
            data = self._bucket.read(self._key, start, min(end, tail_start) - start, self._e_tag)
            if end > tail_start:
                data += self._tail[: end - tail_start]
        self._at = start + len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read()
