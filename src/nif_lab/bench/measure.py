"""Time calls that take nanoseconds, on a machine that does other things too."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Loop", "Times", "interleave", "quartiles", "young_heap"]

Clock = Callable[[], int]


def _empty(clock: Clock, count: int) -> int:
    start = clock()
    for _ in repeat(None, count):
        pass
    return clock() - start


def _calls0(clock: Clock, count: int, f: Callable[[], Any]) -> int:
    start = clock()
    for _ in repeat(None, count):
        f()
    return clock() - start


def _calls1(clock: Clock, count: int, f: Callable[[Any], Any], x: Any) -> int:
    start = clock()
    for _ in repeat(None, count):
        f(x)
    return clock() - start


def _calls2(clock: Clock, count: int, f: Callable[[Any, Any], Any], x: Any, y: Any) -> int:
    start = clock()
    for _ in repeat(None, count):
        f(x, y)
    return clock() - start


def _calls3(clock: Clock, count: int, f: Callable[[Any, Any, Any], Any], x: Any, y: Any, z: Any) -> int:
    start = clock()
    for _ in repeat(None, count):
        f(x, y, z)
    return clock() - start


_LOOPS: Final = (_calls0, _calls1, _calls2, _calls3)


class Loop:
    """A tight loop around one call, long enough for a clock.

    Python 3.11 and newer rewrite the instruction of a call for the kind of object that is called. So each loop has a
    code object of its own: contenders that shared one would undo each other's rewriting.

    Parameters
    ----------
    function
        What is called; None for the loop without a call.
    arguments
        Up to three, positional.
    clock
        This thread's processor time unless given: it stands still while somebody else runs.
    """

    def __init__(
        self, function: Callable[..., Any] | None = None, *arguments: Any, clock: Clock = time.thread_time_ns
    ) -> None:
        loop: Any = _LOOPS[len(arguments)] if function else _empty
        self._loop: Callable[..., int] = FunctionType(loop.__code__.replace(), loop.__globals__)
        self._given = (function, *arguments) if function else ()
        self._clock = clock
        self.count = 1

    def aim(self, milliseconds: float) -> Loop:
        """Choose the number of calls so that one run takes about so long; warm everything up on the way."""
        target = milliseconds * 1e6
        while (elapsed := self.total_ns()) < target / 4 and self.count < 1 << 30:
            self.count *= 2
        self.count = max(1, round(self.count * target / max(elapsed, 1)))
        return self

    def total_ns(self) -> int:
        """Run the loop; return the nanoseconds it took, its own cost included."""
        return self._loop(self._clock, self.count, *self._given)

    def each_ns(self) -> float:
        """Run the loop; return the nanoseconds of one pass."""
        return self.total_ns() / self.count


@contextmanager
def young_heap() -> Iterator[None]:
    """Hide all objects made so far from the garbage collector.

    It stays on: whoever leaves cycles behind (ctypes does) pays for their collection, but not for the size of the heap.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass(frozen=True, slots=True)
class Times:
    """Nanoseconds of one call in each round, the cost of the loop subtracted: float64, shape (rounds,).

    Attributes
    ----------
    own
        Of the contender.
    reference
        Of the reference, measured just before and just after it.
    """

    own: NDArray[np.float64]
    reference: NDArray[np.float64]


def interleave(
    loops: Mapping[str, Loop], reference: Loop, rounds: int, order: random.Random, loop_ms: float
) -> dict[str, Times]:
    """Run every loop once a round, in an order drawn anew each time.

    A processor that others use too changes its speed by a factor of two within one round. So each turn is framed: the
    empty loop, the reference, the contender, the reference, the empty loop; what is compared was measured within
    milliseconds.
    """
    empty = Loop().aim(loop_ms / 8)
    reference.aim(loop_ms / 2)
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    with young_heap():
        for _ in range(rounds):
            for name in order.sample(list(loops), len(loops)):
                cost, near = empty.each_ns(), reference.each_ns()
                own = loops[name].each_ns()
                near = (near + reference.each_ns()) / 2
                cost = min(cost, empty.each_ns())  # the shortest loop: an interruption would weigh most here
                turns[name].append((own - cost, near - cost))
    return {name: Times(*np.array(each).T) for name, each in turns.items()}


def quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return float(low), float(median), float(high)
