"""Mutated files and harmful archives: nothing leaves the sandbox, exceeds its memory, or costs another document.

Cases are numbered, and a number is all that a case depends on (with the corpus, where it is present): a failure names it,
and ``KB_FUZZ=NUMBER[,NUMBER...]`` runs that case alone. A hundred are part of ``make test``, two thousand of the slow lane.
"""

from __future__ import annotations

import os
import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import pyarrow as pa
import pytest

from kb_pipeline.parsing.child import Limits
from kb_pipeline.parsing.outcome import ARCHIVE, Outcome
from kb_pipeline.parsing.pool import ParserPool
from kb_pipeline.sources.base import ItemCorrupt, ItemEncrypted, SourceContext
from kb_pipeline.sources.local_zip import LocalZip, LocalZipConfig
from kb_pipeline.statuses import Status
from kb_pipeline_tests.fuzz import archives, mutations, seeds

SECONDS = 10.0
MEMORY_MIB = 256
"""What an item may take beyond what its parser process has when it starts."""
SLACK_MIB = 32
ITEM_BYTES = 16 << 20
NEIGHBOUR = b"<h1>Neighbour</h1><p>Nothing happened here.</p>"


class Parse(Protocol):
    """How an item is parsed; ``inside``: as one found in another."""

    def __call__(self, name: str, data: bytes, *, inside: bool = False) -> Outcome: ...


@contextmanager
def sandbox() -> Iterator[Parse]:
    """The one place that knows how the parser processes are used."""
    with ParserPool(Limits(SECONDS, MEMORY_MIB), size=1) as pool:

        def parse(name: str, data: bytes, *, inside: bool = False) -> Outcome:
            return pool.submit(name, data, inside=inside).result()

        yield parse


