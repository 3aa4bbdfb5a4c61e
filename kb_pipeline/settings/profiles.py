"""Profiles: how much of the machine a run may take, as one set of numbers per name.

What belongs here: the numbers and their units. What doesn't: measuring the machine, adapting while running.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ProfileName = Literal["low-memory", "balanced", "high-throughput"]

_MIB = 1 << 20


class Profile(BaseModel):
    """The bounds of a run. Memory is bounded by these numbers, never by the size of the corpus."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_tokens: int = Field(description="Tokens per embedding batch, padding included.")
    max_item_bytes: int = Field(description="Bytes; a larger item is set aside as too_large.")
    parse_seconds: float = Field(description="Seconds of wall-clock time; a parser that takes longer is stopped.")
    parse_memory_mib: int = Field(description="MiB of memory that parsing one item may take.")
    max_concurrent_sources: int = Field(description="Connections worked on at a time.")
    max_concurrent_files: int = Field(description="Items of one connection in flight at a time; parser processes at most.")
    inflight_bytes: int = Field(description="Bytes of items in flight at a time, over all of them.")


PROFILES: dict[ProfileName, Profile] = {
    "low-memory": Profile(
        batch_tokens=2048,
        max_item_bytes=16 * _MIB,
        parse_seconds=60,
        parse_memory_mib=512,
        max_concurrent_sources=1,
        max_concurrent_files=2,
        inflight_bytes=64 * _MIB,
    ),
    "balanced": Profile(
        batch_tokens=4096,
        max_item_bytes=64 * _MIB,
        parse_seconds=60,
        parse_memory_mib=1024,
        max_concurrent_sources=2,
        max_concurrent_files=8,
        inflight_bytes=256 * _MIB,
    ),
    "high-throughput": Profile(
        batch_tokens=8192,
        max_item_bytes=256 * _MIB,
        parse_seconds=60,
        parse_memory_mib=2048,
        max_concurrent_sources=4,
        max_concurrent_files=32,
        inflight_bytes=1024 * _MIB,
    ),
}
