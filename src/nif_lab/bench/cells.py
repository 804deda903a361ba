"""``nif-lab bench cells``: from the text of a notebook's cell to a function that can be called."""

from __future__ import annotations

import importlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import backends, importer
from ..lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..arguments import Lane

__all__ = ["compare", "tables"]

#: Two functions a language: each copies its argument into memory of its own; one gives that back, the other drops it.
OWNED: Final = {
    "rust": "pub fn given(x: &[f64]) -> Vec<f64> { x.to_vec() }\n"
    "pub fn dropped(x: &[f64]) -> f64 { std::hint::black_box(x.to_vec())[x.len() - 1] }\n",
    "zig": "const Allocator = std.mem.Allocator;\n"
    "pub fn given(memory: Allocator, x: []const f64) ![]f64 {\n    return memory.dupe(f64, x);\n}\n"
    "pub fn dropped(memory: Allocator, x: []const f64) !f64 {\n    const made = try memory.dupe(f64, x);\n"
    "    std.mem.doNotOptimizeAway(made.ptr);\n    return made[made.len - 1];\n}\n",
    "nim": "func given*(x: openArray[float]): seq[float] = @x\nfunc dropped*(x: openArray[float]): float =\n"
    "  let made = @x\n  made[made.high]\n",
    "julia": "given(x::Vec{Float64}) = collect(x)\ndropped(x::Vec{Float64}) = collect(x)[end]\n",
}
#: Elements of the array that is given back: 8 MB.
ELEMENTS: Final = 1 << 20


def compare(rounds: int, seed: int, lanes: Sequence[Lane] = ("direct", "isolated")) -> dict[str, Any]:
    """Compile each language's example again and again, with another comment each time, so that nobody has it yet.

    Parameters
    ----------
    rounds
        How often for each contender; an order is drawn for each round. One more comes before, which isn't counted.
    seed
        Of the orders and the comments.
    lanes
        Where arrays are given back.

    Returns
    -------
    dict
        ``cells``: for each contender ``title`` and the milliseconds ``ms``, ``q1_ms``, ``q3_ms``, ``min_ms`` and
        ``max_ms`` from text to callable, in the isolated lane. ``imports``: the same of ``import`` of a file that was
        compiled before, from its text to its module. ``owned``: for each language and lane what it costs to give
        back an array of 8 MB that the function made: ``given`` and ``dropped``, with and without it, ``copy``, NumPy's
        copy of as much, and ``copies``, the difference as a multiple of that (of the shortest times).
        ``unavailable``: who can't take part, and why.
    """
    rng = random.Random(seed)  # noqa: S311
    lab, x = Lab(lane="isolated"), np.arange(100.0)
    loaded = [name for name, it in lab.backends.items() if it.loaded]
    contenders = {name: (name, True) for name in loaded}
    contenders |= {f"{name} debug": (name, False) for name in loaded if backends.find(name).compiled}
    times: dict[str, list[float]] = {it: [] for it in contenders}
    for number in range(rounds + 1):
        for contender in rng.sample([*contenders], len(contenders)):
            name, release = contenders[contender]
            backend = backends.find(name)
            source = f"{backend.example}{backend.comment} {rng.getrandbits(64)}\n"
            start = time.perf_counter()
            cell = lab.cell(name, source, release=release)
            taken = time.perf_counter() - start
            if cell.cached or cell.functions["mean"](x) != x.mean():
                raise AssertionError(f"{name}: a cell that wasn't compiled, or a wrong answer")
            if number > 0:
                times[contender].append(1e3 * taken)
    return {
        "cells": {
            contender: {
                "title": f"{lab.backends[name].title}{'' if release else ', --debug'}",
                **_spread(times[contender]),
            }
            for contender, (name, release) in contenders.items()
        },
        "imports": {name: _spread(_imports(lab, name, rounds)) for name in loaded},
        "owned": {
            f"{name}, {lane}": _owned(lab, name, lane, 10 * rounds)
            for name in OWNED
            if name in loaded
            for lane in lanes
        },
        "unavailable": {it.name: it.reason for it in lab.backends.values() if not it.loaded},
    }


def _imports(lab: Lab, language: str, rounds: int) -> list[float]:
    """Import a file that was imported before, as a new process would; return milliseconds."""
    backend, times = backends.find(language), []
    with tempfile.TemporaryDirectory() as folder:
        name = f"measured_{language}"
        Path(folder, name + backend.suffix).write_text(backend.example)
        importer.use(lab)
        sys.path.insert(0, folder)
        try:
            for number in range(rounds + 1):
                sys.modules.pop(name, None)
                start = time.perf_counter()
                importlib.import_module(name)
                if number > 0:  # the first compiles
                    times.append(1e3 * (time.perf_counter() - start))
        finally:
            sys.path.remove(folder)
    return times


def _owned(lab: Lab, language: str, lane: Lane, rounds: int) -> dict[str, Any]:
    """Time an array that a function made and gives back, beside one that it drops and a copy by NumPy."""
    functions = lab.cell(language, OWNED[language], lane=lane, replace=True).functions
    x = lab.memory.from_array(np.arange(float(ELEMENTS)))
    own, target = np.array(x), np.empty(ELEMENTS)
    if not np.array_equal(functions["given"](x), own) or functions["dropped"](x) != own[-1]:
        raise AssertionError(f"{language}: a wrong answer")
    calls: dict[str, Callable[[], object]] = {
        "given": lambda: functions["given"](x),
        "dropped": lambda: functions["dropped"](x),
        "copy": lambda: np.copyto(target, own),
    }
    times: dict[str, list[float]] = {it: [] for it in calls}
    for _ in range(rounds):
        for it, call in calls.items():
            start = time.perf_counter()
            call()
            times[it].append(1e3 * (time.perf_counter() - start))
    made = (min(times["given"]) - min(times["dropped"])) / min(times["copy"])
    return {**{it: _spread(ms) for it, ms in times.items()}, "copies": made}


def _spread(ms: Sequence[float]) -> dict[str, float]:
    ends = np.quantile(ms, np.linspace(0, 1, 5)).tolist()
    return dict(zip(("min_ms", "q1_ms", "ms", "q3_ms", "max_ms"), ends, strict=True))


def tables(result: dict[str, Any]) -> list[tuple[str, Sequence[Sequence[str]]]]:
    """Return the contenders as a table of text."""
    rows = [("", "ms", "quartiles", "min", "max")]
    for it in sorted(result["cells"].values(), key=lambda it: it["ms"]):
        between = f"{it['q1_ms']:.0f} – {it['q3_ms']:.0f}"
        rows.append((it["title"], f"{it['ms']:.0f}", between, f"{it['min_ms']:.0f}", f"{it['max_ms']:.0f}"))
    imports = [("", "ms", "min", "max")]
    imports += [
        (name, *(f"{it[key]:.1f}" for key in ("ms", "min_ms", "max_ms"))) for name, it in result["imports"].items()
    ]
    owned = [("", "given", "dropped", "a copy", "hand-over in copies")]
    owned += [
        (
            name,
            *(f"{it[key]['min_ms']:.2f} – {it[key]['ms']:.2f}" for key in ("given", "dropped", "copy")),
            f"{it['copies']:.2f}",
        )
        for name, it in result["owned"].items()
    ]
    return [
        ("from a cell's text to its function", rows),
        ("import of a file that was compiled before", imports),
        ("an array of 8 MB that the function made, ms (least, median)", owned),
    ]
