"""The settings of a project: every key of kb.yaml, typed and frozen.

What belongs here: keys, defaults, bounds, and what follows from them alone. What doesn't: reading the file and wording
errors (load.py), settings of a source type (its class has them).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, quote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from kb_pipeline.chunking.settings import MIN_TOKENS, ChunkerName
from kb_pipeline.settings.cron import check_cron
from kb_pipeline.settings.profiles import PROFILES, Profile, ProfileName
from kb_pipeline.settings.secrets import SecretEnv
from kb_pipeline.sources.base import SourceConfig, SourceContext
from kb_pipeline.sources.upload import UploadConfig
from kb_pipeline.storage.bucket import S3Location

INBOX = "inbox"
"""Name of the upload connection that always exists."""

_MEDIA_TYPE = re.compile(r"[a-z]+/(?:[a-z0-9][a-z0-9.+-]*|\*)")
_POSTGRES = ("postgresql", "postgresql+psycopg2")
_OWNER = re.compile(r"team:\S+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")
"""What Dagster takes for an owner."""
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_S3_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[\w!()*'./-]*))?", re.I | re.A)
LOCAL_FOLDER = ".kb"
"""Beside kb.yaml: what stays on this machine when the storage is a bucket."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Storage(_Section):
    """Where everything that the pipeline keeps lies. All keys but ``url`` are for S3, and have its usual defaults."""

    url: str = Field(default="./.kb", min_length=1, description="A folder, relative to kb.yaml, or s3://BUCKET/PREFIX.")
    endpoint_url: str | None = Field(default=None, description="Address of a server that speaks S3; null: Amazon's.")
    region: str | None = Field(default=None, min_length=1, description="Region of the bucket.")
    access_key: SecretEnv | None = Field(default=None, description="{env: NAME} of the access key's id.")
    secret_key: SecretEnv | None = Field(default=None, description="{env: NAME} of the secret access key.")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if match := _SCHEME.match(url):
            scheme = match[1].lower()
            if scheme in ("gs", "az"):
                raise ValueError(f"storage at {scheme}:// is not available in this version: expected a folder or s3://")
            if scheme != "s3":
                raise ValueError(f"expected a folder or s3://BUCKET/PREFIX, not a {scheme}:// address")
            s3 = _S3_URL.fullmatch(url)
            if s3 is None or any(part in ("", ".", "..") for part in (s3["prefix"] or "x").rstrip("/").split("/")):
                raise ValueError("expected s3://BUCKET or s3://BUCKET/PREFIX, of plain letters and digits")
        return url

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint_url(cls, endpoint_url: str | None) -> str | None:
        if endpoint_url is not None and not re.fullmatch(r"https?://[^/\s@]+/?", endpoint_url, re.I):
            raise ValueError("expected an address like https://s3.example.org:9000")
        return endpoint_url

    @model_validator(mode="after")
    def _check_together(self) -> Storage:
        given = [name for name in type(self).model_fields if name != "url" and getattr(self, name) is not None]
        if given and not self.remote:
            raise ValueError(f"{given[0]} is for s3:// only, and url is a folder")
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("expected access_key and secret_key together, or neither")
        return self

    @property
    def remote(self) -> bool:
        """Whether it lies in a bucket."""
        return _SCHEME.match(self.url) is not None


class LedgerSettings(_Section):
    """The database that all processes of this knowledge base share."""

    url: str | None = Field(
        default=None,
        min_length=1,
        description="sqlite:///PATH or postgresql://USER@HOST/NAME; null: in the storage folder.",
    )
    password: SecretEnv | None = Field(default=None, description="{env: NAME}, for Postgres.")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return url
        expected = "expected sqlite:///PATH or postgresql://USER@HOST/NAME"
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise ValueError(expected) from None
        if parts.password is not None or "password" in parse_qs(parts.query):
            raise ValueError("a password never stands in the file itself: expected ledger.password: {env: NAME}")
        if parts.scheme == "sqlite":
            if parts.netloc or len(parts.path) < 2:
                raise ValueError("expected sqlite:///PATH with three slashes before a path relative to kb.yaml")
        elif parts.scheme not in _POSTGRES or len(parts.path) < 2:
            raise ValueError(expected)
        return url

    @field_validator("password")
    @classmethod
    def _check_password(cls, password: SecretEnv | None, info: ValidationInfo) -> SecretEnv | None:
        url = info.data.get("url", "")  # absent when it isn't valid itself
        if password is not None and (url is None or (url and (url.startswith("sqlite") or not urlsplit(url).username))):
            # Not a ValueError, whose words nobody sees at a place where a secret may stand.
            raise PydanticCustomError("ledger_password", "belongs to a url like postgresql://USER@HOST/NAME, with a user")
        return password


