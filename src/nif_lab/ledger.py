"""The copy ledger, ``lab.ledger``: every copy of a call or a transfer, with its bytes, its place and its reason."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .text import table_html

if TYPE_CHECKING:
    from ._core import Memory

__all__ = ["Copy", "Ledger", "Totals"]


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy.

    Attributes
    ----------
    bytes : int
        How many were copied.
    place : str
        Where: ``"zig.dot"``, ``"transfer"``.
    reason : str
        Why: ``"argument not in a pool"``.
    """

    bytes: int
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.bytes:,} bytes in {self.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Totals:
    """What all transfers of a Lab copied.

    Attributes
    ----------
    transfers, transfers_without_copy : int
        How many there were, and how many of them copied nothing.
    bytes, bytes_without_copy : int
        Of their values, and of the values that weren't copied.
    """

    transfers: int = 0
    transfers_without_copy: int = 0
    bytes: int = 0
    bytes_without_copy: int = 0

    @property
    def share_of_transfers(self) -> float:
        """Share of the transfers that copied nothing, 0 to 1; 0 before the first."""
        return self.transfers_without_copy / self.transfers if self.transfers else 0.0

    @property
    def share_of_bytes(self) -> float:
        """Share of the transferred bytes that weren't copied, 0 to 1; 0 before the first."""
        return self.bytes_without_copy / self.bytes if self.bytes else 0.0


class Ledger:
    """A Lab's copies: one by one (the last 1,000), by reason, and as shares of all transfers."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._totals = Totals()
        self._lock = threading.Lock()

    def copies(self, last: int = 1000) -> tuple[Copy, ...]:
        """Return the last copies, oldest first."""
        return tuple(Copy(*it) for it in self._memory.copies_since(0, False)[-last:]) if last > 0 else ()

    def by_reason(self) -> dict[str, tuple[int, int]]:
        """Return how many copies and bytes each reason cost."""
        return {reason: (copies, size) for reason, copies, size in self._memory.copies()}

    @property
    def totals(self) -> Totals:
        """Of all transfers so far."""
        return self._totals

    def note(self, size: int, place: str, reason: str) -> None:
        """Enter a copy that was made."""
        self._memory.note_copy(size, place, reason)

    def mark(self) -> int:
        """Return where the ledger is, for `since`."""
        return self._memory.copy_count

    def since(self, mark: int) -> tuple[Copy, ...]:
        """Return the copies that this thread has made since the mark."""
        return tuple(Copy(*it) for it in self._memory.copies_since(mark, True))

    def add_transfer(self, size: int, copied: bool) -> None:
        """Count a transfer."""
        with self._lock:
            it = self._totals
            whole = 0 if copied else 1
            self._totals = Totals(
                it.transfers + 1, it.transfers_without_copy + whole, it.bytes + size,
                it.bytes_without_copy + whole * size,
            )  # fmt: skip

    def __repr__(self) -> str:
        it = self.totals
        head = (
            f"{it.transfers} transfers, {it.share_of_transfers:.0%} without a copy; {it.bytes:,} bytes, "
            f"{it.share_of_bytes:.0%} without a copy"
        )
        lines = [f"  {copies:>8,} copies {size:>16,} bytes  {why}" for why, (copies, size) in self.by_reason().items()]
        return "\n".join((head, *lines))

    def _repr_html_(self) -> str:
        rows = [[why, f"{copies:,}", f"{size:,}"] for why, (copies, size) in self.by_reason().items()]
        return table_html(["reason", "copies", "bytes"], rows, caption=repr(self).split("\n", 1)[0])
