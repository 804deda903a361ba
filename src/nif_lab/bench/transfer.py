"""``nif-lab bench transfer``: what handing an array over costs, what a copy costs, and other ways to another process.

Before anything is timed every answer is compared: what arrived, what was copied, and the sums that were found there.
"""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import _core
from ..arguments import MODES, Lane, one_of
from ..lab import Lab
from .carriers import CARRIERS, ours
from .contender import WrongAnswer
from .measure import Loop, Times, interleave, quartiles, young_heap
from .routes import SPAWN, end_with_parent

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COPIES", "SHAPES", "SIZES", "WAYS", "Trip", "compare", "copies", "moves", "pairs", "tables"]

#: Elements of what is handed over or moved, float64.
SIZES: Final = {"80 KB": 10_000, "8 MB": 1_000_000, "64 MB": 8_000_000}

#: Of what is copied, float64; of one that isn't among the sizes only the transposing.
SHAPES: Final = {"80 KB": (100, 100), "8 MB": (1000, 1000), "64 MB": (2000, 4000), "4096 x 4096": (4096, 4096)}

#: Ways from language to language, their lanes, and how tables call them.
WAYS: Final[dict[str, tuple[Lane, str]]] = {
    "shared": ("direct", "shared"),
    "shared_isolated": ("isolated", "shared, isolated lane"),
    "wire": ("direct", "wire, checksum"),
    "wire_bare": ("direct", "wire, no checksum"),
    "mmap": ("direct", "mmap"),
}
#: Of those, the ones where a value is handed over as it lies.
HANDED: Final = ("shared", "shared_isolated")

#: Copies, and how tables call them.
COPIES: Final = {
    "memcpy": "np.copyto",
    "memmove": "ctypes.memmove",
    "copy": "copy_array",
    "checksum": "copy_array, checksum",
    "transpose": "copy_array, transposed",
    "numpy_transpose": "np.copyto, transposed",
    "convert": "copy_array, f32 to f64",
    "numpy_convert": "np.copyto, f32 to f64",
}

#: What a turn of a copy or a move takes, if that is more than one call.
LOOP_MS: Final = 4.0
#: Bytes of a pair's turn, if that is more than one transfer; and how often the target is told again then.
TURN_BYTES: Final = 2_000_000
TOLD: Final = 20

Row = dict[str, float]
Show = Callable[[str], object]


def compare(
    rounds: int,
    seed: int,
    show: Show = lambda _: None,
    *,
    sizes: Mapping[str, int] = SIZES,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    loop_ms: float = LOOP_MS,
) -> dict[str, Any]:
    """Time transfers between all pairs of languages, copies, and moves into another process, each interleaved.

    Parameters
    ----------
    rounds
        How often everybody has a turn.
    seed
        Of the order within the rounds, and of the numbers.
    show
        Told what is being done, now and then.
    sizes, shapes
        As `SIZES` and `SHAPES`.
    loop_ms
        Milliseconds of a turn.

    Returns
    -------
    dict
        ``pairs``, ``copies`` and ``moves``, as of the functions of these names; ``titles`` of those who move, and
        ``unavailable`` (who, and why).

    Raises
    ------
    WrongAnswer
        If something else arrives.
    """
    show("moves into another process")
    with ProcessPoolExecutor(1, SPAWN, initializer=_lead) as pool:
        moved, titles, unavailable = pool.submit(moves, rounds, seed, sizes, loop_ms).result()
    lab = Lab()
    show("copies")
    copied = copies(lab, rounds, seed, shapes, loop_ms)
    show("transfers between all pairs of languages")
    handed = pairs(lab, rounds, seed, sizes)
    unavailable |= {it.name: it.reason for it in lab.backends.values() if not it.loaded}
    return {"pairs": handed, "copies": copied, "moves": moved, "titles": titles, "unavailable": unavailable}


def _lead() -> None:
    """Make this process the head of a session, all of which ends with it: Ray leaves servers behind."""
    end_with_parent()
    os.setsid()
    reading, _ = os.pipe()  # the other end is closed when this process ends, however that happens
    subprocess.Popen(["sh", "-c", "read _; kill -9 0"], stdin=reading)


