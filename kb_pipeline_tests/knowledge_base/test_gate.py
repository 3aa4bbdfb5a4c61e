"""Nothing becomes a release that didn't pass its checks, whoever asks for it, and what passed does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kb_pipeline.findings import Finding, Severity
from kb_pipeline.ingestion.work import Orchestration
from kb_pipeline.knowledge_base import gate
from kb_pipeline.knowledge_base.candidates import Candidate, Candidates
from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline.knowledge_base.publish import NotPublishable, Publication
from kb_pipeline.knowledge_base.releases import ReleaseRecord, Releases
from kb_pipeline.ledger.errors import LeaseLost
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import KNOWLEDGE_BASE, Storage
from kb_pipeline_tests import current
from kb_pipeline_tests.acceptance.world import Corpus, World, orchestration
from kb_pipeline_tests.damage import double, rewrite


def texts(world: World) -> set[str]:
    return {row["text"] for row in world.rows()}


def candidate(world: World) -> Candidate:
    found = Candidates(world.storage).last()
    assert found is not None
    return found


def publish_alone(world: World) -> Publication:
    """Materialize the knowledge base alone, in a run of its own that began just now."""
    return world.chain.publish(Orchestration("alone", time.time(), "a test"))


def index_alone(world: World) -> None:
    """What a run does that is killed before its checks."""
    world.chain.index(orchestration(), world.kb_model)


def check(world: World) -> list[Finding]:
    return [world.chain.inspect(each) for each in gate.CHECKS]


def edit(world: World, text: str) -> None:
    """Ingest another text of alpha, and go no further."""
    world.write("alpha", "a.md", text)
    for partition in world.partitions("alpha"):
        world.ingest(partition)


def damaged(world: World) -> Corpus:
    """Publish a first release, then try with an edit whose tables were damaged."""
    world.run()
    edit(world, "deserts wait")
    double(world.storage.local, "alpha")
    return world.publish()


def test_a_candidate_that_failed_a_check_is_not_published_and_the_old_release_stays(world: World) -> None:
    result = damaged(world)
    assert (result.published, result.publication) == (False, None)
    assert "alpha: 0 rows missing, 2 differ, 0 too many" in result.faults[0]
    assert "rivers run to the sea" in texts(world)
    assert world.release().record.name == "release-1"


def test_publishing_alone_does_not_get_around_a_failed_check(world: World) -> None:
    damaged(world)
    with pytest.raises(NotPublishable, match=r"index_equals_tables: the index differs .*corpus_release"):
        publish_alone(world)
    assert world.release().record.name == "release-1"


def test_what_failed_is_compared_anew_and_published_once_the_tables_are_right(world: World) -> None:
    damaged(world)
    for asset in ("chunks", "embeddings"):
        rewrite(current.path(world.storage, asset, Partition("local_directory", "alpha")), lambda table: table.slice(0, 1))
    result = world.publish()
    assert result.index.skipped == 0
    assert result.published
    assert "deserts wait" in texts(world)
    assert world.publish().index.compared == 0


def test_a_crash_before_the_checks_leaves_the_old_release_and_the_next_run_goes_on(world: World) -> None:
    world.run()
    edit(world, "deserts wait")
    index_alone(world)
    made = candidate(world)
    assert "rivers run to the sea" in texts(world)
    result = world.publish()
    assert result.index.candidate == made
    assert result.index.compared == 0
    assert result.published
    assert "deserts wait" in texts(world)


def test_a_crash_before_the_publication_leaves_the_old_release_and_the_next_run_goes_on(world: World) -> None:
    world.run()
    edit(world, "deserts wait")
    index_alone(world)
    check(world)
    assert "rivers run to the sea" in texts(world)
    assert world.publish().published
    assert "deserts wait" in texts(world)


def test_what_a_crash_left_unchecked_is_checked_with_what_comes_after(world: World) -> None:
    world.run()
    edit(world, "deserts wait")
    double(world.storage.local, "alpha")
    index_alone(world)
    world.write("beta", "b.txt", "islands float")
    result = world.run("beta")
    assert result.index.compared == 1, "alpha is known to be in the index"
    assert "alpha: " in result.faults[0]
    assert not result.published


def test_publishing_alone_takes_the_checked_candidate_that_nobody_published_yet(world: World) -> None:
    world.run()
    edit(world, "deserts wait")
    index_alone(world)
    check(world)
    result = publish_alone(world)
    assert result.published
    assert "deserts wait" in texts(world)
    again = publish_alone(world)
    assert (again.published, again.note) == (False, "readers have it already")


def test_publishing_alone_an_unchecked_candidate_says_what_to_run(world: World) -> None:
    world.run()
    edit(world, "deserts wait")
    index_alone(world)
    with pytest.raises(NotPublishable, match=r"index_equals_tables has not looked at it; .*corpus_release.*kb run"):
        publish_alone(world)
    assert "rivers run to the sea" in texts(world)


def test_publishing_alone_a_candidate_that_the_index_moved_on_from_says_what_to_run(world: World) -> None:
    world.run()
    edit(world, "deserts wait")
    index_alone(world)
    check(world)
    world.storage.index_location.open(TABLE).delete("connection = 'beta'")
    with pytest.raises(NotPublishable, match=r"the index has changed since .*corpus_release"):
        publish_alone(world)
    assert "rivers run to the sea" in texts(world)
    assert world.publish().published
    assert len(texts(world)) == 3


def test_publishing_alone_before_anything_says_so(world: World) -> None:
    result = publish_alone(world)
    assert (result.published, result.release, result.note) == (False, None, "there is no candidate")


def test_the_candidate_of_another_run_is_left_to_that_run(world: World) -> None:
    world.run()
    mine = orchestration()
    edit(world, "deserts wait")
    world.chain.index(mine, world.kb_model)
    check(world)
    edit(world, "islands float")
    index_alone(world)  # of another run, which has yet to check it
    result = world.chain.publish(mine)
    assert (result.published, result.note) == (False, "another run has a newer candidate at its checks")
    assert "rivers run to the sea" in texts(world)


def test_a_pinned_candidate_is_published_when_the_pin_goes(world: World) -> None:
    world.run()
    edit(world, "deserts wait")
    world.publish()
    with world.workspace.ledger.leases.acquire("corpus/knowledge_base", "a rollback") as lease:
        Releases(world.storage).rollback(lease, "release-1")
    edit(world, "islands float")
    result = world.publish()
    assert result.publication is not None
    assert (result.published, result.publication.pinned) == (False, "release-1")
    Releases(world.storage).unpin()
    assert publish_alone(world).published
    assert "islands float" in texts(world)


def test_who_lost_the_lease_publishes_nothing_and_its_number_is_given_again(world: World) -> None:
    world.run()
    edit(world, "deserts wait")
    index_alone(world)
    check(world)
    with world.workspace.ledger.leases.acquire("corpus/knowledge_base", "a run that sleeps") as lease:
        world.workspace.ledger.leases.release(lease.name, lease.token)
        with pytest.raises(LeaseLost):
            Releases(world.storage).publish(lease, candidate(world))
    assert [record.name for record in Releases(world.storage).all()] == ["release-1"]
    assert "rivers run to the sea" in texts(world)
    result = publish_alone(world)
    assert result.release is not None
    assert result.release.name == "release-2"


def test_a_record_that_another_writer_made_is_never_written_over(world: World) -> None:
    world.run()
    edit(world, "deserts wait")
    index_alone(world)
    check(world)
    releases, last = Releases(world.storage), candidate(world)
    late: list[str] = []
    keep = releases._create_record

    def slower(candidate: Candidate) -> ReleaseRecord:
        if not late:
            late.append(keep(candidate).name)  # what a writer without its lease may still do, at the worst moment
        return keep(candidate)

    releases._create_record = slower  # type: ignore[method-assign]
    with world.workspace.ledger.leases.acquire("corpus/knowledge_base", "a run") as lease:
        record = releases.publish(lease, last)
    assert late == ["release-2"]
    assert record.name == "release-3"
    assert world.release().record == record


# ---------------------------------------------------------------------------------------------------- more checks


def warns(storage: Storage, made: Candidate) -> Finding:
    """Never quite content."""
    return Finding(False, "few words", ("a.md",), Severity.WARNING, {"words": 7.0})


def refuses(storage: Storage, made: Candidate) -> Finding:
    """Never content."""
    return Finding(False, "bad words")


def test_a_warning_is_recorded_and_the_release_comes_about(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CHECKS", (*gate.CHECKS, warns))
    result = world.run()
    assert result.published
    assert result.faults == ["few words"]
    verdict = Candidates(world.storage).verdicts(candidate(world))["warns"]
    assert (verdict.passed, verdict.severity, verdict.sentence) == (False, Severity.WARNING, "few words")


def test_one_entry_makes_another_check_of_the_gate(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run()
    edit(world, "deserts wait")
    monkeypatch.setattr(gate, "CHECKS", (*gate.CHECKS, refuses))
    index_alone(world)
    check(world)
    with pytest.raises(NotPublishable, match="refuses: bad words"):
        publish_alone(world)
    assert "rivers run to the sea" in texts(world)


def test_verdicts_of_earlier_candidates_are_not_kept(world: World, folder: Path) -> None:
    for number in range(3):
        edit(world, f"version {number}")
        world.publish()
    kept = {path.name for path in Path(world.storage.files.uri(f"{KNOWLEDGE_BASE}/candidates")).iterdir()}
    made = candidate(world)
    assert kept == {f"{made.id}.json", f"{made.id}.index_equals_tables.json"}
