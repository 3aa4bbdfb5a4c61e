"""Partitions: a connection, or a shard of it. Keys, parsing of keys, and which shard an item belongs to."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_KEY = re.compile(r"(?P<connection>[a-z0-9][a-z0-9_-]{0,62})(?:\.(?P<shard>\d{3})-of-(?P<shards>\d{3}))?")


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """One partition of a source type's chain. ``shard`` counts from 1 to ``shards``."""

    type: str
    connection: str
    shard: int = 1
    shards: int = 1

    @property
    def key(self) -> str:
        """The Dagster partition key: ``handbook`` or ``handbook.003-of-008``."""
        if self.shards == 1:
            return self.connection
        return f"{self.connection}.{self.shard:03d}-of-{self.shards:03d}"

    def holds(self, item_key: str) -> bool:
        """Whether the item belongs to this shard (stable hash of its key)."""
        return self.shards == 1 or _shard_of(item_key, self.shards) == self.shard


def parse_key(type_: str, key: str) -> Partition:
    """The partition with this key. Raises ValueError when it isn't one."""
    match = _KEY.fullmatch(key)
    if match is not None:
        found = Partition(type_, match["connection"], int(match["shard"] or 1), int(match["shards"] or 1))
        if found.key == key and 1 <= found.shard <= found.shards:
            return found
    raise ValueError(f"{key!r} is not a partition key; expected CONNECTION or CONNECTION.003-of-008")


def layout(type_: str, connection: str, shards: int) -> tuple[Partition, ...]:
    """All partitions of a connection with this number of shards."""
    return tuple(Partition(type_, connection, shard, shards) for shard in range(1, shards + 1))


def _shard_of(item_key: str, shards: int) -> int:
    digest = hashlib.sha256(item_key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % shards + 1
