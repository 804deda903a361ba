"""``nif-lab bench monitoring``: what monitoring adds to a call, in percent.

An effect of a thousandth drowns in the noise of any machine if the two sides are measured one after the other. So
they are measured in quartets, A-B-B-A and B-A-A-B in turn, which cancel a steady drift; on the clock of this thread's
own processor time, which stops when somebody else runs; and beside a control, quartets whose A and B are the same,
which shows what the method itself can resolve.
"""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from .measure import Loop, interleave, quartiles, young_heap

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DURATIONS", "RECORDERS", "Switch", "interval", "measure", "records"]

#: How long the kernels take, in microseconds.
DURATIONS: Final = {"1us": 1.0, "10us": 10.0, "100us": 100.0}

#: What one leg of a quartet takes: short, for the processor's speed changes now and then.
LEG_MS: Final = 2.0

#: Calls after the switch that aren't timed.
SETTLE: Final = 4


#: Counts an event and puts its duration, in seconds, into a histogram.
Recorder = Callable[[float], object]


def _prometheus() -> Recorder:
    client = importlib.import_module("prometheus_client")
    registry = client.CollectorRegistry()
    counter = client.Counter("events", "Events.", registry=registry)
    histogram = client.Histogram("seconds", "Their durations.", registry=registry)

    def record(seconds: float) -> None:
        counter.inc()
        histogram.observe(seconds)

    return record


def _opentelemetry() -> Recorder:
    metrics = importlib.import_module("opentelemetry.sdk.metrics")
    export = importlib.import_module("opentelemetry.sdk.metrics.export")
    meter = metrics.MeterProvider([export.InMemoryMetricReader()]).get_meter("nif_lab")
    counter, histogram = meter.create_counter("events"), meter.create_histogram("seconds")

    def record(seconds: float) -> None:
        counter.add(1)
        histogram.record(seconds)

    return record


#: Other libraries' recorders.
RECORDERS: Final[dict[str, Callable[[], Recorder]]] = {
    "prometheus_client": _prometheus,
    "opentelemetry-sdk": _opentelemetry,
}


class Switch(Protocol):
    """``lab.telemetry``, as far as this needs it."""

    enabled: bool


def measure(
    function: Callable[[NDArray[np.float64]], float], switch: Switch, quartets: int, seed: int, leg_ms: float = LEG_MS
) -> dict[str, Any]:
    """Compare calls that are monitored with calls that aren't.

    Parameters
    ----------
    function
        A function of one vector whose time grows with its length, such as ``lab.rust.sum``.
    switch
        What turns monitoring on and off; left as it was found.
    quartets
        How many, and as many of the control.
    seed
        Of the bootstrap.
    leg_ms
        Milliseconds of processor time of one leg.

    Returns
    -------
    dict
        For each of `DURATIONS` the cost in ``percent`` (median of the quartets), its 95 % confidence interval ``low``
        and ``high`` by bootstrap, ``control`` (low, percent and high of A against A), ``kernel_us`` and ``quartets``.
    """
    before = switch.enabled
    try:
        return {
            name: _one(function, duration, switch, quartets, np.random.default_rng(seed), leg_ms)
            for name, duration in DURATIONS.items()
        }
    finally:
        switch.enabled = before


def records(own: Recorder, rounds: int, seed: int, loop_ms: float = 2.0) -> dict[str, Any]:
    """Compare one record made from Python, a count and a histogram, with the same in other libraries.

    Parameters
    ----------
    own
        What ``lab.telemetry.recorder`` returned.
    rounds
        How many, the contenders interleaved.
    seed
        Of their order.
    loop_ms
        Milliseconds of processor time of one loop.

    Returns
    -------
    dict
        ``record``: for each contender ``ns`` (median), ``q1_ns`` and ``q3_ns``; ``unavailable``: who isn't installed.
    """
    contenders: dict[str, Recorder] = {"nif_lab": own}
    unavailable = {}
    for name, make in RECORDERS.items():
        try:
            contenders[name] = make()
        except ImportError as error:
            unavailable[name] = str(error)
    loops = {name: Loop(record, 1e-6).aim(loop_ms) for name, record in contenders.items()}
    times = interleave(loops, Loop(own, 1e-6), rounds, random.Random(seed), loop_ms)  # noqa: S311
    table = {}
    for name, it in times.items():
        low, median, high = quartiles(it.own)
        table[name] = {"ns": median, "q1_ns": low, "q3_ns": high}
    return {"record": table, "unavailable": unavailable}


def _one(
    function: Callable[[NDArray[np.float64]], float],
    microseconds: float,
    switch: Switch,
    quartets: int,
    random: np.random.Generator,
    leg_ms: float,
) -> dict[str, Any]:
    values = _operand(function, microseconds)
    loop = Loop(function, values).aim(leg_ms)
    settle = Loop(function, values)
    settle.count = min(SETTLE, loop.count)

    def leg(enabled: bool) -> float:
        switch.enabled = enabled
        settle.total_ns()
        return loop.each_ns()

    def quartet(outer: bool, inner: bool) -> tuple[float, float]:
        first, second, third, fourth = leg(outer), leg(inner), leg(inner), leg(outer)
        return (first + fourth) / 2, (second + third) / 2

    cost, control, off = np.empty(quartets), np.empty(quartets), np.empty(quartets)
    with young_heap():
        for i in range(quartets):
            # Every other quartet is turned inside out, B-A-A-B, so that being first or last isn't always A's.
            on, without = quartet(True, False) if i % 2 == 0 else quartet(False, True)[::-1]
            cost[i], off[i] = 100 * (on / without - 1), without
            one, other = quartet(True, True)[:: 1 if i % 2 == 0 else -1]
            control[i] = 100 * (one / other - 1)
    low, percent, high = interval(cost, random)
    return {
        "percent": percent,
        "low": low,
        "high": high,
        "control": list(interval(control, random)),
        "kernel_us": float(np.median(off)) / 1e3,
        "quartets": quartets,
    }


def _operand(function: Callable[[NDArray[np.float64]], float], microseconds: float) -> NDArray[np.float64]:
    """Return a vector with which one call takes about so long when the processor runs at its full speed."""
    length = max(8, round(microseconds * 1000))
    for _ in range(4):
        loop = Loop(function, np.ones(length)).aim(1.0)
        taken = []
        for _ in range(25):  # a slow spell lasts tens of milliseconds: look past it
            taken.append(loop.each_ns() / 1e3)
            time.sleep(0.002)
        length = max(8, round(length * min(4.0, max(0.25, microseconds / min(taken)))))
    return np.ones(length)


def interval(values: NDArray[np.float64], random: np.random.Generator) -> tuple[float, float, float]:
    """Return the median between the ends of its 95 % confidence interval, by 2,000 resamplings."""
    resampled = np.median(random.choice(values, (2000, len(values))), axis=1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(low), float(np.median(values)), float(high)
