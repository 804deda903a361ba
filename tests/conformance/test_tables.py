"""The tables: what a backend says about itself, and the small rooms of docs/kernels.md."""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from contract import ELEMENTS, FLAGS, FUNCTIONS, ON_DEVICES, parse

if TYPE_CHECKING:
    from contract import Function

    from nif_lab.lab import Lab, LoadedBackend

SHAPES = [(), (0,), (1,), (7,), (3, 4), (0, 4), (4, 0), (2, 1, 3), (2, 3, 4, 5), (1,) * 8]


def test_the_documentation_has_tables() -> None:
    """The tables are parsed; an empty one would make every test below pass."""
    assert len(FUNCTIONS) >= 20
    assert len(ON_DEVICES) == 4
    assert {
        "dot",
        "mandelbrot",
        "layout",
        "write",
        "address",
        "decode",
        "encode",
        "error_value",
        "divide",
    } <= FUNCTIONS.keys()
    assert FUNCTIONS["mandelbrot"].flag_names == {"LONG", "IDEMPOTENT", "POLLS_CANCEL"}
    assert FUNCTIONS["divide"].flag_names == {"FAULT"}


def documented(backend: LoadedBackend) -> dict[str, Function]:
    """What a language should have: the four of the project work on devices too."""
    return {**FUNCTIONS, **({} if backend.name == "c" else ON_DEVICES)}


def test_functions_are_the_documented_ones(backend: LoadedBackend) -> None:
    assert sorted(backend.functions) == sorted(documented(backend))
    assert all(name == nif.name for name, nif in backend.functions.items())


def test_signatures_are_the_documented_ones(backend: LoadedBackend) -> None:
    assert {nif.name: nif.signature for nif in backend.functions.values()} == {
        name: function.signature for name, function in documented(backend).items()
    }


def test_flags_are_the_documented_ones(backend: LoadedBackend) -> None:
    """A backend may be bound to a thread, as a whole; all else is part of a function's meaning."""
    bound = FLAGS["THREAD_BOUND"]
    flags = {nif.name: int(nif.flags) for nif in backend.functions.values()}
    assert {name: bits & ~bound for name, bits in flags.items()} == {
        name: f.flags for name, f in documented(backend).items()
    }
    assert len({bits & bound for bits in flags.values()}) == 1


def test_every_function_has_a_doc(backend: LoadedBackend) -> None:
    for nif in backend.functions.values():
        assert nif.doc.strip() == nif.doc != "", nif.name
        assert not nif.doc.lstrip("`").startswith(f"{nif.name}("), "the doc is the text after the call"


def test_parameters_are_those_of_the_signature(backend: LoadedBackend) -> None:
    for nif in backend.functions.values():
        assert list(nif.parameters) == [p.name for p in parse(nif.signature).parameters]


def test_calling_by_name(lab: Lab, backend: LoadedBackend) -> None:
    x = np.arange(5.0)
    assert lab.call(backend.name, "dot", x, x) == getattr(lab, backend.name).dot(x, x) == backend.dot(x, x) == 30.0


def test_results_have_the_documented_types(backend: LoadedBackend) -> None:
    x = np.ones(3)
    types = {"None": type(None), "f64": float, "u64": int, "i64": int, "str": str}
    for name, arguments in {
        "noop": (), "add": (1, 2), "dot": (x, x), "sum": (x,), "axpy": (1.0, x, x.copy()), "checksum": (x,),
        "layout": (), "address": (x,), "overflow": (1,), "divide": (4, 2), "out_of_bounds": (3,),
    }.items():  # fmt: skip
        result = getattr(backend, name)(*arguments)
        assert type(result) is types[FUNCTIONS[name].result], name


@pytest.mark.parametrize("dtype", ELEMENTS.values())
def test_write_copies(backend: LoadedBackend, dtype: str, rng: np.random.Generator) -> None:
    for shape in SHAPES:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        array = np.frombuffer(rng.integers(0, 2, size, np.uint8).tobytes(), dtype).reshape(shape)
        copy = backend.write(array)
        assert (copy.dtype, copy.shape, copy.tobytes()) == (array.dtype, shape, array.tobytes())
        assert (copy.flags.c_contiguous, copy.flags.writeable, copy.flags.aligned) == (True, True, True)
        assert not np.shares_memory(copy, array)


def test_write_takes_bytes(backend: LoadedBackend) -> None:
    for data in (b"", b"a", b"nif\0lab" * 1000):
        copy = backend.write(data)
        assert (copy.dtype, copy.shape, copy.tobytes()) == (np.uint8, (len(data),), data)


def test_written_arrays_live_as_long_as_they_are_needed(backend: LoadedBackend) -> None:
    """Each in a block of its own, whatever becomes of the others."""
    copies = [backend.write(np.full(100 * i, float(i))) for i in range(60)]
    views = [copy[i % 7 :] for i, copy in enumerate(copies)]
    del copies[::2]
    gc.collect()
    fresh = [backend.write(np.full(100 * i, -1.0)) for i in range(60)]
    for view, other in zip(views, fresh, strict=True):
        np.add(view, 1, out=view)
        assert not np.shares_memory(view, other)
    for i, view in enumerate(views):
        assert (view == i + 1).all()
    assert all((block == -1).all() for block in fresh)


def test_written_arrays_are_given_back(backend: LoadedBackend) -> None:
    x = np.ones(2**17)
    first = {backend.write(x).ctypes.data for _ in range(300)}
    assert len(first) < 100, "each copy is freed before the next is made, so its memory comes up again"


@pytest.mark.parametrize("dtype", ELEMENTS.values())
def test_address_is_where_numpy_has_it(direct: LoadedBackend, dtype: str) -> None:
    """No copy on the way in."""
    block = np.zeros(100, dtype)
    for start in (0, 1, 2, 33):
        for shape in [(), (1,), (24,), (4, 6), (2, 3, 4)]:
            array = block[start : start + math.prod(shape)].reshape(shape)
            assert direct.address(array) == array.ctypes.data


def test_address_of_bytes(direct: LoadedBackend) -> None:
    data = b"nif\0lab"
    assert direct.address(data) == np.frombuffer(data, np.uint8).ctypes.data
