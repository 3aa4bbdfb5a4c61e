"""Connections in trouble, through the real ``kb``: a storm of 429, a silent server, a refused token, a broken line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from kb_pipeline_tests.acceptance.project import Project, directory, install_connectors, sentences
from kb_pipeline_tests.shelf import DROP, Shelf, Storm, shelf

QUICK: dict[str, Any] = {
    "timeout_seconds": 1,
    "max_wait_seconds": 60,
    "backoff_seconds": 0.05,
    "max_backoff_seconds": 0.2,
    "strategies": {"network": {"retries": 2}},
    "breaker": {"failures": 3, "cooldown_seconds": 0.4, "max_cooldown_seconds": 0.8},
}
"""Strategies as they are by default, in a fraction of the time."""
SHELVES = ("stormy", "silent", "refused", "broken")


def connection(name: str, url: str) -> dict[str, Any]:
    return {"name": name, "type": "shelf", "url": url}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One run over four services in trouble and a folder; a second one while three of them still are; a third, all well."""
    base = tmp_path_factory.mktemp("faults")
    project = Project(base / "project", environment=install_connectors(base / "site"))
    told: dict[str, Any] = {}
    with ExitStack() as closing:
        shelves: dict[str, Shelf] = {
            name: closing.enter_context(shelf(sentences([f"{name}-{number:02d}" for number in range(12)])))
            for name in SHELVES
        }
        for name, text in sentences(["pensions", "gardens"]).items():
            project.write(f"docs/{name}", text)
        connections = [directory("docs", "docs"), *(connection(name, each.url) for name, each in shelves.items())]
        project.configure(*connections, errors=QUICK)
        # One that can't be had by itself, while all others of the same service can.
        bad = "broken-03.md"
        storm = Storm(2.0)
        shelves["stormy"].fault = storm
        shelves["silent"].fault = shelves["silent"].silence
        shelves["refused"].fault = lambda path: (401, {})
        shelves["broken"].fault = lambda path: DROP if path == f"/{bad}" else None
        told["first"] = project.run(exits=1)
        told["status"] = project.kb("status", "--json").json
        told["status for people"] = project.kb("status").stdout
        told["uris"] = project.uris()
        told["asked"] = {name: each.requests["/"] for name, each in shelves.items()}
        # Long enough that nobody probes by chance.
        slow = QUICK | {"breaker": QUICK["breaker"] | {"cooldown_seconds": 600, "max_cooldown_seconds": 600}}
        project.configure(*connections, errors=slow)
        told["materialize"] = project.kb("materialize", "shelf/documents", "--partition", "silent", exits=1).stderr
        told["open"] = project.kb("status", "--json").json["sources"]["silent"]
        before = shelves["silent"].requests["/"]
        told["skipped"] = project.run("--sources", "silent,docs", exits=1)
        told["asked while open"] = shelves["silent"].requests["/"] - before
        for each in shelves.values():
            each.fault = lambda path: None
        told["reset"] = project.kb("sources", "reset", "silent").stdout
        told["reset again"] = project.kb("sources", "reset", "silent").stdout
        told["reset unknown"] = project.kb("sources", "reset", "nobody", exits=2).stderr
        told["last"] = project.run()
        told["last status"] = project.kb("status", "--json").json
        yield SimpleNamespace(project=project, told=told, storm=storm, bad=bad)


def test_a_storm_is_waited_for_and_nothing_is_set_aside(story: SimpleNamespace) -> None:
    counts = story.told["first"]["sources"]["stormy"]
    assert (counts["indexed"], counts["quarantined"], counts["stale"]) == (12, 0, False)
    assert story.storm.refused > 3
    status = story.told["status"]["sources"]["stormy"]
    assert (status["breaker"], status["left_alone"], status["error"]) == ("closed", None, None)
    counted = {(each["class"], each["strategy"]): each for each in status["errors"]}
    assert counted["rate_limiting", "breaker"]["occurred"] >= 1, "it never opened"
    assert counted["rate_limiting", "breaker"]["recovered"] >= 1, "it never closed again"
    retried = counted["rate_limiting", "retry"]
    assert retried["occurred"] == retried["recovered"] > 0
    assert retried["recovery_rate"] == 1.0


def test_a_silent_server_is_given_up_and_holds_up_nobody(story: SimpleNamespace) -> None:
    report = story.told["first"]
    errors = {error["source"]: error for error in report["errors"]}
    assert errors["silent"]["class"] == "network"
    assert "no answer for 1 s (tried 3 times" in errors["silent"]["message"]
    assert report["sources"]["silent"]["stale"]
    assert report["sources"]["docs"]["indexed"] == 2
    status = story.told["status"]["sources"]["silent"]
    assert status["breaker"] == "open"
    assert [fault["class"] for fault in status["faults"]] == ["network"]


def test_a_refused_token_fails_the_connection_at_once(story: SimpleNamespace) -> None:
    errors = {error["source"]: error for error in story.told["first"]["errors"]}
    assert errors["refused"]["class"] == "authentication"
    assert "401" in errors["refused"]["message"]
    assert story.told["asked"]["refused"] == 1, "asking again brings nothing"


def test_one_item_that_cannot_be_had_is_set_aside_and_the_others_are_not(story: SimpleNamespace) -> None:
    counts = story.told["first"]["sources"]["broken"]
    assert (counts["indexed"], counts["quarantined"]) == (11, 1)
    assert "broken" not in {error["source"] for error in story.told["first"]["errors"]}
    assert story.told["status"]["sources"]["broken"]["breaker"] == "closed"


def test_the_release_has_what_could_be_had(story: SimpleNamespace) -> None:
    assert story.told["first"]["status"] == "completed_with_issues"
    assert story.told["first"]["release"] == story.told["status"]["release"] is not None
    assert len(story.told["uris"]) == 2 + 12 + 11


def test_status_says_it_to_people(story: SimpleNamespace) -> None:
    text = story.told["status for people"]
    assert "silent: left alone since " in text
    assert "`kb sources reset silent`" in text
    assert "stormy: rate_limiting errors of the last 7 days: " in text
    assert "(100%)" in text


def test_an_open_breaker_skips_its_connection_and_nothing_else(story: SimpleNamespace) -> None:
    assert story.told["open"]["breaker"] == "open"
    report = story.told["skipped"]
    (error,) = report["errors"]
    assert error["source"] == "silent"
    for part in ("left alone since ", "network: ", "the next try is at ", "`kb sources reset silent` at once"):
        assert part in error["message"]
    assert report["sources"]["docs"]["unchanged"] == 2
    assert "no answer for 1 s" in story.told["materialize"]
    assert story.told["asked while open"] == 0


def test_reset_closes_it(story: SimpleNamespace) -> None:
    assert "closed again" in story.told["reset"]
    assert "was closed" in story.told["reset again"]
    assert "known: " in story.told["reset unknown"]


def test_when_all_is_well_again_all_is_there(story: SimpleNamespace) -> None:
    report = story.told["last"]
    assert report["status"] == "completed"
    assert report["totals"]["indexed"] + report["totals"]["unchanged"] == 2 + 4 * 12
    for name in SHELVES:
        status = story.told["last status"]["sources"][name]
        assert (status["breaker"], status["error"], status["faults"]) == ("closed", None, []), name
