"""Lance tables are found, made and not found alike in a folder and in a bucket."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from kb_pipeline.storage.lance import LanceLocation
from kb_pipeline_tests.servers import S3Server, free_port

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False)])


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> LanceLocation:
    if request.param == "folder":
        return LanceLocation(str(tmp_path / "lance"))
    server: S3Server = request.getfixturevalue("s3")
    return server.lance()


def test_looking_makes_nothing(location: LanceLocation, tmp_path: Path) -> None:
    assert location.open("one") is None
    assert not location.exists("one")
    assert location.tables() == []
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_there_stays_as_it_is(location: LanceLocation) -> None:
    location.create("one", SCHEMA)
    location.open("one").add(pa.table({"key": ["a"]}, schema=SCHEMA))
    location.create("one", SCHEMA)
    assert location.tables() == ["one"]
    assert location.open("one").to_arrow()["key"].to_pylist() == ["a"]
    assert not location.exists("other")


def test_a_created_table_has_the_versions_and_tags_of_any_other(location: LanceLocation) -> None:
    location.create("one", SCHEMA)
    table = location.open("one")
    assert table.schema == SCHEMA
    for key in "abc":
        table.add(pa.table({"key": [key]}, schema=SCHEMA))
    table.tags.create("before", table.version)
    table.delete("key = 'b'")
    table.merge_insert("key").when_not_matched_insert_all().execute(pa.table({"key": ["a", "d"]}, schema=SCHEMA))
    table.optimize()
    assert sorted(location.open("one").to_arrow()["key"].to_pylist()) == ["a", "c", "d"]
    reader = location.open("one")
    reader.checkout("before")
    assert sorted(reader.to_arrow()["key"].to_pylist()) == ["a", "b", "c"]


def test_secrets_are_not_shown(s3: S3Server) -> None:
    shown = f"{s3.lance()} {s3.lance()!r}"
    assert "s3://bucket-" in shown
    assert s3.secret_key not in shown


def test_a_server_that_can_not_be_reached_is_not_an_absent_table() -> None:
    options = {"aws_endpoint": f"http://127.0.0.1:{free_port()}", "aws_region": "us-east-1", "allow_http": "true"}
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "client_max_retries": "0", "retry_timeout": "1"}
    with pytest.raises(Exception, match=r"(?i)connect|error sending request"):
        LanceLocation("s3://bucket/kb", options | keys).open("one")
