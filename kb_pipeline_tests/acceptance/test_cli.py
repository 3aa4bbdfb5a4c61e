"""The commands of ``kb`` as a person or a script meets them: what they print, where, and how they exit."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kb_pipeline_tests.acceptance.project import (
    COUNTS,
    Project,
    directory,
    install_connectors,
    sentences,
    tree_contains,
)

STORED = ["listed", "indexed", "quarantined", "excluded", "chunks"]
HIT = [
    "score", "uri", "source", "connection", "document_id", "chunk_id", "text", "start", "end", "page", "heading_path",
    "title",
]  # fmt: skip


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One project from ``kb init`` on. Every step is done once; the tests below look at what each left."""
    project = Project(tmp_path_factory.mktemp("story"))
    told: dict[str, Any] = {}
    told["init"] = project.kb("init", exits=None)
    told["init again"] = project.kb("init", exits=None)
    told["status before"] = project.kb("status", "--json", exits=None)
    told["search before"] = project.kb("search", "pensions", exits=None)
    for name, text in sentences(["pensions", "gardens"]).items():
        project.write(f"documents/{name}", text)
    project.write("documents/broken.pdf", b"%PDF-1.4 broken")
    told["run"] = project.kb("run", "--json", "--user-id", "somebody", exits=None)
    looks = {
        "status": ["status", "--json"],
        "status for people": ["status"],
        "search": ["search", "what about pensions", "-k", "1", "--json"],
        "search text": ["search", "gardens", "--mode", "text", "--json"],
        "search for people": ["search", "gardens", "--mode", "text"],
        "quarantine": ["quarantine", "list", "--json"],
        "quarantine show": ["quarantine", "show", "broken.pdf", "--json"],
        "quarantine show unknown": ["quarantine", "show", "nothing.pdf"],
        "sources": ["sources", "--json"],
        "sources check": ["sources", "check", "--json"],
    }
    told.update(project.side_by_side(looks))

    # An upload, a repaired file that is asked for again, and a run that is strict about what is left.
    project.write("letter.md", "# Letter\n\nA letter about lighthouses.\n")
    project.write("note.md", "# Note\n\nA note about volcanoes.\n")
    told["upload"] = project.kb("upload", "letter.md", "note.md", exits=None)
    told["upload remove"] = project.kb("upload", "--remove", "note.md", exits=None)
    told["upload remove again"] = project.kb("upload", "--remove", "note.md", exits=None)
    told["upload nothing"] = project.kb("upload", "nowhere.md", exits=None)
    told["retry"] = project.kb("quarantine", "retry", "broken.pdf", exits=None)
    told["retry unknown"] = project.kb("quarantine", "retry", "nothing.pdf", exits=None)
    told["strict"] = project.kb("run", "--json", "--strict", exits=None)
    told["releases"] = project.kb("release", "list", "--json", exits=None)
    told["release show"] = project.kb("release", "show", "release-1", "--json", exits=None)
    told["release show unknown"] = project.kb("release", "show", "release-9", "--json", exits=None)

    # Back to the first release: pinned, whatever comes.
    told["rollback"] = project.kb("release", "rollback", "release-1", exits=None)
    told["rollback unknown"] = project.kb("release", "rollback", "release-9", exits=None)
    told["status pinned"] = project.kb("status", "--json", exits=None)
    told["search pinned"] = project.kb("search", "lighthouses", "--mode", "text", "--json", exits=None)
    project.write("documents/rivers.md", "# Rivers\n\nWhat everybody should know about rivers.\n")
    told["run pinned"] = project.kb("run", "--json", "--sources", "local_directory:documents", exits=None)
    told["unpin"] = project.kb("release", "unpin", exits=None)
    told["materialize"] = project.kb("materialize", "corpus/knowledge_base", exits=None)
    told["search unpinned"] = project.kb("search", "rivers", "--mode", "text", "--json", exits=None)

    # The folder leaves kb.yaml.
    told["retire too early"] = project.kb("retire", "documents", exits=None)
    project.configure()
    told["status left"] = project.kb("status", "--json", exits=None)
    told["retire"] = project.kb("retire", "documents", exits=None)
    told["retire again"] = project.kb("retire", "documents", exits=None)
    told["search retired"] = project.kb("search", "everybody should know", "--mode", "text", "--json", exits=None)
    told["sync"] = project.kb("sync", exits=None)
    told["gc"] = project.kb("gc", "--keep", "1", "--json", exits=None)
    told["search after gc"] = project.kb("search", "lighthouses", "--json", exits=None)
    told["env"] = project.kb("env", exits=None)
    return SimpleNamespace(project=project, told=told)


def _connections(hits: dict[str, Any]) -> list[str]:
    return [hit["uri"].rpartition("/")[2] for hit in hits["hits"]]


def test_init_writes_a_config_once(story: SimpleNamespace) -> None:
    assert story.told["init"].code == 0
    assert "documents" in story.told["init"].stdout
    assert story.told["init again"].code == 2
    assert "is there already" in story.told["init again"].stderr


