"""The real ``kb`` on a storage in a bucket and on a ledger in Postgres: one life from the first run to retirement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kb_pipeline_tests.acceptance.homes import ACCESS_KEY, KINDS, SECRET_KEY, Homes
from kb_pipeline_tests.acceptance.project import Project, directory, sentences, tree_contains
from kb_pipeline_tests.servers import S3Server, free_port

pytestmark = pytest.mark.sources


def found(project: Project, query: str) -> list[str]:
    """File names of what a search by words finds."""
    hits = project.kb("search", query, "--mode", "text", "--json").json["hits"]
    return [hit["uri"].rpartition("/")[2] for hit in hits]


@pytest.mark.parametrize("homes_of", KINDS[1:], indirect=True)
def test_a_whole_life(tmp_path: Path, homes_of: Homes) -> None:
    with homes_of() as home:
        project = Project(tmp_path / "project", home=home)
        project.configure(directory("docs", "docs"), directory("more", "more", shards=2))
        for name, text in sentences(["pensions", "gardens", "rivers"]).items():
            project.write(f"docs/{name}", text)
        for name, text in sentences(["bridges", "clocks"]).items():
            project.write(f"more/{name}", text)
        project.kb("upload", str(project.write("minutes.md", "# Minutes\n\nWhat everybody said about lighthouses.\n")))

        first = project.run()
        assert first["status"] == "completed"
        assert (first["totals"]["indexed"], first["totals"]["embedded"]) == (6, 6)
        assert found(project, "rivers") == ["rivers.md"]
        assert found(project, "lighthouses") == ["minutes.md"]

        project.write("docs/pensions.md", "# Pensions\n\nAll of this was changed, and speaks of harbours.\n")
        (project.root / "docs/rivers.md").unlink()
        second = project.run()
        assert (second["totals"]["indexed"], second["totals"]["deleted"], second["totals"]["embedded"]) == (1, 1, 1)
        assert second["release"] == "release-2"
        assert (found(project, "harbours"), found(project, "rivers")) == (["pensions.md"], [])

        project.kb("release", "rollback", "release-1")
        assert (found(project, "harbours"), found(project, "rivers")) == ([], ["rivers.md"])
        project.kb("release", "unpin")
        status = project.kb("status", "--json").json
        assert status["totals"]["indexed"] == 5

        collected = project.kb("gc", "--keep", "1", "--json").json
        assert collected["tables"] >= 3, "the documents, chunks and embeddings that were replaced"
        assert found(project, "harbours") == [], "what a rollback made current stays, and is current until the next run"

        project.configure(directory("docs", "docs"))
        project.kb("retire", "more")
        third = project.run()
        assert third["status"] == "completed"
        assert (third["totals"]["indexed"], third["totals"]["embedded"]) == (0, 0)
        assert found(project, "harbours") == ["pensions.md"]
        assert len(project.uris()) == 3
        assert project.kb("gc", "--keep", "1", "--json").json["tables"] == 0
        assert_nothing_strays(project)


def assert_nothing_strays(project: Project) -> None:
    """What is kept lies where it should: below the prefix, or in the folder; secrets nowhere."""
    local = {path.name for path in project.storage.iterdir()}
    if "storage" in project.home.keys:
        assert {name.removesuffix("-wal").removesuffix("-shm") for name in local} == {"ledger.sqlite", "staging", "dagster"}
    else:
        assert not any(name.startswith("ledger") for name in local), "the ledger is in Postgres"
    assert list((project.storage / "staging").iterdir()) == []
    assert tree_contains(project.root, b"test-secret-key") == []


def on_s3(project: Project, server: S3Server, **keys: Any) -> None:
    """Configure a storage in a bucket that may not do."""
    storage = {
        "url": f"s3://{server.shared_bucket}/kb",
        "endpoint_url": server.url,
        "region": server.region,
        "access_key": {"env": ACCESS_KEY},
        "secret_key": {"env": SECRET_KEY},
    }
    project.configure(directory("docs", "docs"), storage=storage | keys)


def test_a_storage_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path, s3: S3Server) -> None:
    project = Project(tmp_path, environment={ACCESS_KEY: "an-access-key", SECRET_KEY: "a-secret-key"})
    project.write("docs/a.md", "# A\n\nSomething.\n")
    on_s3(project, s3, url="s3://no-such-bucket/kb")
    for command in (["upload", "docs/a.md"], ["search", "anything"], ["run", "--json"]):
        result = project.kb(*command, exits=None)
        assert result.code in (1, 2), command
        assert "there is no bucket no-such-bucket" in result.stderr + result.stdout, command
        assert len(result.stderr.splitlines()) <= 3, result.stderr
    on_s3(project, s3, access_key={"env": "NOT_SET_ANYWHERE"})
    result = project.kb("status", exits=2)
    assert "the environment variable NOT_SET_ANYWHERE is not set" in result.stderr
    closed = f"http://127.0.0.1:{free_port()}"
    on_s3(project, s3, endpoint_url=closed)
    result = project.kb("upload", "docs/a.md", exits=1)
    assert f"{closed} can't be reached: Connection refused" in result.stderr
    assert "a-secret-key" not in result.stderr
