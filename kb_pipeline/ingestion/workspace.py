"""A workspace: settings turned into the things the stages work with. Opens nothing heavy before it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from kb_pipeline import stages
from kb_pipeline.chunking.settings import Chunkers, ChunkerSettings, Override
from kb_pipeline.ingestion.accounts import Limits
from kb_pipeline.settings.errors import ConfigError, Problem
from kb_pipeline.settings.model import Settings
from kb_pipeline.sources.base import Source, SourceConfig, SourceContext
from kb_pipeline.sources.guard import guarded
from kb_pipeline.sources.registry import build
from kb_pipeline.storage import identity
from kb_pipeline.storage.bucket import Bucket
from kb_pipeline.storage.files import Folder
from kb_pipeline.storage.partitions import Partition, layout
from kb_pipeline.storage.storage import LEDGER, STAGING, Storage

# What a workspace opens is imported when it is opened: together these take longer than a whole `kb status`.
if TYPE_CHECKING:
    from kb_pipeline.chunking.tokenizer import Tokenizer
    from kb_pipeline.embedding.base import Embedder
    from kb_pipeline.embedding.model_files import ModelFiles
    from kb_pipeline.ledger.leases import Lease
    from kb_pipeline.ledger.ledger import Ledger

_UPLOAD_WAIT = 60.0
"""Seconds that an upload waits for another one, or for garbage collection."""
_NUMERIC_CLASSES = {"auto": "auto", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class UnknownConnection(KeyError):
    """No connection of this name is in kb.yaml."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Workspace:
    """One kb.yaml with its storage. Cheap to build; everything is opened on first use."""

    settings: Settings

    @cached_property
    def storage(self) -> Storage:
        """Tables, index, releases. Raises ConfigError when a variable with a secret of the bucket isn't set."""
        root, s3 = self.settings.local_root, self.settings.s3
        files = Folder(root, root / STAGING) if s3 is None else Bucket(s3)
        return Storage(files, lambda: self.ledger, root)

    @cached_property
    def ledger(self) -> Ledger:
        """Who writes what, how connections fare. Raises LeaseHeld while an earlier version is at work here, ConfigError."""
        from kb_pipeline.ledger.ledger import Ledger
        from kb_pipeline.ledger.takeover import take_over
        from kb_pipeline.storage.takeover import take_over as take_over_tables

        where, root = self.settings.ledger_location(), self.settings.local_root
        ledger = Ledger(where) if isinstance(where, str) else Ledger.of_file(where or root / LEDGER)
        take_over(root / "state.sqlite", ledger)
        take_over_tables(self.storage, ledger)
        return ledger

    def record(self, partition: Partition, stage: str, error: tuple[str, str] | None) -> None:
        """Record in the ledger how a stage of a partition ended; ``error`` is (class, message)."""
        type_, connection = partition.type, partition.connection
        keys = [each.key for each in layout(type_, connection, partition.shards)]
        self.ledger.outcomes.record(
            type_, connection, partition.key, stage, error, partitions=keys, last=stage == stages.last().name
        )

    @cached_property
    def model(self) -> ModelFiles:
        """The embedding model's files; not loaded."""
        from kb_pipeline.embedding.model_files import resolve

        model = self.settings.model
        return resolve(self.settings.model_location, base=self.settings.base, revision=model.revision, sha256=model.sha256)

    @cached_property
    def embedder(self) -> Embedder:
        """The embedding model. Cheap to ask for: its weights load at the first text."""
        from kb_pipeline.embedding.sentence_transformer import SentenceTransformerEmbedder

        model, budget = self.settings.model, self.settings.limits.batch_tokens
        return SentenceTransformerEmbedder(
            self.model, device=model.device, dtype=_NUMERIC_CLASSES[model.dtype], batch_tokens=budget
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer."""
        from kb_pipeline.chunking.tokenizer import Tokenizer

        return Tokenizer(self.model.tokenizer_path.parent)

    @property
    def chunkers(self) -> Chunkers:
        """How documents are cut; never longer than the model reads."""
        chunking, most = self.settings.chunking, self.model.max_tokens
        try:
            general = ChunkerSettings(min(chunking.tokens or most, most), chunking.overlap, chunking.respect_headings)
            overrides = {
                media_type: Override(
                    each.chunker,
                    None if each.tokens is None else min(each.tokens, most),
                    each.overlap,
                    each.respect_headings,
                )
                for media_type, each in chunking.by_media_type.items()
            }
            return Chunkers(general, overrides)
        except ValueError as error:  # an overlap that only the model's own maximum makes too large
            raise ConfigError(
                [Problem(str(error), key="chunking.by_media_type" if chunking.by_media_type else "chunking")],
                self.settings.path,
            ) from None

    @property
    def limits(self) -> Limits:
        """Bounds of fetching and parsing."""
        limits = self.settings.limits
        return Limits(
            limits.max_item_bytes,
            limits.inflight_bytes,
            limits.max_concurrent_files,
            limits.parse_seconds,
            limits.parse_memory_mib,
        )

    @property
    def connections(self) -> Sequence[SourceConfig]:
        """Every connection of kb.yaml, and the upload inbox."""
        return self.settings.sources

    def connection(self, name: str) -> SourceConfig:
        """A connection by name. Raises UnknownConnection naming the known ones."""
        for config in self.connections:
            if config.name == name:
                return config
        known = ", ".join(sorted(config.name for config in self.connections))
        raise UnknownConnection(f"no connection {name!r} in {self.settings.path}; known: {known}")

    def source(self, name: str) -> Source:
        """The source of a connection."""
        config, context = self.connection(name), self.context
        return guarded(build(config, context), config, context)

    def fingerprint(self, connection: str) -> str:
        """Digest of a connection's settings. A secret counts by the name of its variable."""
        return identity.digest("connection", self.connection(connection).model_dump(mode="json"))

    @property
    def context(self) -> SourceContext:
        """What sources are built with."""

        def alone(name: str) -> Lease:
            return self.ledger.leases.acquire(name, "an upload", wait=_UPLOAD_WAIT)

        files = self.storage.files
        return replace(self.settings.context, remote=None if isinstance(files, Folder) else files, alone=alone)

    def partitions(self, connection: str) -> tuple[Partition, ...]:
        """The partitions of a connection by kb.yaml."""
        config = self.connection(connection)
        return layout(config.type, config.name, config.shards)

    def types(self) -> list[str]:
        """Source types that have a connection in kb.yaml, or tables of one that isn't retired yet."""
        configured = {config.type for config in self.connections}
        return sorted(configured | {each.type for each in self.storage.partitions(stages.first().name)})
