"""From a change in a folder to the release, with nothing running but ``kb dev``: the whole loop, the real model."""

from __future__ import annotations

import json
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
from typing import Any

import pytest

from kb_pipeline.knowledge_base.releases import Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.storage.storage import Storage

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
def _dev(config: Path, log: Path) -> Iterator[int]:
    """``kb dev`` in a process group of its own, ended as a whole; yields the port of its UI."""
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
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _graphql(port: int, query: str, variables: Mapping[str, object]) -> Any:
    """Ask the UI's server."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


def _backfill(port: int, keys: list[str]) -> str:
    """Launch a backfill of the whole chain the way the UI does, and wait for its end; returns its status."""
    launch = """
        mutation ($params: LaunchBackfillParams!) {
          launchPartitionBackfill(backfillParams: $params) {
            ... on LaunchBackfillSuccess { backfillId }
            ... on PythonError { message }
          }
        }
    """
    ask = """
        query ($id: String!) {
          partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
        }
    """
    assets = [{"path": ["local_directory", asset]} for asset in ("documents", "chunks", "embeddings")]
    launched = _graphql(port, launch, {"params": {"assetSelection": assets, "partitionNames": keys}})
    backfill = launched["launchPartitionBackfill"]["backfillId"]

    def status() -> str:
        return str(_graphql(port, ask, {"id": backfill})["partitionBackfillOrError"]["status"])

    _wait("the backfill's end", lambda: status() not in ("REQUESTED", "FAILING", "CANCELING"), LIMIT)
    return status()


@pytest.mark.slow
def test_every_kind_of_change_reaches_the_release(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    config = tmp_path / "kb.yaml"
    # The connection in the middle is dead from the start: it must hold up neither changes nor a backfill.
    config.write_text(
        "sources:\n"
        "  - {name: handbook, type: local_directory, path: ./docs}\n"
        "  - {name: gone, type: local_directory, path: ./missing}\n"
        "  - {name: zebra, type: local_directory, path: ./zebra}\n"
    )
    (tmp_path / "zebra").mkdir()
    storage = Storage.of_folder(tmp_path / ".kb")

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
    with _dev(config, tmp_path / "dev.log") as port:
        for name, change, arrived in steps:
            change()
            seconds[name] = _wait(name, arrived, LIMIT)
            record_property(name, round(seconds[name], 1))
            print(f"{name}: {seconds[name]:.1f} s")
        (tmp_path / "zebra" / "stripes.md").write_text("# Stripes\n\nNo two zebras are alike.\n")
        (docs / "rain.md").write_text("# Rain\n\nThe bucket was replaced.\n")
        # It ends, whatever the dead connection does to its own share.
        assert _backfill(port, ["gone", "handbook", "zebra"]) in ("FAILED", "COMPLETED_FAILED")
        _wait("backfill", shows(anemometer="Cups turn", rain="was replaced", stripes="No two zebras"), LIMIT)
    print(f"median: {statistics.median(seconds.values()):.1f} s")
    assert statistics.median(seconds.values()) < LIMIT / 2