def _spread(key: str, values: NDArray[np.float64]) -> Row:
    low, median, high = quartiles(values)
    return {key: median, f"q1_{key}": low, f"q3_{key}": high}


def _row(times: Times, size: int) -> Row:
    return {
        **_spread("ns", times.own),
        **_spread("ratio", times.own / times.reference),
        **_spread("gb_per_s", size / times.own),
    }


def moves(
    rounds: int, seed: int, sizes: Mapping[str, int], loop_ms: float
) -> tuple[dict[str, dict[str, Row]], dict[str, str], dict[str, str]]:
    """Time every way of getting an array into another process, where all of it is read.

    Returns
    -------
    tuple
        For each size and contender ``ns``, ``gb_per_s`` and ``ratio``, with ``q1_`` and ``q3_`` of each; ratios are to
        ``reading``, the sum where the array lies. Titles; and of those who can't take part, the reasons.
    """
    order, numbers = _chance(seed)
    titles = {"reading": "np.sum where it lies, nothing moved"}
    unavailable: dict[str, str] = {}
    result: dict[str, dict[str, Row]] = {}
    lab = Lab(["rust"])
    with ExitStack() as stack:
        carriers = {}
        for name, carrier in CARRIERS.items():
            try:
                titles[name], carriers[name] = stack.enter_context(carrier())
            except Exception as error:  # whatever a package throws at import; the rest goes on
                unavailable[name] = f"{type(error).__name__}: {error}"
        for size, count in sizes.items():
            x = numbers.integers(0, 1 << 20, count).astype(np.float64)  # in whatever order, the sum is exact
            own = ours(lab, x)
            titles |= {name: title for name, (title, _) in own.items()}
            calls: dict[str, Callable[[], float]] = {"reading": x.sum}
            calls |= {name: call for name, (_, call) in own.items()}
            calls |= {name: partial(move, x) for name, move in carriers.items()}
            for name, call in calls.items():
                if (answer := call()) != x.sum():
                    raise WrongAnswer(f"{titles[name]}: the sum is {answer!r}, not {x.sum()!r}")
            loops = {name: Loop(call, clock=time.perf_counter_ns).aim(loop_ms) for name, call in calls.items()}
            times = interleave(loops, Loop(x.sum, clock=time.perf_counter_ns), rounds, order, loop_ms)
            result[size] = {name: _row(it, x.nbytes) for name, it in times.items()}
    return result, titles, unavailable


def _chance(seed: int) -> tuple[random.Random, np.random.Generator]:
    """Return what orders and numbers are drawn from."""
    return random.Random(seed), np.random.default_rng(seed)  # noqa: S311 to be repeated, no secret


def copies(
    lab: Lab, rounds: int, seed: int, shapes: Mapping[str, tuple[int, int]], loop_ms: float
) -> dict[str, dict[str, Row]]:
    """Time copies between arrays in a pool whose memory is warm.

    Returns
    -------
    dict
        For each shape and each of `COPIES` ``ns``, ``gb_per_s`` and ``ratio``, with ``q1_`` and ``q3_`` of each. Ratios
        are to ``np.copyto`` of the same bytes. Of conversions, which read half of what they write, they are to that of
        three quarters of the bytes, which makes the same traffic.
    """
    order, numbers = _chance(seed)
    result: dict[str, dict[str, Row]] = {}
    for name, shape in shapes.items():
        source, target, narrow = (lab.memory.empty(shape, dtype) for dtype in ("f8", "f8", "f4"))
        across = lab.memory.empty(shape[::-1]).T
        narrow[...] = numbers.random(shape, np.float32)
        source[...] = across[...] = narrow
        target[...] = 0.0
        calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
            "memcpy": (np.copyto, (target, source)),
            "memmove": (ctypes.memmove, (target.ctypes.data, source.ctypes.data, source.nbytes)),
            "copy": (_core.copy_array, (source, target)),
            "checksum": (_core.copy_array, (source, target, True)),
            "transpose": (_core.copy_array, (across, target)),
            "numpy_transpose": (np.copyto, (target, across)),
            "convert": (_core.copy_array, (narrow, target)),
            "numpy_convert": (np.copyto, (target, narrow)),
        }
        if name not in SIZES:
            calls = {it: calls[it] for it in ("memcpy", "transpose", "numpy_transpose")}
        for it, (function, arguments) in calls.items():
            target[...] = 0.0
            answer = function(*arguments)
            if not np.array_equal(target, source):
                raise WrongAnswer(f"{COPIES[it]}, {name}: the copy differs")
            if it == "checksum" and answer != lab.rust.checksum(source):
                raise WrongAnswer(f"{COPIES[it]}, {name}: the checksum is {answer:016x}")
        loops = {it: Loop(function, *arguments).aim(loop_ms) for it, (function, arguments) in calls.items()}
        part = source.size * 3 // 4
        references = {
            False: Loop(np.copyto, target, source),
            True: Loop(np.copyto, target.reshape(-1)[:part], source.reshape(-1)[:part]),
        }
        result[name] = {}
        for converts, reference in references.items():
            some = {it: loop for it, loop in loops.items() if it.endswith("convert") == converts}
            times = interleave(some, reference, rounds, order, loop_ms)
            result[name] |= {it: _row(turns, target.nbytes) for it, turns in times.items()}
    return result