def test_before_the_first_run_there_is_no_release_and_search_says_what_to_do(story: SimpleNamespace) -> None:
    status = story.told["status before"]
    assert status.code == 0
    assert status.json["release"] is None
    assert status.json["sources"]["documents"]["last_run"] is None
    assert story.told["search before"].code == 1
    assert "kb run" in story.told["search before"].stderr


def test_a_run_with_quarantine_exits_0_and_says_completed_with_issues(story: SimpleNamespace) -> None:
    run = story.told["run"]
    assert run.code == 0
    assert run.report["status"] == "completed_with_issues"
    assert run.report["release"] == "release-1"
    expected = {"listed": 3, "indexed": 2, "quarantined": 1, "chunks": 2, "embedded": 2, "stale": False}
    assert run.report["totals"] == dict.fromkeys(COUNTS, 0) | expected
    assert set(run.report["sources"]) == {"documents", "inbox"}
    assert run.report["errors"] == []


def test_status_tells_what_is_stored(story: SimpleNamespace) -> None:
    status = story.told["status"].json
    assert list(status) == ["release", "pinned", "sources", "totals"]
    assert (status["release"], status["pinned"]) == ("release-1", None)
    documents = status["sources"]["documents"]
    assert set(documents) >= {"type", "partitions", *STORED, "breaker", "last_run", "last_success"}
    assert [documents[name] for name in STORED] == [3, 2, 1, 0, 2]
    assert documents["last_run"] is not None
    assert status["totals"] == dict(zip(STORED, [3, 2, 1, 0, 2], strict=True))
    people = story.told["status for people"].stdout
    assert "documents" in people
    assert "release-1" in people
    assert re.search("parsers: no network, by (network namespace|audit hook)", people)


def test_search_finds_the_document_that_answers(story: SimpleNamespace) -> None:
    found = story.told["search"].json
    assert list(found) == ["query", "mode", "vectors", "release", "hits"]
    assert (found["mode"], found["vectors"], found["release"]) == ("hybrid", "text", "release-1")
    (hit,) = found["hits"]
    assert list(hit) == HIT
    assert hit["uri"] == (story.project.root / "documents/pensions.md").as_uri()
    assert (hit["source"], hit["connection"], hit["title"]) == ("local_directory", "documents", "Pensions")
    text = (story.project.root / "documents/pensions.md").read_text()
    assert text[hit["start"] : hit["end"]] == hit["text"]
    assert _connections(story.told["search text"].json) == ["gardens.md"]
    assert "gardens.md" in story.told["search for people"].stdout


def test_quarantine_shows_what_was_set_aside_and_why(story: SimpleNamespace) -> None:
    (item,) = story.told["quarantine"].json
    assert (item["key"], item["status"], item["connection"]) == ("broken.pdf", "corrupt", "documents")
    (shown,) = story.told["quarantine show"].json
    assert shown["meaning"]
    assert story.told["quarantine show unknown"].code == 2
    assert story.told["retry"].code == 0
    assert story.told["retry unknown"].code == 2
    assert "nothing.pdf" in story.told["retry unknown"].stderr


def test_sources_are_listed_and_probed(story: SimpleNamespace) -> None:
    names = [each["name"] for each in story.told["sources"].json]
    assert names == ["documents", "inbox"]
    check = story.told["sources check"]
    assert check.code == 0
    assert [(each["name"], each["ok"]) for each in check.json] == [("documents", True), ("inbox", True)]


def test_uploads_are_indexed_and_can_be_taken_back(story: SimpleNamespace) -> None:
    assert story.told["upload"].stdout.splitlines() == ["letter.md: added", "note.md: added"]
    assert story.told["upload remove"].code == 0
    assert story.told["upload remove again"].code == 1
    assert story.told["upload nothing"].code == 2
    assert story.told["strict"].report["sources"]["inbox"]["indexed"] == 1


def test_strict_exits_1_for_quarantine_alone(story: SimpleNamespace) -> None:
    strict = story.told["strict"]
    assert strict.code == 1
    assert strict.report["status"] == "completed_with_issues"
    documents = strict.report["sources"]["documents"]
    assert [documents[name] for name in ("listed", "unchanged", "quarantined", "embedded")] == [3, 2, 1, 0]


def test_releases_are_listed_and_shown(story: SimpleNamespace) -> None:
    releases = story.told["releases"].json
    assert [(each["name"], each["current"]) for each in releases] == [("release-1", False), ("release-2", True)]
    assert story.told["release show"].json["chunks"] == 2
    assert story.told["release show unknown"].code == 1
    assert "release-1, release-2" in story.told["release show unknown"].stderr


