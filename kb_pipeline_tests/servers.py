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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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

    def lance(self, prefix: str = "kb") -> LanceLocation:
        """A place for Lance tables in a new bucket."""
        options = {
            "aws_endpoint": self.url,
            "aws_region": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "allow_http": "true",
        }
        return LanceLocation(f"s3://{self.make_bucket()}/{prefix}", options)

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
