"""Peers that call a plain library: ctypes, cffi, and apache-tvm-ffi, which opens one of our own.

ctypes and cffi pass pointers and know nothing of arrays. So each of them stands twice in ``dot``: with the checks and
conversions written in Python, as its users write them, and with pointers made before the call and nothing checked, the
best that it can do.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from ...errors import BackendError
from ..contender import Contender, operands
from .workshop import HERE, Workshop

__all__ = ["cffi_api", "ctypes_library", "tvm_ffi"]

F64: Final = np.dtype(np.float64)

DECLARATIONS: Final = """
void noop(void);
double add(double x, double y);
double dot(const double *x, const double *y, ptrdiff_t n);
"""


def _length(x: Any, y: Any) -> int:
    """Return the length that two vectors share, after the checks of the backends."""
    for array in (x, y):
        if not isinstance(array, np.ndarray) or array.dtype != F64:
            raise TypeError("must be an array of f64")
        flags = array.flags
        if array.ndim != 1 or not flags.c_contiguous or not flags.aligned:
            raise ValueError("must be contiguous and aligned, with one axis")
    if len(x) != len(y):
        raise ValueError(f"lengths differ: {len(x)} and {len(y)}")
    return len(x)


def _twice(
    name: str,
    title: str,
    functions: Any,
    convert: str,
    pointer: Callable[[Any], Any],
    checked: Callable[[Any, Any], float],
) -> Iterator[Contender]:
    """Yield the checked form and the one with everything made before."""
    named = SimpleNamespace(noop=functions.noop, add=functions.add, dot=checked)
    yield Contender.of(name, f"{title}, {convert}", named)
    x, y = operands()
    before = (pointer(x), pointer(y), len(x))
    calls = {"dot": (functions.dot, before)}
    yield Contender(f"{name}-prepared", f"{title}, pointers made before, no checks", calls, checks=False)


def ctypes_library(workshop: Workshop) -> Iterator[Contender]:
    """Yield ctypes with ``data_as`` inside the call, and with pointers made before."""
    path = workshop.made(
        "plain", ["plain.c", "kernel.h"], lambda folder: workshop.compile(folder / "plain", [HERE / "plain.c"])
    )
    library = ctypes.CDLL(str(path))
    pointer_type = ctypes.POINTER(ctypes.c_double)
    library.noop.argtypes, library.noop.restype = (), None
    library.add.argtypes, library.add.restype = (ctypes.c_double, ctypes.c_double), ctypes.c_double
    library.dot.argtypes, library.dot.restype = (pointer_type, pointer_type, ctypes.c_ssize_t), ctypes.c_double
    c_dot = library.dot

    def dot(x: Any, y: Any) -> float:
        n = _length(x, y)
        result: float = c_dot(x.ctypes.data_as(pointer_type), y.ctypes.data_as(pointer_type), n)
        return result

    yield from _twice("ctypes", "ctypes", library, "data_as", lambda array: array.ctypes.data_as(pointer_type), dot)


def cffi_api(workshop: Workshop) -> Iterator[Contender]:
    """Yield cffi in its fast mode (API, out of line) with ``from_buffer``, and with pointers made before."""
    package = importlib.import_module("cffi")
    name = "nif_lab_cffi"

    def make(folder: Path) -> Path:
        builder = package.FFI()
        builder.cdef(DECLARATIONS)
        # The kernels go into the same file: cffi's own wrapper is then all that stands between.
        source = (HERE / "plain.c").read_text().replace("EXPORT ", "static ")
        importlib.import_module("cffi.recompiler").make_c_source(builder, name, source, str(folder / "cffi.c"))
        return workshop.compile(folder / "cffi", [folder / "cffi.c"])

    module: Any = workshop.load(name, workshop.made("cffi", ["plain.c", "kernel.h"], make, package.__version__))
    from_buffer, c_dot = module.ffi.from_buffer, module.lib.dot

    def dot(x: Any, y: Any) -> float:
        n = _length(x, y)
        result: float = c_dot(from_buffer("double[]", x), from_buffer("double[]", y), n)
        return result

    yield from _twice(
        "cffi",
        f"cffi {package.__version__}",
        module.lib,
        "from_buffer",
        lambda array: from_buffer("double[]", array),
        dot,
    )


def tvm_ffi(library: str | None) -> Iterator[Contender]:
    """Yield apache-tvm-ffi on a library of ours, with NumPy through DLPack, and with tensors made before."""
    package = importlib.import_module("tvm_ffi")
    if library is None:
        raise BackendError("no backend with a library file is loaded, and it opens one of those", "nif-lab doctor")
    module = package.load_module(library)
    functions = SimpleNamespace(noop=module.noop, add=module.add, dot=module.dot)
    yield Contender.of("tvm-ffi", f"tvm-ffi {package.__version__}, NumPy through DLPack", functions)
    x, y = map(package.from_dlpack, operands())
    yield Contender("tvm-ffi-prepared", "tvm-ffi, tensors made before", {"dot": (functions.dot, (x, y))})
