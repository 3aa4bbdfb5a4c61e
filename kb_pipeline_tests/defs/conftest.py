"""A small project with a folder, an archive and an inbox, a Dagster instance, and an embedder that takes no time."""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from kb_pipeline.definitions import build_defs
from kb_pipeline.defs.partitions import register
from kb_pipeline.embedding.base import Vectors
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.settings.load import load

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


class HashEmbedder:
    """An embedder whose vectors are hashes: nothing to load, and equal texts have equal vectors."""

    model_id = "0123456789abcdef" * 2
    dimension = 8
    max_tokens = 256

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(
        self,
        texts: Sequence[str],
        n_tokens: Sequence[int] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Vectors:
        self.texts.extend(texts)
        if on_progress is not None:
            on_progress(len(texts))
        return np.stack([self.embed_query(text) for text in texts])

    def embed_query(self, text: str) -> Vectors:
        numbers = np.frombuffer(hashlib.sha256(text.encode()).digest()[: self.dimension], np.uint8).astype(np.float32) + 1
        return numbers / np.linalg.norm(numbers)


class Project:
    """A project on disk with its Dagster instance, and what a person at the UI would do with them."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root = root
        self.instance = instance
        self.embedder = HashEmbedder()
        self._written = 0.0

    @property
    def config(self) -> Path:
        return self.root / "kb.yaml"

    def configure(self, *sources: str, more: str = "") -> Project:
        """Write kb.yaml with these connections (YAML flow mappings) and register their partitions."""
        lines = ["sources:", *(f"  - {each}" for each in sources)] if sources else []
        self.config.write_text("\n".join([*lines, more, ""]))
        register(self.instance, self.workspace)
        return self

    @property
    def workspace(self) -> Workspace:
        return Workspace(load(self.config))

    @property
    def definitions(self) -> dg.Definitions:
        return build_defs(load(self.config), resources={"embedder": self.embedder})

    def write(self, path: str, text: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        self._written = time.monotonic()
        return target

    def at_rest(self) -> None:
        """Wait until the last file is old enough that two listings agree on its version."""
        while time.monotonic() < self._written + 0.1:
            time.sleep(0.01)

    def folders(self, count: int, *, dead: Sequence[int] = (), more: str = "") -> list[str]:
        """``count`` folders c0, c1, ... with a file each; the ``dead`` ones are in kb.yaml but not on disk."""
        names = [f"c{number}" for number in range(count)]
        for number, name in enumerate(names):
            if number not in dead:
                self.write(f"{name}/note.md", f"# Note {number}\n\nSaid in folder {number}.\n")
        self.configure(*(f"{{name: {name}, type: local_directory, path: ./{name}}}" for name in names), more=more)
        return names

    def run(
        self,
        *assets: str,
        partition: str | None = None,
        between: tuple[str, str] | None = None,
        checks: bool = True,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Materialize assets (``type/asset``) with their checks, as a run from the UI would."""
        chosen = dg.AssetSelection.assets(*(dg.AssetKey(each.split("/")) for each in assets))
        return self.execute(chosen if checks else chosen.without_checks(), partition=partition, between=between, tags=tags)

    def execute(
        self,
        selection: dg.AssetSelection,
        *,
        partition: str | None = None,
        between: tuple[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a selection on a job of its own; ``between`` are the ends of a range of partitions."""
        self.at_rest()
        definitions = self.definitions
        job = dg.define_asset_job("by_hand", selection=selection, executor_def=dg.in_process_executor)
        everything = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
        keys = {} if between is None else {RANGE_START: between[0], RANGE_END: between[1]}
        if partition is not None:  # as a tag, because `execute_in_process` wants assets, not checks alone, for a key
            keys = {"dagster/partition": partition}
        return everything.resolve_job_def("by_hand").execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=self.instance,
            tags={**keys, **(tags or {})},
            raise_on_error=False,
        )

    def chain(self, type_: str, partition: str) -> None:
        """Bring one partition up to date, documents to embeddings."""
        result = self.run(f"{type_}/documents", f"{type_}/chunks", f"{type_}/embeddings", partition=partition)
        assert result.success, failure_sentence(result)

    def publish(self) -> None:
        """Bring the index in step, check it, and publish a release."""
        result = self.run("corpus/index", "corpus/knowledge_base")
        assert result.success, failure_sentence(result)

    def event(self, asset: str, partition: str | None = None) -> dg.AssetMaterialization | None:
        """The latest materialization of an asset, of one partition if given, as the event log has it."""
        found = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(
                asset_key=dg.AssetKey(asset.split("/")), asset_partitions=[partition] if partition is not None else None
            ),
            limit=1,
        ).records
        return found[0].asset_materialization if found else None

    def metadata(self, asset: str, partition: str | None = None) -> dict[str, Any]:
        """Metadata of the latest materialization."""
        event = self.event(asset, partition)
        assert event is not None, f"{asset} of {partition} was never materialized"
        return {name: value.value for name, value in event.metadata.items()}

    def data_version(self, asset: str, partition: str) -> str:
        """The DataVersion in the event log."""
        event = self.event(asset, partition)
        assert event is not None
        assert event.tags is not None
        return str(event.tags["dagster/data_version"])


def failure_sentence(result: dg.ExecuteInProcessResult) -> str:
    """What a failed run says: descriptions of the failures of its steps, and of the checks that failed."""
    found = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            told = data.user_failure_data
            found.append(str(told.description if told else data.error))
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed:
                found.append(str(evaluation.description))
    return "\n".join(found)


def zip_of(path: Path, members: Mapping[str, str]) -> Path:
    """Write an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that only this test knows."""
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def project(tmp_path: Path, instance: dg.DagsterInstance) -> Project:
    """A handbook of three files in a folder, two in an archive, an empty inbox."""
    made = Project(tmp_path / "project", instance)
    made.write("docs/tide.md", "# Tide\n\nA float rises and falls.\n")
    made.write("docs/wind.md", "# Wind\n\nCups turn in the wind.\n")
    made.write("docs/drafts/secret.md", "# Draft\n")
    zip_of(made.root / "archives" / "old.zip", {"a.md": "# A\n\nFirst member.\n", "b.md": "# B\n\nSecond member.\n"})
    return made.configure(
        '{name: handbook, type: local_directory, path: ./docs, exclude: ["drafts/**"]}',
        "{name: archive, type: local_zip, path: ./archives/*.zip}",
    )
