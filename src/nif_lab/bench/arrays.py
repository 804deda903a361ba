"""``nif-lab bench arrays``: what a call costs with the arrays of other libraries, and by other ways of taking them."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .contender import WrongAnswer, operands
from .measure import Loop, interleave, quartiles
from .peers import Workshop, bound, gather

if TYPE_CHECKING:
    from ..lab import Lab

__all__ = ["KINDS", "WAYS", "compare", "tables"]

#: What one contender's turn takes; the reference takes as long once more.
LOOP_MS: Final = 3.0
#: Who is called.
WAYS: Final = {
    "nif_lab": "nif_lab rust, direct lane, monitored",
    "tvm-ffi": "tvm-ffi",
    "nanobind": "nanobind, nb::ndarray",
    "numpy": "numpy.asarray, then the C extension",
    "capsules": "two capsules of `__dlpack__`, and no call",
}

Call = tuple[Callable[..., Any], tuple[Any, ...]]


def _tensors(name: str) -> Callable[[np.ndarray], Any]:
    return lambda x: importlib.import_module(name).from_dlpack(x.copy())


def _wrapped(x: np.ndarray) -> Any:
    wrapper = importlib.import_module("tvm_ffi.core").DLTensorTestWrapper
    return wrapper(importlib.import_module("tvm_ffi").from_dlpack(x.copy()))


def _jax(x: np.ndarray) -> Any:
    jax = importlib.import_module("jax")
    with jax.enable_x64(True):
        return jax.numpy.asarray(x)


#: The arrays, and how each is made of NumPy's.
KINDS: Final[dict[str, Callable[[np.ndarray], Any]]] = {
    "NumPy": lambda x: x,
    "torch": _tensors("torch"),
    "tvm_ffi": _tensors("tvm_ffi"),
    "exchange table": _wrapped,
    "JAX": _jax,
    "pyarrow": lambda x: importlib.import_module("pyarrow").array(x),
    "polars": lambda x: importlib.import_module("polars").Series(x),
    "pandas": lambda x: importlib.import_module("pandas").Series(x),
    "xarray": lambda x: importlib.import_module("xarray").DataArray(x),
    "memoryview": lambda x: x.copy().data,
}


def _capsules(x: Any, y: Any) -> None:
    x.__dlpack__(max_version=(1, 3))
    y.__dlpack__(max_version=(1, 3))


def _answers(function: Callable[..., Any], x: Any, y: Any) -> float | str:
    """Return what a contender makes of a kind, or why it refuses it."""
    try:
        return float(function(x, y))
    except Exception as error:  # each has its own words
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"


def _contenders(kind: str, ways: dict[str, Callable[..., Any]]) -> Iterator[tuple[str, Call | str]]:
    try:
        x, y = map(KINDS[kind], operands())
    except ImportError as error:
        yield "", f"{error}; pip install {error.name}"
        return
    right = math.fsum(np.multiply(*operands()))
    for way, function in ways.items():
        answer = _answers(function, x, y)
        if isinstance(answer, str):
            yield way, answer
            continue
        if not math.isclose(answer, right, rel_tol=1e-12):
            raise WrongAnswer(f"{way} of {kind}: dot is {answer!r}, not {right!r}")
        yield way, (function, (x, y))
    if hasattr(x, "__dlpack__"):
        try:
            _capsules(x, y)
        except (TypeError, BufferError) as error:  # without versions
            yield "capsules", f"{type(error).__name__}: {error}"
        else:
            yield "capsules", (_capsules, (x, y))


def compare(
    lab: Lab, rounds: int, seed: int, *, workshop: Workshop | None = None, loop_ms: float = LOOP_MS
) -> dict[str, Any]:
    """Time dot of two vectors of 100 float64 of each kind by each way, interleaved.

    Parameters
    ----------
    lab
        Whose Rust backend is called.
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
        ``kinds``: for each kind and way ``ns``, ``q1_ns`` and ``q3_ns`` of a call, and ``ratio``, ``ratio_q1`` and
        ``ratio_q3`` to nif_lab's call with NumPy arrays in the same frame (its own is the control). ``refused``: what
        can't be called so, and its words. Besides ``titles`` and ``unavailable``.

    Raises
    ------
    WrongAnswer
        If a contender computes something else.
    """
    workshop = workshop or Workshop()
    extension = bound(workshop).calls["dot"][0]
    peers, unavailable = gather(workshop, lab.rust.path)
    others = {it.name: it.calls["dot"][0] for it in peers if it.name in {"tvm-ffi", "nanobind"}}
    asarray = np.asarray
    ways: dict[str, Callable[..., Any]] = {
        "nif_lab": lab.rust.dot, **others, "numpy": lambda x, y: extension(asarray(x), asarray(y)),
    }  # fmt: skip
    calls: dict[tuple[str, str], Call] = {}
    refused: dict[str, str] = {}
    for kind in KINDS:
        for way, found in _contenders(kind, ways):
            if not isinstance(found, str):
                calls[kind, way] = found
            elif way:
                refused[f"{kind} by {way}"] = found
            else:
                unavailable[kind] = found
    loops = {f"{kind}/{way}": Loop(f, *given).aim(loop_ms) for (kind, way), (f, given) in calls.items()}
    function, given = calls["NumPy", "nif_lab"]
    order = random.Random(seed)  # noqa: S311 an order that can be repeated, no secret
    times = interleave(loops, Loop(function, *given), rounds, order, loop_ms)
    kinds: dict[str, dict[str, dict[str, float]]] = {}
    for kind, way in calls:
        each = times[f"{kind}/{way}"]
        names = ("q1_ns", "ns", "q3_ns", "ratio_q1", "ratio", "ratio_q3")
        figures = (*quartiles(each.own), *quartiles(each.own / each.reference))
        kinds.setdefault(kind, {})[way] = dict(zip(names, map(float, figures), strict=True))
    titles = {way: WAYS[way] for way in (*ways, "capsules")}
    keep = {name: why for name, why in unavailable.items() if name in {*KINDS, *WAYS}}
    return {"kinds": kinds, "refused": refused, "titles": titles, "unavailable": keep}


def tables(result: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Return the result as tables: a heading and rows of cells each."""
    rows = [["", "ns", "quartiles", "x NumPy's", "quartiles"]]
    for kind, ways in result["kinds"].items():
        for way, it in ways.items():
            rows.append([
                f"{kind}: {result['titles'][way]}",
                f"{it['ns']:,.0f}",
                f"{it['q1_ns']:,.0f} – {it['q3_ns']:,.0f}",
                f"{it['ratio']:.2f}",
                f"{it['ratio_q1']:.2f} – {it['ratio_q3']:.2f}",
            ])  # fmt: skip
    refused = [["", "its words"], *([name, why] for name, why in result["refused"].items())]
    return [("dot of 2 x 100 f64", rows), ("refused", refused)]
