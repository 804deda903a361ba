"""Part of ``nif-lab bench dispatch``: what it costs native code to call a Python function."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .measure import quartiles

if TYPE_CHECKING:
    from ..lab import Lab

__all__ = ["SOURCES", "compare"]

#: A function that calls back so often, in each language.
SOURCES: Final = {
    "rust": """
pub fn repeated(f: Callback<fn(f64) -> f64>, n: i64) -> Result<f64, Error> {
    (0..n).try_fold(0.0, |total, i| Ok(total + f.call(i as f64)?))
}
""",
    "zig": """
pub fn repeated(f: nif.Callback(fn (f64) f64), n: i64) !f64 {
    var total: f64 = 0;
    var i: i64 = 0;
    while (i < n) : (i += 1) total += try f.call(.{@floatFromInt(i)});
    return total;
}
""",
    "nim": """
proc repeated*(f: Callback[proc (x: float): float]; n: int): float =
  for i in 0 ..< n: result += f.call(float(i))
""",
    "julia": """
function repeated(f::Callback{Float64,Tuple{Float64}}, n::Int64)::Float64
    total = 0.0
    for i in 0:n-1
        total += f(i)
    end
    return total
end
""",
}
#: Callbacks of a call.
MANY: Final = {"direct": 10_000, "isolated": 500}


def compare(lab: Lab, rounds: int, seed: int) -> dict[str, Any]:
    """Time callbacks of every language that is there, in both lanes, interleaved.

    Parameters
    ----------
    lab
        The backends that take part.
    rounds
        How often each has its turn.
    seed
        Of the order within the rounds.

    Returns
    -------
    dict
        For each ``"LANGUAGE, LANE"`` the nanoseconds of one callback: ``ns``, ``q1_ns``, ``q3_ns``; under ``"python"``
        those of the same loop in Python.

    Raises
    ------
    AssertionError
        For a wrong sum.
    """

    def f(x: float) -> float:
        return x

    def python(f: Any, n: int) -> float:
        total = 0.0
        for i in range(n):
            total += f(float(i))
        return total

    contenders: dict[str, tuple[Any, int]] = {"python": (python, MANY["direct"])}
    for name, source in SOURCES.items():
        if name in lab.backends and lab.backends[name].loaded:
            for lane, many in MANY.items():
                cell = lab.cell(name, source, name=f"{name} {lane}", lane=lane, replace=True)  # type: ignore[arg-type]
                contenders[f"{name}, {lane}"] = (cell.functions["repeated"], many)
    times: dict[str, list[float]] = {it: [] for it in contenders}
    order = random.Random(seed)  # noqa: S311 an order that can be repeated, no secret
    for number in range(rounds + 1):
        for contender in order.sample([*contenders], len(contenders)):
            function, many = contenders[contender]
            start = time.perf_counter_ns()
            total = function(f, many)
            taken = time.perf_counter_ns() - start
            if total != many * (many - 1) / 2:
                raise AssertionError(f"{contender}: a wrong sum")
            if number > 0:
                times[contender].append(taken / many)

    def row(each: list[float]) -> dict[str, float]:
        low, median, high = quartiles(np.array(each))
        return {"ns": median, "q1_ns": low, "q3_ns": high}

    return {contender: row(each) for contender, each in times.items()}
