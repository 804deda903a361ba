"""What has been called, how often and how long: immutable views of the core's counters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._core import Library

__all__ = ["FunctionStats", "Snapshot", "take_snapshot"]


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """Counters of one function, or of all functions of a backend.

    Attributes
    ----------
    backend, function : str
        Whose they are; ``function`` is empty for a backend's sum.
    calls, errors : int
        Calls made, and those of them that were refused or failed.
    total_ns, min_ns, max_ns : float
        Time inside native code of the calls that succeeded, in nanoseconds.
    """

    backend: str
    function: str
    calls: int
    errors: int
    total_ns: float
    min_ns: float
    max_ns: float

    @property
    def mean_ns(self) -> float:
        """Mean time of a call that succeeded, in nanoseconds; 0 before the first."""
        succeeded = self.calls - self.errors
        return self.total_ns / succeeded if succeeded else 0.0

    @property
    def error_rate(self) -> float:
        """Share of calls that failed, 0 to 1."""
        return self.errors / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """All counters at one instant.

    Attributes
    ----------
    time : float
        When it was taken, in seconds since the epoch.
    functions : tuple of FunctionStats
        Every function of every loaded backend, called or not.
    """

    functions: tuple[FunctionStats, ...]
    time: float = field(default_factory=time.time)

    def __iter__(self) -> Iterator[FunctionStats]:
        return iter(self.functions)

    def function(self, backend: str, name: str) -> FunctionStats:
        """Return one function's counters; KeyError if there is no such function."""
        for stats in self.functions:
            if (stats.backend, stats.function) == (backend, name):
                return stats
        raise KeyError(f"{backend}.{name}")

    def backend(self, name: str) -> FunctionStats:
        """Return the sum over a backend's functions; zeros for one that isn't loaded."""
        mine = [it for it in self.functions if it.backend == name]
        called = [it.min_ns for it in mine if it.calls > it.errors]
        return FunctionStats(
            name,
            "",
            sum(it.calls for it in mine),
            sum(it.errors for it in mine),
            sum(it.total_ns for it in mine),
            min(called, default=0.0),
            max((it.max_ns for it in mine), default=0.0),
        )

    def __repr__(self) -> str:
        called = [it for it in self.functions if it.calls]
        if not called:
            return "no calls yet"
        lines = [f"{'function':<24}{'calls':>9}{'mean':>11}{'min':>11}{'max':>11}{'errors':>8}"]
        lines += [
            f"{f'{it.backend}.{it.function}':<24}{it.calls:>9}{format_ns(it.mean_ns):>11}{format_ns(it.min_ns):>11}"
            f"{format_ns(it.max_ns):>11}{it.errors:>8}"
            for it in called
        ]
        return "\n".join(lines)


def take_snapshot(libraries: Iterable[Library]) -> Snapshot:
    """Read every counter of these libraries."""
    return Snapshot(
        tuple(
            FunctionStats(library.backend, name, *nif.counters())
            for library in libraries
            for name, nif in library.functions.items()
        )
    )


def format_ns(ns: float) -> str:
    """Return a time as people read it: ``73 ns``, ``4.2 us``, ``1.25 s``."""
    for unit, size in (("ns", 1.0), ("us", 1e3), ("ms", 1e6)):
        if ns < 999.5 * size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"