class ModelSettings(_Section):
    """The embedding model."""

    name: str = Field(
        default="all-MiniLM-L6-v2", min_length=1, description="A sentence-transformers name, or a folder with a model."
    )
    revision: str | None = Field(default=None, min_length=1, description="Revision to load, where a hub has several.")
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Hash of the weights (64 hexadecimal digits)."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="Where the model runs.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(default="auto", description="Numeric type.")

    @property
    def pinned(self) -> str:
        """The model as the settings name it: with revision and hash of its weights where they are given."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.name}{revision}" + (f" sha256:{self.sha256}" if self.sha256 else "")


class MediaTypeChunking(_Section):
    """How documents of one media type are cut, where that differs."""

    chunker: ChunkerName | None = Field(default=None, description="What the text is taken for.")
    tokens: int | None = Field(default=None, ge=MIN_TOKENS, description="Tokens per chunk.")
    overlap: int | None = Field(default=None, ge=0, description="Tokens that neighbouring chunks share.")
    respect_headings: bool | None = Field(default=None, description="Never put text of two sections into one chunk.")


class Chunking(_Section):
    """How documents are cut."""

    tokens: int | None = Field(default=None, ge=MIN_TOKENS, description="Tokens per chunk; null: the model's own maximum.")
    overlap: int = Field(default=0, ge=0, description="Tokens that neighbouring chunks share.")
    respect_headings: bool = Field(default=True, description="Never put text of two sections into one chunk.")
    by_media_type: Mapping[str, MediaTypeChunking] = Field(
        default={}, description="What differs for a media type like text/csv, or for a family like text/*."
    )

    @field_validator("overlap")
    @classmethod
    def _check_overlap(cls, overlap: int, info: ValidationInfo) -> int:
        tokens = info.data.get("tokens")
        if tokens is not None and overlap > tokens // 2:
            raise ValueError(f"expected at most half of chunking.tokens ({tokens})")
        return overlap

    @field_validator("by_media_type")
    @classmethod
    def _check_media_types(
        cls, by_media_type: Mapping[str, MediaTypeChunking], info: ValidationInfo
    ) -> Mapping[str, MediaTypeChunking]:
        for name, each in by_media_type.items():
            if not _MEDIA_TYPE.fullmatch(name):
                raise ValueError(f'expected media types like text/csv or text/*, not "{name}"')
            tokens = each.tokens or info.data.get("tokens")
            overlap = info.data.get("overlap", 0) if each.overlap is None else each.overlap
            if tokens is not None and overlap > tokens // 2:
                raise ValueError(f"{name}: expected an overlap of at most half of tokens ({tokens}), not {overlap}")
        return by_media_type


class Sensors(_Section):
    """How change at the sources is noticed."""

    interval_seconds: int = Field(default=10, ge=5, description="Seconds between two looks at the sources.")
    debounce_seconds: int = Field(default=5, ge=0, description="Seconds of quiet before the corpus is synced.")


class Schedule(_Section):
    """When everything runs, whatever the sensors saw."""

    cron: str = Field(default="0 3 * * *", description="Five-field cron expression.")
    timezone: str = Field(default="UTC", description="IANA time zone of the cron expression.")

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, cron: str) -> str:
        check_cron(cron)
        return cron

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, timezone: str) -> str:
        if timezone != "UTC":  # known without a time zone database
            try:
                ZoneInfo(timezone)
            except (OSError, KeyError, ValueError):  # what zoneinfo raises for a folder, an unknown and a strange name
                raise ValueError("expected an IANA time zone like Europe/Berlin") from None
        return timezone


class Freshness(_Section):
    """When the knowledge base counts as out of date."""

    hours: float = Field(
        default=36, ge=1, allow_inf_nan=False, description="Hours without a successful release run, changed or not."
    )

    @property
    def warn_hours(self) -> float:
        """Hours after which it nearly does."""
        return self.hours * 2 / 3

    @property
    def confirm_hours(self) -> float:
        """Hours after which a release run is asked for though nothing changed."""
        return self.hours / 3


class History(_Section):
    """How much of the run history stays."""

    keep_runs: int = Field(default=3, ge=1, description="Finished runs of each job and partition that stay.")
    keep_materializations: int = Field(
        default=20, ge=1, description="Materializations of each asset partition whose numbers stay, also of dropped runs."
    )


class Limits(_Section):
    """Overrides of the profile's limits; null takes the profile's."""

    max_item_bytes: int | None = Field(default=None, ge=1, description="Bytes; a larger item is set aside.")
    parse_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Seconds per item.")
    parse_memory_mib: int | None = Field(default=None, ge=64, description="MiB that parsing one item may take.")
    max_concurrent_sources: int | None = Field(default=None, ge=1, description="Connections worked on at a time.")
    max_concurrent_files: int | None = Field(default=None, ge=1, description="Items of one connection in flight at a time.")


class Keys(_Section):
    """The top-level keys of kb.yaml."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    storage: Storage = Field(default_factory=Storage, description="Where everything is kept.")
    ledger: LedgerSettings = Field(
        default_factory=LedgerSettings, description="The database that all processes of this knowledge base share."
    )
    profile: ProfileName = Field(default="balanced", description="How much of the machine a run may take.")
    model: ModelSettings = Field(default_factory=ModelSettings, description="The embedding model.")
    chunking: Chunking = Field(default_factory=Chunking, description="How documents are cut.")
    sources: tuple[SerializeAsAny[SourceConfig], ...] = Field(
        default=(), validate_default=True, description="The connections."
    )
    pools: Mapping[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, validate_default=True, description="How many steps of a kind may run at a time."
    )
    executor: Literal["in_process", "multiprocess"] = Field(
        default="in_process", description="How the steps of a run are executed."
    )
    sensors: Sensors = Field(default_factory=Sensors, description="How change is noticed.")
    schedule: Schedule = Field(default_factory=Schedule, description="When everything runs.")
    freshness: Freshness = Field(default_factory=Freshness, description="When the knowledge base counts as out of date.")
    history: History = Field(default_factory=History, description="How much of the run history stays.")
    owners: tuple[str, ...] = Field(default=(), description="Who answers for the assets: team:NAME or an e-mail address.")
    limit_overrides: Limits = Field(default_factory=Limits, alias="limits", description="Overrides of the profile.")

    @field_validator("sources")
    @classmethod
    def _check_sources(cls, sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        by_name: dict[str, SourceConfig] = {}
        for source in sources:
            if source.name in by_name:
                raise ValueError(f'two connections have the name "{source.name}"')
            if source.name == INBOX and source.type != "upload":
                raise ValueError(f'the name "{INBOX}" belongs to an upload connection')
            by_name[source.name] = source
        return sources if INBOX in by_name else (*sources, UploadConfig(name=INBOX, type="upload"))

    @field_validator("owners")
    @classmethod
    def _check_owners(cls, owners: tuple[str, ...]) -> tuple[str, ...]:
        for owner in owners:
            if not _OWNER.fullmatch(owner):
                raise ValueError(f'expected team:NAME or an e-mail address, not "{owner}"')
        return owners

    @field_validator("pools")
    @classmethod
    def _check_pools(cls, pools: Mapping[str, int]) -> Mapping[str, int]:
        for name in pools:
            if not re.fullmatch(r"\S+", name):
                raise ValueError(f'expected pool names without spaces, not "{name}"')
        return {"gpu": 1, **pools}


class Settings(Keys):
    """A project's settings. ``path`` is kb.yaml itself, ``base`` its folder, which resolves relative paths."""

    base: Path
    path: Path

    @property
    def local_root(self) -> Path:
        """The folder for what stays on this machine, absolute: the storage itself unless that is remote. May not exist."""
        return self.resolve(LOCAL_FOLDER if self.storage.remote else self.storage.url)

    @property
    def s3(self) -> S3Location | None:
        """Where a remote storage lies, None for a folder. Raises ConfigError when a variable with a secret isn't set."""
        storage = self.storage
        match = _S3_URL.fullmatch(storage.url)
        if match is None:
            return None
        return S3Location(
            match["bucket"],
            (match["prefix"] or "").strip("/"),
            storage.endpoint_url.rstrip("/") if storage.endpoint_url else None,
            storage.region,
            storage.access_key.resolve() if storage.access_key else None,
            storage.secret_key.resolve() if storage.secret_key else None,
        )

    def ledger_location(self) -> Path | str | None:
        """Path of the ledger's SQLite file, or url of its Postgres with the password; None: in the storage folder.

        Raises ConfigError when the variable with the password isn't set.
        """
        url, password = self.ledger.url, self.ledger.password
        if url is None or url.startswith("sqlite:///"):
            return None if url is None else self.resolve(url.removeprefix("sqlite:///"))
        if password is None:
            return url
        user, _, rest = url.partition("@")
        return f"{user}:{quote(password.resolve(), safe='')}@{rest}"

    @property
    def context(self) -> SourceContext:
        """What sources are built with."""
        return SourceContext(base=self.base, storage=self.local_root)

    @property
    def model_location(self) -> str:
        """The model's folder, absolute, where ``model.name`` is one; else the name as it is."""
        folder = self.resolve(self.model.name)
        return str(folder) if folder.is_dir() or self.model.name.startswith((".", "/", "~")) else self.model.name

    @property
    def limits(self) -> Profile:
        """The profile's bounds with the overrides of kb.yaml: the ones that hold."""
        return PROFILES[self.profile].model_copy(update=self.limit_overrides.model_dump(exclude_none=True))

    def resolve(self, path: str) -> Path:
        """A path of kb.yaml as an absolute one."""
        return Path(os.path.abspath(self.base / os.path.expanduser(path)))

    def source(self, name: str) -> SourceConfig:
        """The connection of this name. Raises KeyError."""
        for source in self.sources:
            if source.name == name:
                return source
        raise KeyError(name)

    def with_limits(self, **overrides: int) -> Settings:
        """The same settings with some of the limits replaced, by name."""
        return self.model_copy(update={"limit_overrides": self.limit_overrides.model_copy(update=overrides)})

    def with_profile(self, name: str) -> Settings:
        """The same settings under another profile. Raises ValueError for an unknown one."""
        if name not in PROFILES:
            raise ValueError(f'There is no profile "{name}": expected one of {", ".join(PROFILES)}.')
        update: dict[str, Any] = {"profile": name}
        return self.model_copy(update=update)
