"""Files to documents, chunks and vectors from Python, as the pipeline would make them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kb_pipeline import Batch, process_batch
from kb_pipeline.settings.errors import ConfigError
from kb_pipeline_tests.acceptance.project import Project, directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files, bad files, and one with something inside."""
    folder = tmp_path_factory.mktemp("batch")
    (folder / "tides.md").write_text("# Tides\n\nThe tide turns at noon.\n\n## Springs\n\nSprings come at full moon.\n")
    (folder / "again.md").write_text("# Again\n\nThe tide turns at noon.\n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    message = EmailMessage()
    message["From"], message["Subject"] = "harbour@example.org", "Fees"
    message.set_content("See the file.")
    message.add_attachment(b"The fee is nine florins.", maintype="text", subtype="plain", filename="fees.txt")
    (folder / "post.eml").write_bytes(message.as_bytes())
    return folder


@pytest.fixture(scope="module")
def batch(folder: Path) -> Batch:
    names = ["tides.md", "post.eml", "broken.pdf", "missing.md", "again.md", "picture.png", "tides.md"]
    return process_batch([folder / name for name in names], profile="balanced")


def test_every_file_and_what_is_inside_it_has_a_row_in_the_order_given(folder: Path, batch: Batch) -> None:
    found = [(row["name"], row["status"]) for row in batch.documents.select(["name", "status"]).to_pylist()]
    assert found == [
        ("tides.md", "parsed"),
        ("post.eml", "parsed"),
        ("fees.txt", "parsed"),
        ("broken.pdf", "corrupt"),
        ("missing.md", "vanished"),
        ("again.md", "parsed"),
        ("picture.png", "excluded"),
    ]
    counts = {"listed": 7, "indexed": 4, "unchanged": 0, "quarantined": 2, "excluded": 1, "deleted": 0}
    assert batch.counts == counts
    details = {row["name"]: row["detail"] for row in batch.documents.to_pylist()}
    assert details["missing.md"] == f"{folder / 'missing.md'} doesn't exist."


def test_chunks_are_spans_of_their_documents_and_each_has_its_vector(batch: Batch) -> None:
    texts = {row["document_id"]: row["text"] for row in batch.documents.to_pylist()}
    rows = batch.chunks.to_pylist()
    assert [row["text"] for row in rows] == [texts[row["document_id"]][row["start"] : row["end"]] for row in rows]
    assert batch.vectors.shape == (len(rows), 384)
    assert batch.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(batch.vectors, axis=1), 1, atol=1e-5)
    assert rows[0]["title"] == "Tides"


def test_vectors_and_chunks_are_those_of_a_release(folder: Path, tmp_path: Path, batch: Batch) -> None:
    project = Project(tmp_path)
    project.configure(directory("docs", str(folder)))
    project.run()
    released = {(row["uri"], row["start"]): row for row in project.rows().to_pylist()}
    made = batch.chunks.to_pylist()
    assert {(row["uri"], row["start"]) for row in made} == set(released)
    for row, vector in zip(made, batch.vectors, strict=True):
        same = released[row["uri"], row["start"]]
        assert same["text"] == row["text"]
        assert np.array_equal(np.asarray(same["vector"], np.float32), vector)


def test_settings_come_from_a_config(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "kb.yaml"
    config.write_text("chunking: {tokens: 32}\nlimits: {max_item_bytes: 40}\n")
    made = process_batch([folder / "tides.md", folder / "again.md"], config=config)
    assert made.documents["status"].to_pylist() == ["too_large", "parsed"]
    config.write_text("chunkin: {}\n")
    with pytest.raises(ConfigError):
        process_batch([folder / "tides.md"], config=config)


def test_the_readme_does_what_it_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(from kb_pipeline import process_batch\n.*?)```", readme, re.S)
    (folder / "notes.md").write_text("# Notes\n\nA note.\n")
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["batch"].documents["name"].to_pylist() == ["notes.md", "post.eml", "fees.txt"]


def test_a_path_that_is_no_file_costs_its_row_alone(folder: Path) -> None:
    os.mkfifo(folder / "pipe.md")
    names = [str(folder), str(folder / "pipe.md"), "nul\0.md", "half\udcff.md", "other\ud800.md", str(folder / "again.md")]
    made = process_batch(names)
    assert made.documents["status"].to_pylist() == ["unreadable"] * 2 + ["vanished"] * 3 + ["parsed"]


def test_a_path_by_itself_is_a_mistake(folder: Path) -> None:
    with pytest.raises(TypeError, match="a list of paths"):
        process_batch(str(folder / "again.md"))


def test_no_files_make_an_empty_batch() -> None:
    made = process_batch([])
    assert made.documents.num_rows == made.chunks.num_rows == 0
    assert made.vectors.shape == (0, 384)


def test_an_unknown_profile_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(ValueError, match="balanced"):
        process_batch([folder / "tides.md"], profile="turbo")


def test_dagster_is_not_needed(folder: Path) -> None:
    script = (
        "import json, sys\n"
        "from kb_pipeline import process_batch\n"
        f"made = process_batch([{str(folder / 'tides.md')!r}])\n"
        "print(json.dumps([made.vectors.shape, 'dagster' in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[1, 384], False]
