"""``nif-lab bench gpu``: blocks, copies and starts of kernels on a device, beside CuPy's and the driver's own."""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from .. import _core
from ..gpu.nvrtc import compiled
from ..lab import Lab
from .measure import quartiles, young_heap

__all__ = ["compare", "tables"]

#: Calls in a turn, by the kind of a group.
CALLS: Final = {"block": 2000, "start": 300, "hand-over": 2000, "copy": 3}
KERNELS: Final = """extern "C" __global__ void none() {}
extern "C" __global__ void three(double a, const double *x, double *y) {}"""
SIZES: Final = {"4 KiB": 4 << 10, "1 MiB": 1 << 20, "64 MiB": 64 << 20}
HOST_COPIES: Final = {"64 MiB": 64 << 20}
COPIES: Final = {"64 MiB": 64 << 20, "1 GiB": 1 << 30}

Contender = Callable[[], object]


def compare(rounds: int, seed: int, languages: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare, contenders of a group interleaved.

    Parameters
    ----------
    rounds
        Turns of each contender.
    seed
        Of the orders.
    languages
        Those that start kernels; all unless given.

    Returns
    -------
    dict
        ``groups``: for each group the contenders with ``us`` or ``gb_per_s``: first quartile, median, third quartile;
        ``device``, and ``unavailable``.

    Raises
    ------
    GpuUnavailable
        Without a device.
    """
    order = random.Random(seed)  # noqa: S311
    lab = Lab(languages, gpu_limits={"rust": 3 << 30})
    (device, *_) = lab.gpu.devices
    unavailable = {name: it.reason for name, it in lab.backends.items() if not it.loaded}
    cupy = _cupy(unavailable)
    groups: dict[str, dict[str, dict[str, list[float]]]] = {}
    for heading, kind, size, contenders in _groups(lab, cupy):
        turns: dict[str, list[float]] = {name: [] for name in contenders}
        for call in contenders.values():
            for _ in range(max(2, CALLS[kind] // 10)):
                call()
        with young_heap():
            for _ in range(rounds):
                for name in order.sample([*contenders], len(contenders)):
                    turns[name].append(_seconds(contenders[name], CALLS[kind], lab.gpu.synchronize))
        groups[heading] = {
            name: {"gb_per_s": list(quartiles(size / 1e9 / np.array(it)))}
            if kind == "copy"
            else {"us": list(quartiles(np.array(it) * 1e6))}
            for name, it in turns.items()
        }
    about = {"model": device.model, "capability": device.capability, "memory": device.memory}
    return {"groups": groups, "device": about, "unavailable": unavailable}


def _seconds(call: Contender, count: int, settle: Callable[[], object]) -> float:
    """Return the seconds of one call; what it left in the device's queue is waited for afterwards."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    taken = time.perf_counter() - start
    settle()
    return taken / count


def _cupy(unavailable: dict[str, str]) -> Any:
    try:
        import cupy
    except ImportError as error:
        unavailable["CuPy"] = str(error)
        return None
    return cupy


def _groups(lab: Lab, cupy: Any) -> Iterator[tuple[str, str, int, dict[str, Contender]]]:
    """Make each group when its turn comes: heading, kind, bytes of a copy, contenders. Answers are asserted here."""
    for title, size in SIZES.items():
        yield f"a block of {title} and its release", "block", size, _blocks(lab, cupy, size)
    empty = lab.gpu.compile(KERNELS)
    yield "start of a kernel without arguments", "start", 0, _starts(lab, cupy, empty, "none")
    yield "start of a kernel with three arguments", "start", 0, _starts(lab, cupy, empty, "three")
    yield "hand-over to another language and back", "hand-over", 0, _hand_overs(lab)
    for title, size in HOST_COPIES.items():
        yield f"host to device, {title}", "copy", size, _uploads(lab, cupy, size)
        yield f"device to host, {title}", "copy", size, _downloads(lab, cupy, size)
    for title, size in COPIES.items():
        yield f"device to device, {title}", "copy", size, _copies(lab, cupy, size)


def _blocks(lab: Lab, cupy: Any, size: int) -> dict[str, Contender]:
    core, kind, owners = lab.memory.devices.core, np.dtype("u1"), ["julia"]
    lab.memory.devices.allocate(2 * size, "u1", ["julia"], zeroed=False).close()  # the pool has grown
    found: dict[str, Contender] = {
        "the core's pool": lambda: core.allocate(0, "gpu_julia", 512 << 20, [size], kind, owners, False),
        "lab.memory.allocate, zeros": lambda: lab.memory.allocate(size, "u1", owners, device="gpu"),
    }
    if cupy is not None:
        pool = cupy.get_default_memory_pool()
        found |= {"CuPy: pool.malloc": lambda: pool.malloc(size), "CuPy: empty": lambda: cupy.empty(size, "u1")}
    return found


def _starts(lab: Lab, cupy: Any, kernels: Any, name: str) -> dict[str, Contender]:
    x = lab.memory.allocate(1000, device="gpu")
    given = (1.0, x, x) if name == "three" else ()
    found: dict[str, Contender] = {}
    for language, backend in lab.backends.items():
        if backend.loaded:
            found[f"{backend.title}, prepared"] = lab.gpu.prepare(kernels[name], 1, 32, *given, language=language)
    found["lab.gpu.launch"] = lambda: lab.gpu.launch(kernels[name], 1, 32, *given)
    if cupy is not None:
        raw, y = cupy.RawKernel(KERNELS, name), cupy.zeros(1000)
        theirs = (1.0, y, y) if name == "three" else ()
        found["CuPy: RawKernel"] = lambda: raw((1,), (32,), theirs)
    if name == "none":
        found["the driver by ctypes"] = _driver()
    return found


def _driver() -> Contender:
    """Return a start by the driver itself."""
    driver = ctypes.CDLL(_core.gpu_driver()[1])
    module, function, context = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    code = compiled(KERNELS, _core.gpu_device(0)[3])
    for status in (
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
        driver.cuCtxSetCurrent(context),
        driver.cuModuleLoadData(ctypes.byref(module), code),
        driver.cuModuleGetFunction(ctypes.byref(function), module, b"none"),
    ):
        if status:
            raise AssertionError(f"the driver answered {status}")
    launch = driver.cuLaunchKernel
    launch.argtypes = [ctypes.c_void_p] + [ctypes.c_uint] * 7 + [ctypes.c_void_p] * 3
    return lambda: launch(function, 1, 1, 1, 32, 1, 1, 0, None, None, None)


def _hand_overs(lab: Lab) -> dict[str, Contender]:
    loaded = [name for name, it in lab.backends.items() if it.loaded]
    found: dict[str, Contender] = {}
    for size in (1000, 1 << 20):
        x = lab.memory.allocate(size, "f8", [loaded[0]], device="gpu")

        def call(x: Any = x) -> None:
            x.retain(loaded[-1])
            x.release(loaded[-1])

        found[f"{x.nbytes / 1e3:,.0f} kB"] = call
    return found


def _uploads(lab: Lab, cupy: Any, size: int) -> dict[str, Contender]:
    host = lab.memory.allocate(size, "u1")
    theirs = np.full(size, 3, "u1")
    host.array[:] = 7
    x = lab.memory.devices.allocate(size, "u1", ["rust"], zeroed=False)
    x.copy_from(host.array)  # the first copy locks the block in place
    if not (x.numpy()[:: size // 97] == 7).all():
        raise AssertionError("a wrong copy")
    found: dict[str, Contender] = {
        "NumPy's memory": lambda: x.copy_from(theirs),
        "a pool's block": lambda: x.copy_from(host.array),
    }
    if cupy is not None:
        pinned, there = cupy.cuda.alloc_pinned_memory(size), cupy.empty(size, "u1")
        found["CuPy: pinned"] = lambda: there.data.copy_from_host(pinned.ptr, size)
    return found


def _downloads(lab: Lab, cupy: Any, size: int) -> dict[str, Contender]:
    host, theirs = lab.memory.allocate(size, "u1"), np.empty(size, "u1")
    x = lab.memory.devices.allocate(size, "u1", ["rust"], zeroed=False)
    lab.rust.gpu_fill(x, 9.0)
    x.copy_to(host.array)
    if not (host.array[:: size // 97] == 9).all():
        raise AssertionError("a wrong copy")
    found: dict[str, Contender] = {
        "NumPy's memory": lambda: x.copy_to(theirs),
        "a pool's block": lambda: x.copy_to(host.array),
    }
    if cupy is not None:
        pinned, there = cupy.cuda.alloc_pinned_memory(size), cupy.empty(size, "u1")
        found["CuPy: pinned"] = lambda: there.data.copy_to_host(pinned.ptr, size)
    return found


def _copies(lab: Lab, cupy: Any, size: int) -> dict[str, Contender]:
    a, b = (lab.memory.devices.allocate(size, "u1", ["rust"], zeroed=True) for _ in range(2))
    lab.rust.gpu_fill(a, 5.0)
    lab.rust.gpu_copy(a, b)
    if not (b.numpy()[:: size // 97] == 5).all():
        raise AssertionError("a wrong copy")

    def ours() -> None:
        lab.rust.gpu_copy(a, b)
        lab.gpu.synchronize()

    found: dict[str, Contender] = {"rust.gpu_copy": ours}
    if cupy is not None:
        c, d = cupy.zeros(size, "u1"), cupy.zeros(size, "u1")

        def theirs() -> None:
            d.data.copy_from_device(c.data, d.nbytes)
            cupy.cuda.Stream.null.synchronize()

        found["CuPy"] = theirs
    return found


def tables(result: dict[str, Any]) -> list[tuple[str, list[Sequence[str]]]]:
    """Return the figures as tables of text."""
    found = []
    for heading, contenders in result["groups"].items():
        unit = next(iter(next(iter(contenders.values()))))
        rows: list[Sequence[str]] = [(heading, {"us": "µs", "gb_per_s": "GB/s"}[unit], "quartiles")]
        for name, row in contenders.items():
            low, middle, high = (f"{it:,.0f}" if it >= 100 else f"{it:.3g}" for it in row[unit])
            rows.append((name, middle, f"{low} – {high}"))
        found.append((heading, rows))
    return found
