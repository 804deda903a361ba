"""Size classes of a Lab's shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .arguments import expect, whole

__all__ = ["LARGEST", "POOLS", "Pool", "check"]

#: Bytes that a file, or a pool, can have.
LARGEST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Pool:
    """One size class of the arena.

    Attributes
    ----------
    name : str
        ``"small"``.
    block_bytes : int
        The largest block it serves.
    blocks : int
        How many of that size have room before it grows; more of them if they are smaller.
    limit_bytes : int
        What it may grow to, in bytes. Address space is reserved in steps of ``block_bytes * blocks``, memory is taken
        when it is touched.
    """

    name: str
    block_bytes: int
    blocks: int
    limit_bytes: int


#: small (<= 4 KiB, 1000 blocks), medium (<= 1 MiB, 100), large (<= 64 MiB and a frame's header, 10; bigger ones by
#: themselves).
POOLS: Final = (
    Pool("small", 4 << 10, 1000, 1 << 30),
    Pool("medium", 1 << 20, 100, 16 << 30),
    Pool("large", (64 << 20) + 4096, 10, 1 << 40),
)


def check(pools: tuple[Pool, ...]) -> None:
    """Refuse pools that can't be: the core takes them as they are."""
    if not pools:
        raise ValueError("pools: expected one or more")
    for pool in pools:
        expect("pools", pool, Pool, "nif_lab.memory.Pool in a list")
        expect("pools", pool.name, str, "a name as text")
        for size in (pool.block_bytes, pool.blocks, pool.limit_bytes):
            whole("pools", size, None, LARGEST)
        if pool.block_bytes < 1 or pool.blocks < 1 or pool.limit_bytes < pool.block_bytes:
            raise ValueError(f"pool '{pool.name}': expected room for one block or more, and a limit above that")
    sizes = [pool.block_bytes for pool in pools]
    if sizes != sorted(set(sizes)):
        raise ValueError("pools: expected each to serve larger blocks than the one before")
    if len({pool.name for pool in pools}) != len(pools):
        raise ValueError("pools: expected different names")