def test_a_rollback_pins_until_it_is_unpinned(story: SimpleNamespace) -> None:
    assert story.told["rollback"].code == 0
    assert story.told["rollback unknown"].code == 1
    status = story.told["status pinned"].json
    assert (status["release"], status["pinned"]) == ("release-1", "release-1")
    assert story.told["search pinned"].json["hits"] == []
    pinned = story.told["run pinned"]
    assert pinned.code == 0
    assert pinned.report["release"] == "release-1"
    assert set(pinned.report["sources"]) == {"documents"}
    assert story.told["unpin"].code == 0
    assert story.told["materialize"].code == 0
    assert _connections(story.told["search unpinned"].json) == ["rivers.md"]


def test_a_connection_is_retired_only_after_it_left_the_config(story: SimpleNamespace) -> None:
    early = story.told["retire too early"]
    assert early.code == 2
    assert "documents" in early.stderr
    assert story.told["status left"].json["sources"]["documents"]["indexed"] == 3
    assert story.told["retire"].code == 0
    assert story.told["retire again"].code == 2
    assert story.told["search retired"].json["hits"] == []
    assert story.told["sync"].stdout.split() == ["upload", "inbox"]


def test_gc_drops_what_nothing_refers_to_and_nothing_else(story: SimpleNamespace) -> None:
    collected = story.told["gc"].json
    assert collected["releases"] >= 2
    assert collected["vectors"] == 3, "the vectors of the retired documents"
    assert collected["uploads"] == 1, "the bytes of the removed upload"
    (hit,) = story.told["search after gc"].json["hits"]
    assert hit["uri"] == "upload://inbox/letter.md"
    assert set(story.project.stored_vectors()) == set(story.project.rows()["text_sha256"].to_pylist())


def test_env_exports_absolute_paths(story: SimpleNamespace) -> None:
    exported = dict(word.split("=", 1) for word in shlex.split(story.told["env"].stdout) if "=" in word)
    root = story.project.root
    assert exported == {"KB_CONFIG": str(root / "kb.yaml"), "DAGSTER_HOME": str(root / ".kb/dagster")}


def test_no_run_is_left_open(story: SimpleNamespace) -> None:
    assert story.project.unfinished_runs() == []


CANARY = "canary-5f0c9d1e7b"


def test_a_secret_is_nowhere_after_its_connection_failed(tmp_path: Path) -> None:
    """Not even when the connector, as HTTP libraries do, quotes the request with the token in its errors."""
    project = Project(tmp_path / "project", environment=install_connectors(tmp_path / "site") | {"DOOR_TOKEN": CANARY})
    vaults = [
        {"name": name, "type": "locked", "token": {"env": "DOOR_TOKEN"}, "careless": name == "careless"}
        for name in ("careful", "careless")
    ]
    project.configure(*vaults, directory("docs", "docs"))
    project.write("docs/one.md", "# One\n")
    run = project.kb("run", "--json", "--log-level", "DEBUG", exits=1)
    assert sorted(error["source"] for error in run.report["errors"]) == ["careful", "careless"]
    assert {error["class"] for error in run.report["errors"]} == {"network"}
    assert all("was refused" in error["message"] for error in run.report["errors"])
    assert run.report["sources"]["docs"]["indexed"] == 1
    probed = project.kb("sources", "check", "--json", exits=1)
    status = project.kb("status", "--json")
    assert "was refused" in status.json["sources"]["careless"]["error"]
    for result in (run, probed, status):
        # Not compared as a whole: pytest would print both.
        assert result.stdout.count(CANARY) == result.stderr.count(CANARY) == 0, "the secret was printed"
    # The harness keeps the output in files too: they are looked through again with the rest.
    assert tree_contains(project.root, CANARY.encode()) == []


def test_a_secret_in_the_config_itself_is_refused_without_being_shown(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", environment=install_connectors(tmp_path / "site"))
    project.configure({"name": "vault", "type": "locked", "token": CANARY})
    result = project.kb("status", exits=2)
    assert "kb.yaml:4: sources[0].token" in result.stderr
    assert "{env: NAME}" in result.stderr
    assert CANARY not in result.stdout + result.stderr


def test_a_secret_that_is_not_set_is_named_and_holds_up_no_other_connection(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", environment=install_connectors(tmp_path / "site"))
    vault = {"name": "vault", "type": "locked", "token": {"env": "DOOR_TOKEN"}}
    project.configure(vault, {"name": "broken", "type": "broken"}, directory("docs", "docs"))
    project.write("docs/one.md", "# One\n")
    found = {row["name"]: row for row in project.kb("sources", "check", "--json", exits=1).json}
    assert not found["vault"]["ok"]
    assert "DOOR_TOKEN" in found["vault"]["detail"]
    assert found["docs"]["ok"]
    assert "ZeroDivisionError" in found["broken"]["detail"], "a fault of the connector itself: its author needs the class"
    report = project.run(exits=1)
    errors = {error["source"]: error for error in report["errors"]}
    assert errors["vault"]["class"] == "source"
    assert "DOOR_TOKEN" in errors["vault"]["message"]
    assert "ConfigError" not in errors["vault"]["message"]
    assert errors["broken"]["class"] == "internal"
    assert report["sources"]["docs"]["indexed"] == 1
