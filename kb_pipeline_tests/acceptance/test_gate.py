"""The gate and the verification as a person at the terminal meets them, over damage that is really there."""

from __future__ import annotations

from pathlib import Path

from kb_pipeline.knowledge_base.index import TABLE
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Storage
from kb_pipeline_tests.acceptance.project import Project, directory, sentences
from kb_pipeline_tests.current import path
from kb_pipeline_tests.damage import double, rewrite


def test_damage_keeps_the_old_release_is_named_and_healed(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name, text in sentences(["pensions", "gardens"]).items():
        project.write(f"notes/{name}", text)
    project.configure(directory("notes", tmp_path / "notes"))
    assert project.run()["release"] == "release-1"
    looked = project.kb("verify", "--json")
    assert [finding["passed"] for finding in looked.json["findings"]] == [True, True, True]

    # The index lost a row, and the tables that it must come back from have every row twice.
    Storage.of_folder(project.storage).index_location.open(TABLE).delete("text LIKE '%pensions%'")
    double(project.storage, "notes")
    looked = project.kb("verify", exits=1)
    assert "WRONG: the head of the index differs from its tables: " in looked.stdout
    failed = project.kb("run", "--json", exits=1)
    report = failed.report
    assert (report["status"], report["release"]) == ("failed", "release-1")
    (error,) = report["errors"]
    assert error["source"] == "release"
    assert error["message"].startswith("index_equals_tables: the index differs from its tables: notes: ")
    hits = project.kb("search", "pensions", "--mode", "text", "--json").json
    assert hits["release"] == "release-1"
    assert len(hits["hits"]) == 1
    alone = project.kb("materialize", "corpus/knowledge_base", exits=1)
    assert "index_equals_tables" in alone.stderr

    for asset in ("chunks", "embeddings"):
        rewrite(
            path(Storage.of_folder(project.storage), asset, Partition("local_directory", "notes")),
            lambda table: table.slice(0, 2),
        )
    healed = project.kb("verify", "--heal", "--json")
    assert healed.json["healed"] is True
    assert all(finding["passed"] for finding in healed.json["findings"])
    assert "differs from its tables" in healed.stderr
    assert project.kb("verify").stdout.count("right: ") == 3
