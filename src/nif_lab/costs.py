"""What each notebook cell cost: the functions that it called, how often, and how long they took.

Counters are read when a cell begins and when it ends; the difference is the cell's. No call takes longer for it.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from .text import format_ns, table_html

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .segment import Segment

__all__ = ["CellCost", "CellCosts", "CellsReport", "FunctionCost"]

#: So many cells are kept, the last ones.
KEPT: Final = 1000
#: So many functions of a cell stand in the table.
SHOWN: Final = 4

#: Calls, errors, timed calls and their nanoseconds, by backend and function.
_Counters = dict[tuple[str, str], tuple[int, int, int, float]]


@dataclass(frozen=True, slots=True)
class FunctionCost:
    """One function's share of a cell.

    Attributes
    ----------
    backend, function : str
        Which.
    calls, errors : int
        During the cell.
    seconds : float
        Time of these calls; where calls are sampled, their mean times their number.
    """

    backend: str
    function: str
    calls: int
    errors: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CellCost:
    """What one run of a cell cost.

    Attributes
    ----------
    cell : int
        The number in brackets beside the cell.
    seconds : float
        From its beginning to its end, or to now if it still runs.
    functions : tuple of FunctionCost
        The functions that it called, the costliest first. Calls of other threads during that time are among them.
    is_running : bool
        Whether it hasn't ended yet.
    """

    cell: int
    seconds: float
    functions: tuple[FunctionCost, ...]
    is_running: bool = False

    @property
    def calls(self) -> int:
        """Number of native calls."""
        return sum(it.calls for it in self.functions)

    @property
    def errors(self) -> int:
        """Number of calls that failed."""
        return sum(it.errors for it in self.functions)

    @property
    def native_seconds(self) -> float:
        """Time of all native calls; more than `seconds` where several threads called."""
        return sum(it.seconds for it in self.functions)


@dataclass(frozen=True, slots=True, repr=False)
class CellsReport:
    """The cells that called native functions, in the order in which they ran."""

    cells: tuple[CellCost, ...]

    def __iter__(self) -> Iterator[CellCost]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def __repr__(self) -> str:
        if not self.cells:
            return "no notebook cell has called a native function"
        lines = [f"{'cell':>6}{'took':>10}{'native':>10}{'calls':>12}{'errors':>8}  functions"]
        lines += ["".join(_columns(it)) + "  " + ", ".join(map(_words, it.functions[:SHOWN])) for it in self.cells]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        if not self.cells:
            return f"<p>{self!r}</p>"
        rows = [
            [*(it.strip() for it in _columns(cell)), "<br>".join(escape(_words(it)) for it in cell.functions[:SHOWN])]
            for cell in self.cells
        ]
        return table_html(["cell", "took", "native", "calls", "errors", "functions"], rows)


def _columns(it: CellCost) -> tuple[str, ...]:
    number = f"[{it.cell}{'*' if it.is_running else ''}]"
    took, native = format_ns(it.seconds * 1e9), format_ns(it.native_seconds * 1e9)
    return f"{number:>6}", f"{took:>10}", f"{native:>10}", f"{it.calls:>12,}", f"{it.errors:>8,}"


def _words(it: FunctionCost) -> str:
    each = format_ns(it.seconds / it.calls * 1e9) if it.seconds else "–"  # a call that failed isn't timed
    return f"{it.backend}.{it.function} {it.calls:,} × {each}"


class CellCosts:
    """Notes what cells cost, as they run."""

    def __init__(self) -> None:
        self._done: deque[CellCost] = deque(maxlen=KEPT)
        self._running: tuple[int, float, _Counters] | None = None

    def begin(self, cell: int, segment: Segment) -> None:
        """Note the counters as a cell begins."""
        self._running = cell, time.perf_counter(), _read(segment)

    def end(self, segment: Segment) -> None:
        """Note what the cell cost, if it called anything."""
        if (cost := self._now(segment)) is not None:
            self._done.append(cost)
        self._running = None

    def report(self, segment: Segment) -> CellsReport:
        """Return all cells, the one that runs included."""
        now = self._now(segment, is_running=True)
        return CellsReport((*self._done.copy(), *([now] if now is not None else [])))

    def _now(self, segment: Segment, is_running: bool = False) -> CellCost | None:
        running = self._running  # another thread's cell may end meanwhile
        if running is None:
            return None
        cell, start, before = running
        functions = tuple(sorted(_difference(before, _read(segment)), key=lambda it: -it.seconds))
        return CellCost(cell, time.perf_counter() - start, functions, is_running) if functions else None


def _read(segment: Segment) -> _Counters:
    entries = segment.entries()
    rows, names, ns = segment.called(entries), segment.backends(), segment.ns_per_tick
    found: _Counters = {}
    for row in rows:
        key = names[row["backend"]], row["name"].decode(errors="replace")
        more = int(row["calls"]), int(row["errors"]), int(row["timed"]), float(row["total"]) * ns
        had = found.get(key, (0, 0, 0, 0.0))  # both lanes of a function together
        found[key] = had[0] + more[0], had[1] + more[1], had[2] + more[2], had[3] + more[3]
    return found


def _difference(before: _Counters, after: _Counters) -> Iterator[FunctionCost]:
    for key, (calls, errors, timed, ns) in after.items():
        had = before.get(key, (0, 0, 0, 0.0))
        if calls < had[0]:  # its slot was given to another function and back
            had = (0, 0, 0, 0.0)
        made = calls - had[0]
        if not made:
            continue
        # A cell whose few calls weren't sampled has the function's mean.
        mean = (ns - had[3]) / (timed - had[2]) if timed > had[2] else ns / max(timed, 1)
        yield FunctionCost(*key, made, errors - had[1], made * max(mean, 0.0) / 1e9)
