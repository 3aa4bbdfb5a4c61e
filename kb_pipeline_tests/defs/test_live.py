"""From a change in a folder to the release, with nothing running but ``kb dev``: the whole loop, the real model."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.storage.table import Storage

LIMIT = 180.0
"""Seconds a change may take; generous, because the machine may be busy. The goal is a median below 60."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(what: str, done: Callable[[], bool], seconds: float) -> float:
    started = time.monotonic()
    while not done():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.25)
    return time.monotonic() - started


@contextmanager
def _dev(config: Path, log: Path) -> Iterator[None]:
    """``kb dev`` in a process group of its own, ended as a whole."""
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "KB_CONFIG")}
    command = [str(Path(sys.executable).with_name("kb")), "--config", str(config), "dev", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=config.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:

        def up() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"kb dev ended: {log.read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2):
                    return True
            except OSError:
                return False

        _wait("kb dev is up", up, LIMIT)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


@pytest.mark.slow
def test_every_kind_of_change_reaches_the_release(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    config = tmp_path / "kb.yaml"
    config.write_text("sources:\n  - {name: handbook, type: local_directory, path: ./docs}\n")
    storage = Storage(tmp_path / ".kb")

    def released() -> Mapping[str, str]:
        """Key -> text of everything in the current release."""
        record = Releases(storage).current()
        if record is None:
            return {}
        rows = (
            Release(storage, record)
            .to_arrow(["key", "ordinal", "text"])
            .sort_by([("key", "ascending"), ("ordinal", "ascending")])
        )
        found: dict[str, str] = {}
        for row in rows.to_pylist():
            found[row["key"]] = found.get(row["key"], "") + row["text"]
        return found

    def shows(**expected: str) -> Callable[[], bool]:
        """Whether the release holds exactly these files, each with its words."""
        files = {f"{name}.md": words for name, words in expected.items()}

        def check() -> bool:
            have = released()
            return have.keys() == files.keys() and all(words in have[key] for key, words in files.items())

        return check

    def drop() -> None:
        (docs / "tide.md").write_text("# Tide gauges\n\nA float rises and falls with the water.\n")
        (docs / "wind.md").write_text("# Wind\n\nCups turn faster when it blows harder.\n")

    def edit() -> None:
        (docs / "tide.md").write_text("# Tide gauges\n\nA radar looks down at the water.\n")

    def rename() -> None:
        (docs / "wind.md").rename(docs / "anemometer.md")

    def delete() -> None:
        (docs / "tide.md").unlink()

    def add() -> None:
        (docs / "rain.md").write_text("# Rain\n\nA bucket tips for every fifth of a millimetre.\n")

    steps = [
        ("drop", drop, shows(tide="A float rises", wind="Cups turn")),
        ("edit", edit, shows(tide="A radar looks down", wind="Cups turn")),
        ("rename", rename, shows(tide="A radar looks down", anemometer="Cups turn")),
        ("delete", delete, shows(anemometer="Cups turn")),
        ("add", add, shows(anemometer="Cups turn", rain="A bucket tips")),
    ]
    seconds: dict[str, float] = {}
    with _dev(config, tmp_path / "dev.log"):
        for name, change, arrived in steps:
            change()
            seconds[name] = _wait(name, arrived, LIMIT)
            record_property(name, round(seconds[name], 1))
            print(f"{name}: {seconds[name]:.1f} s")
    print(f"median: {statistics.median(seconds.values()):.1f} s")
    assert statistics.median(seconds.values()) < LIMIT / 2
