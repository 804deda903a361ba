"""Handing an array from one language to another, and proving what happened on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from . import _core
from .text import format_ns, table_html

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike

    from .lab import LoadedBackend

__all__ = ["Transfer", "TransferMatrix", "transfer", "transfer_matrix"]


@dataclass(frozen=True, slots=True, repr=False)
class Transfer:
    """One value's way from a source language to a target language.

    Attributes
    ----------
    source, target : str
        The two backends.
    array : numpy.ndarray
        The value where it lies now: in shared memory.
    written : bool
        Whether the source language had to write it there first.
    write_ns : float
        Time of that writing, in nanoseconds; 0 when the value lay there already.
    ns : float
        Time of the transfer itself: the target language finds the value and reads all of it, in nanoseconds. Julia
        compiles with its first value of a new element type and number of axes, and that counts too.
    copied : bool
        Whether the target language saw it at another address than the source language left it at.
    source_checksum, target_checksum : int
        XXH3-64 of the bytes, each computed by its own language.
    """

    source: str
    target: str
    array: np.ndarray
    written: bool
    write_ns: float
    ns: float
    copied: bool
    source_checksum: int
    target_checksum: int

    @property
    def bytes(self) -> int:
        """Size of the value in bytes."""
        return self.array.nbytes

    @property
    def gb_per_s(self) -> float:
        """Throughput of the transfer in 10^9 bytes per second."""
        return self.bytes / self.ns if self.ns else 0.0

    @property
    def verified(self) -> bool:
        """Whether both languages computed the same checksum."""
        return self.source_checksum == self.target_checksum

    def __repr__(self) -> str:
        how = "copied" if self.copied else "without a copy"
        check = "verified" if self.verified else "NOT VERIFIED"
        return (
            f"{self.source} -> {self.target}: {self.bytes:,} bytes in {format_ns(self.ns)} "
            f"({self.gb_per_s:.1f} GB/s), {how}, {check} (XXH3 {self.target_checksum:016x})"
        )


@dataclass(frozen=True, slots=True, repr=False)
class TransferMatrix:
    """The transfers between all pairs of different languages, in order of source and target."""

    transfers: tuple[Transfer, ...]

    def __iter__(self) -> Iterator[Transfer]:
        return iter(self.transfers)

    def __len__(self) -> int:
        return len(self.transfers)

    def __getitem__(self, pair: tuple[str, str]) -> Transfer:
        for it in self.transfers:
            if (it.source, it.target) == pair:
                return it
        raise KeyError(pair)

    @property
    def zero_copy(self) -> float:
        """Share of the transfers that copied nothing, 0 to 1."""
        return sum(not it.copied for it in self.transfers) / len(self.transfers) if self.transfers else 0.0

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that take part."""
        return tuple(dict.fromkeys(it.source for it in self.transfers))

    def __repr__(self) -> str:
        return "\n".join(str(it) for it in self.transfers) or "no two backends are loaded"

    def _repr_html_(self) -> str:
        rows = []
        for source in self.languages:
            cells = [f"<b>{source}</b>"]
            for target in self.languages:
                cells.append("–" if source == target else self._cell(self[source, target]))
            rows.append(cells)
        return table_html(
            ["from \\ to", *self.languages], rows, caption="time, throughput, copies, both checksums equal"
        )

    @staticmethod
    def _cell(it: Transfer) -> str:
        how = "copied" if it.copied else "0 copies"
        return f"{format_ns(it.ns)}, {it.gb_per_s:.1f} GB/s<br>{how} {'✓' if it.verified else '✗ differs'}"


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def transfer(source: LoadedBackend, target: LoadedBackend, array: ArrayLike) -> Transfer:
    """Transfer an array from one backend to another; `Lab.transfer` says how."""
    value = np.asarray(array)
    start = time.perf_counter_ns()
    shared = value.flags.c_contiguous and _core.in_shared_memory(_address(value), value.nbytes)
    block = value if shared else source.write(value if value.flags.c_contiguous else value.copy())
    written = time.perf_counter_ns()
    source_checksum = source.checksum(block)
    handed_over = time.perf_counter_ns()
    seen_at = target.address(block)
    target_checksum = target.checksum(block)
    done = time.perf_counter_ns()
    return Transfer(
        source=source.name,
        target=target.name,
        array=block,
        written=not shared,
        write_ns=0.0 if shared else float(written - start),
        ns=float(done - handed_over),
        copied=seen_at != _address(block),
        source_checksum=source_checksum,
        target_checksum=target_checksum,
    )


def transfer_matrix(backends: Sequence[LoadedBackend], array: ArrayLike) -> TransferMatrix:
    """Transfer an array between every ordered pair of different backends."""
    return TransferMatrix(tuple(transfer(source, target, array) for source, target in permutations(backends, 2)))