@dataclass(frozen=True, slots=True)
class Trip:
    """One transfer of an array.

    Attributes
    ----------
    value : array
        What arrived.
    ns : float
        In which the source writes or encodes it, and the target is told of it and reads all of it, in nanoseconds; of
        a frame without a checksum until the target has a view.
    told_ns : float
        Of it, in which the target is told where it is.
    copied : bool
        Whether the ledger has a copy of it; a frame always is one.
    """

    value: NDArray[np.float64]
    ns: float
    told_ns: float
    copied: bool

    @classmethod
    def of(cls, lab: Lab, way: str, source: str, target: str, x: NDArray[np.float64]) -> Trip:
        """Transfer an array in one of `WAYS`."""
        lane, _ = WAYS[way]
        if way == "wire_bare":  # which proves nothing, and so is no transfer
            start = time.perf_counter_ns()
            frame = lab.wire.encode(x, by=source, checksum=False)
            value = lab.wire.decode(frame, by=target)
            return cls(value, time.perf_counter_ns() - start, 0.0, copied=True)
        done = lab.transfer(source, target, x, one_of("mode", way.partition("_")[0], MODES), lane=lane)
        if not done.verified:
            raise WrongAnswer(f"{WAYS[way][1]}, {source} -> {target}: the checksums differ")
        return cls(done.array, done.write_ns + done.ns, done.hand_over_ns, done.copied)


def pairs(lab: Lab, rounds: int, seed: int, sizes: Mapping[str, int]) -> dict[str, dict[str, dict[str, Row]]]:
    """Time the transfers of an array in a pool between any two languages.

    Returns
    -------
    dict
        For each size, way and pair: ``gb_per_s``, with ``q1_`` and ``q3_``, and ``zero_copy``, the share of transfers
        that copied nothing. Where it is handed over as it lies also ``told_ns``, the time of that in a transfer;
        ``id_ns``, of Python's ``id`` in its place; and ``again_ns``, of the hand-over when it is repeated.
    """
    order, numbers = _chance(seed)
    loaded = [it.name for it in lab.backends.values() if it.loaded]
    turns = [(way, *pair) for way, pair in product(WAYS, permutations(loaded, 2))]
    result: dict[str, dict[str, dict[str, Row]]] = {}
    arrays = {size: lab.memory.empty(count) for size, count in sizes.items()}
    for x in arrays.values():
        x[...] = numbers.random(x.shape)
    smallest = min(arrays.values(), key=len)
    for way, source, target in turns:
        if not np.array_equal(Trip.of(lab, way, source, target, smallest).value, smallest):
            raise WrongAnswer(f"{WAYS[way][1]}, {source} -> {target}: something else arrived")
    for size, x in arrays.items():
        seen: dict[tuple[str, str, str], list[list[float]]] = {it: [] for it in turns}
        with young_heap():
            for _ in range(rounds):
                for it in order.sample(turns, len(turns)):
                    seen[it].append(_turn(lab, *it, x))
        result[size] = {way: {} for way in WAYS}
        for (way, source, target), values in seen.items():
            ns, zero_copy, *told = np.array(values).T
            row = _spread("gb_per_s", x.nbytes / ns) | {"zero_copy": float(zero_copy.mean())}
            for key, it in zip(("told_ns", "id_ns", "again_ns"), told, strict=False):
                row |= _spread(key, it)
            result[size][way][f"{source} -> {target}"] = row
    return result