class Watch:
    """The peak resident memory of this process's children, by the kernel's own count, in MiB."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def look(self) -> None:
        for child in psutil.Process().children(recursive=True):
            with suppress(OSError, psutil.Error):
                status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii", errors="replace")
                # Between fork and exec a child is still this process, with this process's peak.
                if "worker" not in " ".join(child.cmdline()):
                    continue
                kib = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
                self.peak = max(self.peak, kib / 1024)

    def _run(self) -> None:
        while not self._over.wait(0.1):
            self.look()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass
class Place:
    """A current folder, a home and a folder for temporary files, and what lies in and around them."""

    root: Path

    def contents(self) -> dict[str, tuple[int, int]]:
        """Path -> (size, time of the last change)."""
        found = {}
        for path in [*self.root.rglob("*"), *self.root.parent.glob("*escaped*"), *Path("/tmp").glob("*escaped*")]:
            with suppress(FileNotFoundError):
                status = path.lstat()
                found[str(path)] = (status.st_size, 0 if path.is_dir() else status.st_mtime_ns)
        return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    root = tmp_path / "around"
    for variable, name in (("HOME", "home"), ("TMPDIR", "tmp"), ("XDG_CACHE_HOME", "cache")):
        (root / name).mkdir(parents=True)
        monkeypatch.setenv(variable, str(root / name))
    (root / "here").mkdir()
    monkeypatch.chdir(root / "here")
    monkeypatch.setattr("tempfile.tempdir", None)  # what it remembers of TMPDIR
    return Place(root)


def document_case(number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """(name, bytes) of a mutated file."""
    rng = random.Random(f"document {number}")
    name, other = seeds.pick(rng, files), seeds.pick(rng, files)
    return name, mutations.mutate(rng, name, files[name], files[other])


def check_document(name: str, data: bytes, parse: Parse, expected: str, *, inside: bool = False) -> None:
    """The file has a typed outcome, in time, and the one after it is read as ever."""
    begin = time.monotonic()
    outcome = parse(name, data, inside=inside)
    took = time.monotonic() - begin
    assert isinstance(outcome.status, Status)
    assert not outcome.status.transient
    opened = outcome.status is Status.EXCLUDED and outcome.detail == ARCHIVE
    assert (outcome.document is not None) == (outcome.status.good or opened)
    assert took < SECONDS + 15, f"took {took:.1f} s"
    if outcome.document is not None:
        outcome.document.text.encode("utf-8")
        for attachment in outcome.document.attachments:
            assert ".." not in attachment.name.split("/")
            assert not attachment.name.startswith("/")
            attachment.name.encode("utf-8")
        position = 0
        for block in outcome.document.blocks:
            assert position <= block.start <= block.end <= len(outcome.document.text)
            position = block.end
        assert "root:x:0" not in outcome.document.text
    elif outcome.status is not Status.EXCLUDED:
        assert outcome.detail
    neighbour = parse("neighbour.html", NEIGHBOUR)
    assert neighbour.document is not None
    assert neighbour.document.text == expected


def check_archive(data: bytes, folder: Path) -> None:
    """Every member is an item with bytes or a reason, within little memory, and the archive beside it is read as ever."""
    folder.mkdir(parents=True)
    (folder / "bad.zip").write_bytes(data)
    (folder / "good.zip").write_bytes(seeds.zipped({"neighbour.txt": b"Nothing happened here."}))
    config = LocalZipConfig(
        name="c", type="local_zip", path="*.zip", max_nested_bytes=32 << 20, max_unpacked_bytes=128 << 20
    )
    source = LocalZip(config, SourceContext(base=folder, storage=folder / ".kb"))
    tracemalloc.start()
    try:
        items = list(source.list())
        assert [item.key for item in items] == sorted({item.key for item in items})
        pa.array([item.size for item in items], pa.int64())
        for item in items:
            item.key.encode()
            if item.excluded is not None or item.problem is not None:
                continue
            assert ".." not in item.name
            refused = ""
            read = 0
            try:
                with source.read(item) as stream:
                    while read <= ITEM_BYTES and (piece := stream.read(1 << 20)):
                        read += len(piece)
            except (ItemCorrupt, ItemEncrypted) as error:
                refused = str(error)
            assert refused or read == item.size or read > ITEM_BYTES
            assert item.parent != "good.zip" or not refused
        assert tracemalloc.get_traced_memory()[1] < SLACK_MIB << 20
    finally:
        tracemalloc.stop()
    assert [item.key for item in items if item.parent == "good.zip"] == ["good.zip!/neighbour.txt"]
    assert {path.name for path in folder.iterdir()} == {"bad.zip", "good.zip"}


def run(numbers: list[int], place: Place, folder: Path) -> None:
    """All cases; three of four are documents. Failures are told together, by number."""
    if only := os.environ.get("KB_FUZZ"):
        numbers = [int(number) for number in only.split(",")]
    files = seeds.made() | seeds.real()
    failures = []
    before = place.contents()
    with Watch() as watch, sandbox() as parse:
        neighbour = parse("neighbour.html", NEIGHBOUR)
        assert neighbour.document is not None
        watch.look()
        allowed = watch.peak + MEMORY_MIB + SLACK_MIB
        for number in numbers:
            try:
                if number % 4 == 3:
                    rng = random.Random(f"archive {number}")
                    what = rng.choice(archives.KINDS)
                    name = what.__name__
                    data = what(rng)
                    check_archive(data, folder / str(number))
                    check_document("bad.zip", data, parse, neighbour.document.text, inside=True)
                else:
                    name, data = document_case(number, files)
                    check_document(name, data, parse, neighbour.document.text)
                watch.look()
                assert watch.peak <= allowed, f"{watch.peak:.0f} MiB of {allowed:.0f}"
            except Exception as error:  # noqa: BLE001 - the next case is run whatever this one does
                failures.append(f"case {number} ({name}): {type(error).__name__}: {error}")
        assert watch.peak > 0
    assert place.contents() == before
    assert not failures, "\n".join(failures)


def test_a_hundred_cases(place: Place, tmp_path: Path) -> None:
    run(list(range(100)), place, tmp_path / "archives")


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_two_thousand_cases(place: Place, tmp_path: Path, block: int) -> None:
    run(list(range(100 * block, 100 * (block + 1))), place, tmp_path / "archives")
