"""What takes part in a comparison: one way of calling the three kernels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import NifLabError
from .measure import Loop

__all__ = ["KERNELS", "Contender", "WrongAnswer", "operands"]

#: The kernels and how their tables are headed.
KERNELS: Final = {"dot": "dot of 2 x 100 f64", "add": "add(1.0, 2.0)", "noop": "noop()"}

Vector = NDArray[np.float64]


class WrongAnswer(NifLabError):
    """A contender computes something else; its time would mean nothing."""


@cache
def operands() -> tuple[Vector, Vector]:
    """Return the two vectors of ``dot``: float64, shape (100,), the same two for everybody."""
    x = np.linspace(0.0, 1.0, 100)
    return x, np.cos(x)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of calling the kernels.

    Attributes
    ----------
    name, title : str
        The key in results, and how tables call it.
    calls : mapping of str to (function, arguments)
        What is timed for each kernel that it has.
    checks : bool
        Whether each call of ``dot`` checks its arrays; False where bare pointers were made before the call.
    elsewhere : bool
        Whether calls run on another thread, so that this one's processor time says nothing.
    """

    name: str
    title: str
    calls: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]]
    checks: bool = True
    elsewhere: bool = False

    @classmethod
    def of(cls, name: str, title: str, module: ModuleType | Any, *, elsewhere: bool = False) -> Contender:
        """Take the functions ``noop``, ``add`` and ``dot`` of a module, or of anything that has them."""
        arguments = {"dot": operands(), "add": (1.0, 2.0), "noop": ()}
        return cls(
            name,
            title,
            {kernel: (getattr(module, kernel), arguments[kernel]) for kernel in KERNELS},
            elsewhere=elsewhere,
        )

    def loop(self, kernel: str) -> Loop:
        """Return a new loop around one kernel."""
        function, arguments = self.calls[kernel]
        return Loop(function, *arguments, clock=time.perf_counter_ns if self.elsewhere else time.thread_time_ns)

    def verify(self) -> None:
        """Call each kernel once.

        Raises
        ------
        WrongAnswer
            If an answer is off by more than 1e-12, relatively.
        """
        x, y = operands()
        right = {"dot": math.fsum(x * y), "add": 3.0, "noop": None}
        for kernel, (function, arguments) in self.calls.items():
            answer, expected = function(*arguments), right[kernel]
            if answer is expected is None:
                continue
            if answer is None or expected is None or not math.isclose(answer, expected, rel_tol=1e-12):
                raise WrongAnswer(f"{self.title}: {kernel} is {answer!r}, not {expected!r}")