def _turn(lab: Lab, way: str, source: str, target: str, x: NDArray[np.float64]) -> list[float]:
    """Return the time of a transfer, the share of those without a copy, and if it is handed over what that takes."""
    trips = [Trip.of(lab, way, source, target, x) for _ in range(max(1, TURN_BYTES // x.nbytes))]
    figures = [float(np.median([it.ns for it in trips])), float(np.mean([not it.copied for it in trips]))]
    if way in HANDED:
        lane, clock = getattr(lab, WAYS[way][0]), time.perf_counter_ns
        lane[source].checksum(x)  # sweeps the caches, as it does in a transfer
        start = clock()
        id(x)
        control = clock() - start
        again = Loop(lane[target].address, x, clock=clock)
        again.total_ns()
        again.count = TOLD
        figures += [float(np.median([it.told_ns for it in trips])), control, again.each_ns()]
    return figures


def tables(result: dict[str, Any]) -> list[tuple[str, list[Sequence[str]]]]:
    """Return the result as tables of text."""
    return [
        ("an array of a pool is handed over, µs", _told(result["pairs"])),
        ("from language to language, GB/s", _pairs(result["pairs"])),
        ("a copy in a pool, x np.copyto", _copies(result["copies"])),
        ("into another process, and read there", _moves(result["moves"], result["titles"])),
    ]


def _told(found: dict[str, Any]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("", *(f"{size}, {which}" for size in found for which in ("in a transfer", "again")))]
    for way in HANDED:
        lane, _ = WAYS[way]
        controls = (_cell(_middle(it[way]), "id_ns", _us) for it in found.values())
        rows.append((f"{lane}, id(x) in its place", *(cell for it in controls for cell in (it, "–"))))
        for pair in next(iter(found.values()))[way]:
            cells = (_cell(it[way][pair], key, _us) for it in found.values() for key in ("told_ns", "again_ns"))
            rows.append((f"{lane}, {pair}", *cells))
    return rows


def _middle(pairs: dict[str, Row]) -> Row:
    """Return the medians of all pairs' figures."""
    return {key: float(np.median([it[key] for it in pairs.values()])) for key in next(iter(pairs.values()))}


def _pairs(found: dict[str, Any]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("", "slowest pair", "GB/s", "fastest pair", "GB/s", "without a copy")]
    for (way, (_, title)), (size, of_size) in product(WAYS.items(), found.items()):
        (slow, least), *_, (fast, most) = sorted(of_size[way].items(), key=lambda it: it[1]["gb_per_s"])
        share = np.mean([it["zero_copy"] for it in of_size[way].values()])
        ends = slow, _cell(least, "gb_per_s"), fast, _cell(most, "gb_per_s")
        rows.append((f"{title}, {size}", *ends, f"{100 * share:.4g} %"))
    return rows


def _copies(found: dict[str, Any]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("", *found)]
    rows.append(("np.copyto, GB/s", *(_cell(it["memcpy"], "gb_per_s") for it in found.values())))
    for name, title in COPIES.items():
        rows.append((title, *(_cell(it[name], "ratio") if name in it else "–" for it in found.values())))
    return rows


def _moves(found: dict[str, Any], titles: dict[str, str]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("", *(f"{size}, {unit}" for size in found for unit in ("µs", "GB/s")))]
    *_, largest = found.values()
    for name in sorted(largest, key=lambda it: float(largest[it]["ns"])):
        cells = (_cell(it[name], *what) for it in found.values() for what in (("ns", _us), ("gb_per_s",)))
        rows.append((titles[name], *cells))
    return rows


def _cell(row: Row, key: str, show: Callable[[float], str] = "{:.2f}".format) -> str:
    return f"{show(row[key])} ({show(row[f'q1_{key}'])} – {show(row[f'q3_{key}'])})"


def _us(ns: float) -> str:
    return f"{ns / 1e3:.2f}" if ns < 1e5 else f"{ns / 1e3:,.0f}"
