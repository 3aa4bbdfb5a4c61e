"""A small world of folders, an archive and an inbox, and a pipeline over it that can be made to fail.

What belongs here: building worlds, driving the chain, injecting faults, counting. What doesn't: any expectation.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import yaml

from kb_pipeline import stages
from kb_pipeline.chunking.tokenizer import Tokenizer
from kb_pipeline.embedding import ModelFiles, SentenceTransformerEmbedder, resolve
from kb_pipeline.embedding.base import Embedder, Vectors
from kb_pipeline.findings import Finding
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ingestion.work import Orchestration
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base import gate
from kb_pipeline.knowledge_base.ingredients import Model
from kb_pipeline.knowledge_base.publish import Publication
from kb_pipeline.knowledge_base.releases import ReleaseRecord, Releases
from kb_pipeline.knowledge_base.search import Release
from kb_pipeline.knowledge_base.update import Update
from kb_pipeline.settings.load import load
from kb_pipeline.settings.model import LedgerSettings
from kb_pipeline.settings.model import Storage as StorageSettings
from kb_pipeline.sources.base import Item, ListingFailed, Source
from kb_pipeline.sources.local_directory import LocalDirectory
from kb_pipeline.storage.partitions import Partition
from kb_pipeline.storage.storage import Staged
from kb_pipeline_tests import current
from kb_pipeline_tests.acceptance.homes import IN_A_FOLDER, Home

KB_YAML = """
storage: {url: ./kb}
chunking: {tokens: 32}
sources:
  - {name: alpha, type: local_directory, path: ./alpha, exclude: ["**/*.skip.md"]}
  - {name: beta, type: local_directory, path: ./beta, exclude: ["**/*.skip.md"]}
  - {name: gamma, type: local_zip, path: ./archives/*.zip, exclude: ["**/*.skip.md"]}
"""

FAR_FUTURE_NS = 1 << 62
"""A clock at which nothing on disk is young, so that a file's version depends on the file alone."""

_EPOCH_NS = 1_600_000_000_000_000_000
_numbers = itertools.count(1)


@contextmanager
def quick_folder() -> Iterator[Path]:
    """An empty folder, in memory where the system has such: it spares the disk thousands of small, synced writes."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@cache
def packaged_model() -> ModelFiles:
    """The packaged model's files."""
    return resolve()


@cache
def packaged_tokenizer() -> Tokenizer:
    """The packaged model's tokenizer."""
    return Tokenizer(packaged_model().tokenizer_path.parent)


@cache
def real_embedder() -> SentenceTransformerEmbedder:
    """The packaged model, loaded once for the session."""
    return SentenceTransformerEmbedder(packaged_model(), device="cpu")


class CountingEmbedder:
    """Counts every text that goes through the model."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner
        self.texts: list[str] = []

    @property
    def model_id(self) -> str:
        return self._inner.model_id

    @property
    def dimension(self) -> int:
        return self._inner.dimension

    @property
    def max_tokens(self) -> int:
        return self._inner.max_tokens

    def embed(
        self,
        texts: Sequence[str],
        n_tokens: Sequence[int] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Vectors:
        self.texts.extend(texts)
        return self._inner.embed(texts, n_tokens, on_progress)

    def embed_query(self, text: str) -> Vectors:
        return self._inner.embed_query(text)


class WordEmbedder:
    """A stand-in for a model: texts that share words have similar vectors. Any model id, any dimension."""

    def __init__(self, name: str = "words", dimension: int = 16) -> None:
        self.model_id = hashlib.sha256(name.encode()).hexdigest()[:32]
        self.dimension = dimension
        self.max_tokens = 254

    def embed(
        self,
        texts: Sequence[str],
        n_tokens: Sequence[int] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Vectors:
        if on_progress is not None:
            on_progress(len(texts))
        return np.stack([self.embed_query(text) for text in texts])

    def embed_query(self, text: str) -> Vectors:
        total = np.full(self.dimension, 1e-3, dtype=np.float32)
        for word in text.lower().split():
            seed = int.from_bytes(hashlib.sha256((self.model_id + word).encode()).digest()[:8], "big")
            total += np.random.default_rng(seed).standard_normal(self.dimension).astype(np.float32)
        return total / np.linalg.norm(total)


@dataclass
class Faults:
    """What goes wrong, and what was asked for.

    ``reads``: (connection, key) -> the error its read raises. ``listings``: connection -> items listed before it fails.
    ``read``: every (connection, key) whose bytes were asked for.
    """

    reads: dict[tuple[str, str], Exception] = field(default_factory=dict)
    listings: dict[str, int] = field(default_factory=dict)
    read: list[tuple[str, str]] = field(default_factory=list)


class FaultySource:
    """A source that fails where ``Faults`` says so."""

    def __init__(self, name: str, inner: Source, faults: Faults) -> None:
        self._name = name
        self._inner = inner
        self._faults = faults

    def list(self) -> Iterator[Item]:
        items_left = self._faults.listings.get(self._name)
        for item in self._inner.list():
            if items_left == 0:
                break
            yield item
            if items_left is not None:
                items_left -= 1
        if items_left is not None:
            raise ListingFailed("the share went away")

    @contextmanager
    def read(self, item: Item) -> Iterator[BinaryIO]:
        self._faults.read.append((self._name, item.key))
        error = self._faults.reads.get((self._name, item.key))
        if error is not None:
            raise error
        with self._inner.read(item) as stream:
            yield stream

    def probe(self) -> str:
        return self._inner.probe()


@dataclass(frozen=True)
class FaultyWorkspace(Workspace):
    """A workspace with faults between it and its sources; the model's files are looked up once for all."""

    faults: Faults = field(default_factory=Faults)

    @cached_property
    def model(self) -> ModelFiles:
        return packaged_model()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return packaged_tokenizer()

    def source(self, name: str) -> Source:
        config = self.connection(name)
        if config.type == "upload":
            return super().source(name)
        inner = super().source(name)
        if config.type == "local_directory":
            inner = LocalDirectory(config, self.settings.context, clock=lambda: FAR_FUTURE_NS)
        return FaultySource(name, inner, self.faults)  # type: ignore[return-value]


def orchestration() -> Orchestration:
    """A new orchestration that begins now: it takes a listing of its own."""
    return Orchestration(f"o{next(_numbers)}", time.time(), "a test")


@dataclass(frozen=True)
class Corpus:
    """What one pass over the corpus did: the update of the index, what its checks found, and the publication, if any."""

    index: Update
    findings: list[Finding]
    publication: Publication | None
    release: ReleaseRecord | None

    @property
    def published(self) -> bool:
        """Whether there is a new release."""
        return self.publication is not None and self.publication.published

    @property
    def faults(self) -> list[str]:
        """What the checks found wrong."""
        return [finding.sentence for finding in self.findings if not finding.passed]


class World:
    """Sources below ``base`` and the pipeline over them; the embedder is the packaged model unless another is given.

    ``home`` is where the storage and the ledger lie.
    """

    def __init__(
        self, base: Path, embedder: Embedder | None = None, kb_yaml: str = KB_YAML, home: Home = IN_A_FOLDER
    ) -> None:
        self.base = base
        for name in ("alpha", "beta", "archives"):
            (base / name).mkdir(parents=True, exist_ok=True)
        keys = {**yaml.safe_load(kb_yaml), **home.keys}
        (base / "kb.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
        self.settings = load(base / "kb.yaml")
        self.faults = Faults()
        self.embedder = CountingEmbedder(embedder or real_embedder())
        self._ticks = itertools.count(1)
        self._members: dict[str, bytes] = {}

    # ------------------------------------------------------------------------------------------------ the pipeline

    @property
    def workspace(self) -> FaultyWorkspace:
        """A workspace over the settings as they are now."""
        return FaultyWorkspace(self.settings, faults=self.faults)

    @property
    def chain(self) -> Chain:
        """The chain over the settings as they are now; it waits for nobody."""
        return Chain(self.workspace, lease_wait=0.0)

    @property
    def storage(self) -> Any:
        """The storage of the workspace."""
        return self.workspace.storage

    @property
    def kb_model(self) -> Model:
        """The model releases are made with."""
        return Model(self.embedder.model_id, "a test's model", self.embedder.dimension)

    def partitions(self, connection: str | None = None) -> list[Partition]:
        """Partitions of one connection, or of all."""
        names = [connection] if connection else [config.name for config in self.workspace.connections]
        return [partition for name in names for partition in self.workspace.partitions(name)]

    def documents(self, partition: Partition, run: Orchestration | None = None) -> Staged:
        """Materialize the documents of a partition."""
        return self.make("documents", partition, run)

    def chunks(self, partition: Partition, run: Orchestration | None = None) -> Staged:
        """Materialize the chunks of a partition."""
        return self.make("chunks", partition, run)

    def embeddings(self, partition: Partition, run: Orchestration | None = None) -> Staged:
        """Materialize the embeddings of a partition."""
        return self.make("embeddings", partition, run)

    def make(self, stage: str, partition: Partition, run: Orchestration | None = None) -> Staged:
        """Materialize one stage of a partition."""
        return self.chain.make(stages.get(stage), partition, run or orchestration(), self.embedder)

    def ingest(self, partition: Partition, run: Orchestration | None = None) -> dict[str, Staged]:
        """All stages of one partition, by name."""
        run = run or orchestration()
        return {stage: self.make(stage, partition, run) for stage in stages.names()}

    def publish(self, *, everything: bool = False) -> Corpus:
        """Bring the index in step, put it to its checks, and publish unless one fails: as a run of the job does."""
        run = orchestration()
        index = self.chain.index(run, self.kb_model, everything=everything)
        findings = [self.chain.inspect(check) for check in gate.CHECKS]
        passed = not any(finding.blocks for finding in findings)
        publication = self.chain.publish(run) if passed else None
        return Corpus(index, findings, publication, Releases(self.storage).current())

    def run(self, *connections: str) -> Corpus:
        """Ingest every partition, or those of some connections, and publish."""
        run = orchestration()
        for partition in self.partitions():
            if not connections or partition.connection in connections:
                self.ingest(partition, run)
        return self.publish()

    def release(self, name: str = "current") -> Release:
        """A release, opened."""
        return Release.open(self.storage, name)

    def rows(self, name: str = "current") -> list[dict[str, Any]]:
        """All rows of a release, by chunk id."""
        rows: list[dict[str, Any]] = self.release(name).to_arrow().to_pylist()
        return rows

    def manifest(self, partition: Partition) -> dict[str, dict[str, Any]]:
        """The documents table of a partition, by key."""
        return {row["key"]: row for row in current.rows(self.storage, "documents", partition)}

    def reshard(self, connection: str, shards: int) -> None:
        """Change ``shards`` of a connection in the settings."""
        self.configure(connection, shards=shards)

    def configure(self, connection: str, **changes: Any) -> None:
        """Change settings of a connection."""
        sources = tuple(
            config.model_copy(update=changes) if config.name == connection else config for config in self.settings.sources
        )
        self.settings = self.settings.model_copy(update={"sources": sources})

    def with_storage(self, url: Path) -> World:
        """The same sources with another storage, a folder, without transient faults, and not counting texts for this world.

        What was uploaded is there as well.
        """
        other = object.__new__(World)
        other.__dict__.update(self.__dict__)
        elsewhere = {"storage": StorageSettings(url=str(url)), "ledger": LedgerSettings()}
        other.settings = self.settings.model_copy(update=elsewhere)
        mine, theirs = self.storage.files, other.storage.files
        for each in mine.list("uploads"):
            theirs.put(each.key, mine.get(each.key))
        other.faults = Faults()
        other.embedder = CountingEmbedder(self.embedder._inner)
        return other

    # ------------------------------------------------------------------------------------------------ the sources

    def write(self, connection: str, name: str, content: str | bytes) -> None:
        """Write a file of a folder, or a member of the archive; every write has a time of its own."""
        data = content.encode() if isinstance(content, str) else content
        if connection == "gamma":
            self._members[name] = data
            self._pack()
            return
        path = self.base / connection / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.touch(connection, name)

    def touch(self, connection: str, name: str) -> None:
        """Give a file another time. Members of the archive have no time that matters."""
        if connection != "gamma":
            moment = _EPOCH_NS + next(self._ticks) * 1_000_000_000 + 1_000
            os.utime(self.base / connection / name, ns=(moment, moment))

    def delete(self, connection: str, name: str) -> None:
        """Delete a file or a member."""
        if connection == "gamma":
            del self._members[name]
            self._pack()
        else:
            (self.base / connection / name).unlink()

    def item_key(self, connection: str, name: str) -> str:
        """The key under which a file or member is listed."""
        return f"z.zip!/{name}" if connection == "gamma" else name

    def _pack(self) -> None:
        target = self.base / "archives" / "z.zip"
        if not self._members:
            target.unlink(missing_ok=True)
            return
        aside = self.base / "z.zip.aside"
        with zipfile.ZipFile(aside, "w") as archive:
            for name, data in sorted(self._members.items()):
                archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
        aside.replace(target)
