"""Homes: where a knowledge base keeps what it keeps. A folder or a bucket, with a ledger in SQLite or in Postgres.

What belongs here: making empty ones for worlds and projects. What doesn't: the servers (``kb_pipeline_tests.servers``),
tests.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from kb_pipeline_tests.servers import Postgres, S3Server

ACCESS_KEY, SECRET_KEY = "KB_TEST_ACCESS_KEY", "KB_TEST_SECRET_KEY"
"""Variables with the credentials of the test's bucket."""
KINDS = ["sqlite+folder", "postgres+folder", "sqlite+s3"]
"""The ledger, and where files lie."""


@dataclass(frozen=True)
class Home:
    """The sections of kb.yaml that say where everything lies; nothing for a folder beside it."""

    keys: Mapping[str, Any] = field(default_factory=dict)


IN_A_FOLDER = Home()

Homes = Callable[[], AbstractContextManager[Home]]
"""Makes empty homes, each of which goes when its context ends."""


def of_kind(kind: str, s3: Callable[[], S3Server], postgres: Callable[[], Postgres]) -> Homes:
    """Contexts of empty homes of one kind. The servers are asked for when they are needed."""

    @contextmanager
    def folder() -> Iterator[Home]:
        yield IN_A_FOLDER

    @contextmanager
    def postgres_ledger() -> Iterator[Home]:
        with postgres().schema() as url:
            yield Home({"ledger": {"url": url.replace(":@", "@", 1)}})

    @contextmanager
    def bucket() -> Iterator[Home]:
        server = s3()
        os.environ.update({ACCESS_KEY: server.access_key, SECRET_KEY: server.secret_key})
        storage = {
            "url": f"s3://{server.shared_bucket}/{uuid.uuid4().hex}",
            "endpoint_url": server.url,
            "region": server.region,
            "access_key": {"env": ACCESS_KEY},
            "secret_key": {"env": SECRET_KEY},
        }
        yield Home({"storage": storage})

    return {"sqlite+folder": folder, "postgres+folder": postgres_ledger, "sqlite+s3": bucket}[kind]
