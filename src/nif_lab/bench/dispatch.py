"""``nif-lab bench dispatch``: what one call costs, for the backends and for every other way of calling native code."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from ..flags import Flag
from .contender import KERNELS, Contender
from .measure import interleave, quartiles
from .peers import Workshop, bound, gather

if TYPE_CHECKING:
    from ..lab import Lab

__all__ = ["compare"]

#: What one contender's turn takes; the reference takes as long once more.
LOOP_MS: Final = 3.0


def _backends(lab: Lab) -> tuple[list[Contender], dict[str, str]]:
    loaded = []
    for it in lab.backends.values():
        if it.loaded:
            bound_to_thread = bool(it.functions["dot"].flags & Flag.THREAD_BOUND)
            where = f"{it.lane} lane, its own thread" if bound_to_thread else f"{it.lane} lane"
            loaded.append(
                Contender.of(it.name, f"nif_lab {it.name}, {where}, monitored", it, elsewhere=bound_to_thread)
            )
    return loaded, {name: it.reason for name, it in lab.backends.items() if not it.loaded}


def compare(
    lab: Lab, rounds: int, seed: int, *, workshop: Workshop | None = None, loop_ms: float = LOOP_MS
) -> dict[str, Any]:
    """Time noop, add and dot of every contender, interleaved.

    Parameters
    ----------
    lab
        The backends that take part.
    rounds
        How often each contender has its turn.
    seed
        Of the order within the rounds.
    workshop
        Where peers are built.
    loop_ms
        Milliseconds of one turn.

    Returns
    -------
    dict
        For each kernel ``bound_ns``, ``backends`` and ``peers`` (median nanoseconds of a call), ``ratio_to_bound``
        (median of the rounds' ratios; the bound's own is the control) and ``spread`` (minimum, quartiles). Besides
        ``titles``, ``lanes`` of the backends, ``unchecked`` (who checks nothing) and ``unavailable`` (and why).

    Raises
    ------
    WrongAnswer
        If a contender computes something else.
    BackendError
        If the bound can't be built.
    """
    workshop = workshop or Workshop()
    the_bound = bound(workshop)
    backends, not_loaded = _backends(lab)
    ours = {it.name for it in backends}
    # Zig's library if it is there: all of them export the same functions for tvm-ffi.
    paths = {name: it.path for name, it in lab.backends.items() if it.path}
    peers, unavailable = gather(workshop, paths.get("zig") or next(iter(paths.values()), None))
    contenders = [the_bound, *backends, *peers]
    for contender in contenders:
        contender.verify()
    order = random.Random(seed)  # noqa: S311 an order that can be repeated, no secret
    result: dict[str, Any] = {}
    for kernel in KERNELS:
        result[kernel] = _table(contenders, kernel, ours, rounds, order, loop_ms)
    result["titles"] = {it.name: it.title for it in contenders}
    result["lanes"] = {it.name: lab.backends[it.name].lane for it in backends}
    result["unchecked"] = [it.name for it in contenders if not it.checks]
    result["unavailable"] = {**not_loaded, **unavailable}
    return result


def _table(
    contenders: list[Contender], kernel: str, ours: set[str], rounds: int, order: random.Random, loop_ms: float
) -> dict[str, Any]:
    loops = {it.name: it.loop(kernel).aim(loop_ms) for it in contenders if kernel in it.calls}
    times = interleave(loops, contenders[0].loop(kernel), rounds, order, loop_ms)
    medians, ratios, spread = {}, {}, {}
    for name, each in times.items():
        low, medians[name], high = quartiles(each.own)
        spread[name] = {"min_ns": float(each.own.min()), "q1_ns": low, "q3_ns": high}
        low, ratios[name], high = quartiles(each.own / each.reference)
        spread[name] |= {"ratio_q1": low, "ratio_q3": high}
    return {
        "bound_ns": medians.pop("bound"),
        "backends": {name: ns for name, ns in medians.items() if name in ours},
        "peers": {name: ns for name, ns in medians.items() if name not in ours},
        "ratio_to_bound": ratios,  # the bound's own is the control: 1.00, and its spread is what can be resolved
        "spread": spread,
    }
