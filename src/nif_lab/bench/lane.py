"""``nif-lab bench lane``: how long a call into another process takes, from Python and back, beside other ways there."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .measure import quartiles, young_heap
from .routes import KERNELS, ROUTES, SPAWN, Route, end_with_parent, shared_operands

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["REFERENCES", "SITUATIONS", "compare", "measure", "situation", "verify"]

#: Where client and server run, and how tables call it.
SITUATIONS: Final = {
    "two_cores": "client and server on a core each",
    "one_core": "both on one core",
    "free": "wherever the system puts them",
}

#: What each contender's p50 is compared with.
REFERENCES: Final = ("spin", "futex")

#: Who polls takes part only where each side has a core: on one, each would wait for the end of the other's time slice.
POLLERS: Final = frozenset({"spin", "iceoryx2"})

#: Milliseconds that one turn takes, within these numbers of calls.
TURN_MS: Final = 10.0
CALLS: Final = (200, 5000)

#: Calls at the beginning of a turn that don't count: the others have had the caches.
WARM: Final = 20


def compare(rounds: int, seed: int, *, turn_ms: float = TURN_MS) -> dict[str, Any]:
    """Time noop and dot by every route, interleaved.

    Parameters
    ----------
    rounds
        How often each route has its turn, in each situation.
    seed
        Of the order within the rounds.
    turn_ms
        Milliseconds of one turn.

    Returns
    -------
    dict
        For each of `SITUATIONS` the tables of `measure`; ``titles`` of all routes, and ``unavailable`` (who, and why).

    Raises
    ------
    WrongAnswer
        If a route answers something else.
    """
    titles: dict[str, str] = {}
    unavailable: dict[str, str] = {}
    result: dict[str, Any] = {"titles": titles, "unavailable": unavailable}
    situations = list(SITUATIONS)
    if len(os.sched_getaffinity(0)) == 1:
        unavailable["two_cores"] = "this process may run on one core only"
        situations.remove("two_cores")
    for name in situations:
        # A process for each, since a Lab looks at its birth how many cores it has.
        with ProcessPoolExecutor(1, SPAWN, initializer=end_with_parent) as pool:
            tables, found, missing = pool.submit(situation, name, rounds, seed, turn_ms).result()
        result[name] = tables
        titles.update(found)
        unavailable.update(missing)
    return result


def situation(
    name: str, rounds: int, seed: int, turn_ms: float
) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Measure one situation in this process, whose cores are set for good.

    Returns
    -------
    tuple
        What `measure` returns; titles of those who took part; and of the others, the reasons.
    """
    cores = sorted(os.sched_getaffinity(0))
    if name == "one_core":
        os.sched_setaffinity(0, cores[-1:])  # of all that will be started, too
    ways = {it: way for it, way in ROUTES.items() if name == "two_cores" or it not in POLLERS}
    unavailable: dict[str, str] = {}
    routes: list[Route] = []
    with ExitStack() as stack:
        both, path = stack.enter_context(shared_operands())
        for it, way in ways.items():
            try:
                routes.append(stack.enter_context(way(both, path)))
            except Exception as error:  # whatever a package throws at import; the rest goes on
                unavailable[it] = f"{type(error).__name__}: {error}"
        verify(routes)  # the executor starts its process when it is first asked
        if name == "two_cores":
            for pid in _children():
                _pin(pid, cores[0])
            _pin(os.getpid(), cores[-1])
        tables = measure(routes, rounds, seed, turn_ms)
        return tables, {it.contender.name: it.contender.title for it in routes}, unavailable


def _children() -> Iterator[int]:
    for listed in Path("/proc/self/task").glob("*/children"):
        yield from map(int, listed.read_text().split())


def _pin(pid: int, core: int) -> None:
    """Keep every thread of a process on one core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), [core])


def verify(routes: Sequence[Route]) -> None:
    """Call every route once for each kernel.

    Raises
    ------
    WrongAnswer
        If one answers something else.
    """
    for route in routes:
        with route.awake():
            route.contender.verify()


def measure(routes: Sequence[Route], rounds: int, seed: int, turn_ms: float) -> dict[str, Any]:
    """Time every route.

    Returns
    -------
    dict
        For ``noop`` and ``dot``, and each route, ``p50`` and ``p99`` of the calls of a turn: median over rounds ``us``,
        and ``q1_us``, ``q3_us``. Besides, if those take part, ``x_spin`` and ``x_futex``: the rounds' ratios of its p50
        to those of the two in C, ``ratio``, ``ratio_q1`` and ``ratio_q3``.
    """
    order = random.Random(seed)  # noqa: S311 an order that can be repeated, no secret
    return {kernel: _table(routes, kernel, rounds, order, turn_ms) for kernel in KERNELS}


def _table(
    routes: Sequence[Route], kernel: str, rounds: int, order: random.Random, turn_ms: float
) -> dict[str, dict[str, dict[str, float]]]:
    counts = [_aim(it, kernel, turn_ms) for it in routes]
    turns: dict[str, list[NDArray[np.float64]]] = {it.contender.name: [] for it in routes}
    with young_heap():
        for _ in range(rounds):
            for route, count in order.sample(list(zip(routes, counts, strict=True)), len(routes)):
                each_ns = route.turn(kernel, count, WARM)
                turns[route.contender.name].append(np.percentile(each_ns, (50, 99)))
    percentiles = {name: np.array(it).T / 1e3 for name, it in turns.items()}
    return {name: _row(percentiles, name) for name in percentiles}


def _aim(route: Route, kernel: str, turn_ms: float) -> int:
    each_ns = np.median(route.turn(kernel, WARM, WARM))
    return int(np.clip(turn_ms * 1e6 / each_ns, *CALLS))


def _row(percentiles: Mapping[str, NDArray[np.float64]], name: str) -> dict[str, dict[str, float]]:
    p50, p99 = percentiles[name]
    row = {}
    for key, values in {"p50": p50, "p99": p99}.items():
        low, median, high = quartiles(values)
        row[key] = {"us": median, "q1_us": low, "q3_us": high}
    for reference in REFERENCES:
        if reference in percentiles:
            low, median, high = quartiles(p50 / percentiles[reference][0])
            row[f"x_{reference}"] = {"ratio": median, "ratio_q1": low, "ratio_q3": high}
    return row
