"""How a memory limit is changed: never below what is in use, and with swap of the same size beside it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The engine cannot lift a memory limit, but takes one that never binds.
UNLIMITED_BYTES = 1 << 62
# What a limit that is lowered leaves free at least, whatever was asked for. Between the look at what is in use and the
# write lie some 20 ms, and 150 in 1 of 100 cases: time to touch as much. Version 2 of control groups kills for a limit
# below what is in use, version 1 refuses that and kills a moment later.
MARGIN_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """What an engine's record holds a container to, in its own terms: bytes, of memory, and of memory and swap.

    No memory limit is 0; no limit of both −1, and 0 where there is none of memory either, or swap is not counted.
    """

    memory: int
    with_swap: int

    @classmethod
    def of(cls, host_config: Mapping[str, Any]) -> "Held":
        """As inspection shows it."""
        return cls(host_config["Memory"], host_config["MemorySwap"])

    @property
    def limit_bytes(self) -> int:
        """The limit in force; 0 for none."""
        return self.memory if self.memory < UNLIMITED_BYTES else 0

    def lowered_by(self, limit_bytes: int) -> bool:
        """Whether to hold the container to so much, 0 for no limit, takes memory from it."""
        return 0 < limit_bytes < (self.limit_bytes or UNLIMITED_BYTES)

    def update(self, limit_bytes: int) -> dict[str, int]:
        """The memory part of an update, both at once: memory may never exceed the two together.

        Swap keeps its size, or has none: where it is not counted the engine takes −1 as it takes anything.
        """
        memory = limit_bytes or UNLIMITED_BYTES
        swap = self.with_swap - self.memory
        unlimited = self.with_swap <= 0 or swap < 0
        return {"mem_limit": memory, "memswap_limit": -1 if unlimited else memory + swap}


def in_use(memory_stats: Mapping[str, Any]) -> int:
    """Bytes that a container uses, as its statistics say: without the page cache that the kernel gives back first."""
    cache = memory_stats.get("stats", {})
    # By its name in version 1 or 2.
    reclaimable = cache.get("total_inactive_file", cache.get("inactive_file", 0))
    return max(0, int(memory_stats.get("usage", 0)) - int(reclaimable))


def floored(limit_bytes: int, used_bytes: int) -> int:
    """As low a limit as what is in use allows."""
    return max(limit_bytes, used_bytes + MARGIN_BYTES)
