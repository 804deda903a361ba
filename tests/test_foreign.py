"""Arrays of other libraries, other element types and layouts: the right value, no hidden copy, a fix that works."""

from __future__ import annotations

import array
import ctypes
import gc
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tvm_ffi
import xarray as xr

from nif_lab import Lab
from nif_lab.arguments import LANES
from nif_lab.arrays import as_array
from nif_lab.errors import NifError, NifTypeError, NifValueError

X = np.array([0.5, -1.0, 3.25, 8.0])

#: What is read where it lies.
IN_PLACE: dict[str, Any] = {
    "tvm_ffi": lambda x: tvm_ffi.from_dlpack(x.copy()),
    "pyarrow": pa.array,
    "pyarrow slice": lambda x: pa.array(np.concatenate([[9.0, 9.0], x, [9.0]]))[2:6],
    "pyarrow, one chunk": lambda x: pa.chunked_array([pa.array(x)]),
    "pandas": pd.Series,
    "pandas nullable": lambda x: pd.Series(x, dtype="Float64"),
    "xarray": xr.DataArray,
    "array": lambda x: array.array("d", x.tolist()),
    "memoryview": lambda x: memoryview(x.copy()),
    "ctypes": lambda x: (ctypes.c_double * len(x))(*x),
}
#: What costs a copy, and why.
COPIED: dict[str, tuple[Any, str]] = {
    "jax": (jnp.asarray, "argument of another element type"),  # float32, unless jax is told otherwise
    "float32": (lambda x: x.astype("f4"), "argument of another element type"),
    "int32": (lambda x: (x * 4).astype("i4"), "argument of another element type"),
    "big endian": (lambda x: x.astype(">f8"), "argument of another byte order"),
    "strided": (lambda x: np.repeat(x, 2)[::2], "argument not contiguous"),
    "reversed": (lambda x: x[::-1].copy()[::-1], "argument not contiguous"),
    "column": (lambda x: np.stack([x, x], axis=1)[:, 1], "argument not contiguous"),
    "broadcast": (lambda x: np.broadcast_to(x[:1], 4), "argument not contiguous"),
    "list": (lambda x: x.tolist(), "argument is a sequence"),
    "tuple": (lambda x: tuple(x.tolist()), "argument is a sequence"),
}
#: What can't be read, a word of the reason, and what the message advises.
REFUSED: dict[str, tuple[Any, str, Any]] = {
    "pyarrow with nulls": (lambda: pa.array([1.0, None]), "missing values", lambda x: x.drop_null()),
    "pandas with nulls": (lambda: pd.Series([1, None], dtype="Int64"), "missing values", lambda x: x.dropna()),
    "two chunks": (lambda: pa.chunked_array([[1.0], [0.0]]), "2 chunks", lambda x: x.combine_chunks()),
    "text": (lambda: pa.array(["1"]), "text", lambda x: x.cast(pa.float64())),
    "dates": (lambda: np.array(["1970-01-02"], "M8[D]"), "dates or times", lambda x: x.astype("i8").astype("f8")),
    "objects": (lambda: np.array([1, None], object), "objects", lambda x: x[:1].astype("f8")),
    "categories": (lambda: pd.Series(list("ba")).astype("category"), "categories", lambda x: x.cat.codes.astype("f8")),
    "masked": (lambda: np.ma.masked_array([1.0, 5.0], [False, True]), "masked", lambda x: x.filled(0)),
    "complex": (lambda: np.array([1 + 0j]), "without loss", lambda x: x.real),
    "ragged": (lambda: [[1.0], [2.0, 3.0]], "different lengths", lambda x: x[0]),
}


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", ["rust", "zig", "nim", "julia"])
def test_arrays_of_other_libraries_give_the_same_value(lab: Lab, name: str, lane: str) -> None:
    for kind, make in IN_PLACE.items():
        value = make(X)
        before = lab.memory.core.copy_count
        assert lab.call(name, "sum", value, lane=lane) == pytest.approx(X.sum()), kind
        reasons = {reason for _, _, reason in lab.memory.core.copies_since(before, True)}
        assert reasons <= {"argument not in a pool"}, kind  # on its way to a worker; none in this process
        assert lane == "isolated" or not reasons, kind
    for kind, (make, reason) in COPIED.items():
        value = make(X)
        before = lab.memory.core.copy_count
        expected = float(np.sum(as_array(value).array, dtype="f8"))  # type: ignore[union-attr]
        assert lab.call(name, "sum", value, lane=lane) == pytest.approx(expected), kind
        # In a worker the array that was refused had been copied before.
        assert (32, f"{name}.sum", reason) in lab.memory.core.copies_since(before, True), kind


def test_memory_is_read_where_it_lies() -> None:
    base = np.arange(6.0)
    for kind in ("tvm_ffi", "pyarrow", "xarray", "memoryview"):
        make = {"tvm_ffi": tvm_ffi.from_dlpack, "memoryview": memoryview}.get(kind) or IN_PLACE[kind]
        value = make(base)
        taken = as_array(value)
        assert taken is not None
        again = as_array(value)
        assert again is not None
        assert taken.array.ctypes.data == again.array.ctypes.data, kind
        assert not taken.copies, kind


@pytest.mark.slow
def test_memory_outlives_the_object_that_it_is_of() -> None:
    for kind, make in IN_PLACE.items():
        value = make(X)
        taken = as_array(value)
        assert taken is not None
        del value
        gc.collect()
        junk = [np.full(4, 7.0) for _ in range(100)]
        assert (taken.array == X).all(), kind
        del junk


def test_what_cannot_be_read_says_why_and_the_fix_works(lab: Lab) -> None:
    for kind, (make, word, fix) in REFUSED.items():
        value = make()
        with pytest.raises(NifTypeError, match=word) as refused:
            lab.rust.sum(value)
        assert refused.value.argument == "x", kind
        assert "(" in refused.value.reason, f"{kind}: the message names no fix"
        assert lab.rust.sum(fix(value)) == pytest.approx(1.0), kind


def test_what_a_function_writes_is_never_lost(lab: Lab) -> None:
    x = np.ones(3)
    for make, words, fix in (
        (lambda: np.zeros(6)[::2], r"got strides \[2\].*numpy\.ascontiguousarray", np.ascontiguousarray),
        (lambda: np.zeros(3, "f4"), r"got f32\[3\].*numpy\.array\(x, 'f8'\)", lambda y: np.array(y, "f8")),
        (lambda: np.zeros(3, ">f8"), r"byte order.*astype\('f8'\)", lambda y: y.astype("f8")),
        (lambda: [0.0, 0.0, 0.0], r"got list.*numpy\.array\(x, 'f8'\)", lambda y: np.array(y, "f8")),
        (lambda: pa.array(np.zeros(3)), "read-only", np.array),
    ):
        value = make()
        with pytest.raises(NifError, match=words):
            lab.rust.axpy(2.0, x, value)
        fixed = fix(value)
        lab.rust.axpy(2.0, x, fixed)
        assert (fixed == 2).all()
    tensor = tvm_ffi.from_dlpack(np.zeros(3))
    lab.zig.axpy(2.0, x, tensor)
    assert (np.from_dlpack(tensor) == 2).all(), "written where it lies"


def test_strict_refuses_copies_in_the_functions_own_words(lab: Lab) -> None:
    before = lab.memory.core.copy_count
    with pytest.raises(NifValueError, match=r"expected contiguous memory, got strides \[2\]"):
        lab.call("rust", "sum", np.zeros(6)[::2], strict=True)
    with pytest.raises(NifTypeError, match=r"expected f64\[n\], got f32\[3\]"):
        lab.call("zig", "sum", np.zeros(3, "f4"), strict=True)
    assert lab.call("nim", "sum", pa.array(X), strict=True, lane="direct") == X.sum()
    assert lab.memory.core.copy_count == before
    own = Lab(["rust"])
    own.strict = True
    with pytest.raises(NifTypeError, match="got list"):
        own.rust.sum([1.0, 2.0])
    own.strict = False
    assert own.rust.sum([1.0, 2.0]) == 3.0


def test_scalars_of_every_kind(lab: Lab) -> None:
    x = np.ones(2)
    for scalar in (2, 2.0, np.float32(2), np.int8(2), np.array(2.0), np.array(2), jnp.float32(2), True + 1):
        y = np.zeros(2)
        lab.rust.axpy(scalar, x, y)
        assert (y == 2).all()
    with pytest.raises(NifTypeError, match=r"argument 'a': expected f64, got"):
        lab.rust.axpy(np.ones(2), x, x.copy())


def test_results_are_of_the_callers_kind(lab: Lab) -> None:
    a = np.arange(6, dtype="f4").reshape(2, 3)
    for lane in LANES:
        result = lab.call("rust", "transpose", jnp.asarray(a), lane=lane)
        assert isinstance(result, type(jnp.ones(1)))
        assert (np.asarray(result) == a.T).all()
        tensor = lab.call("zig", "transpose", tvm_ffi.from_dlpack(a.astype("f8")), lane=lane)
        assert isinstance(tensor, tvm_ffi.Tensor)
        assert (np.from_dlpack(tensor) == a.T).all()
    assert isinstance(lab.rust.transpose(a), np.ndarray)
    assert isinstance(lab.call("rust", "transpose", jnp.asarray(a), result="numpy"), np.ndarray)
    own = Lab(["rust"])
    own.results = "numpy"
    assert isinstance(own.rust.transpose(jnp.asarray(a)), np.ndarray)


def test_a_device_array_names_the_fix(lab: Lab) -> None:
    class OnDevice:
        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("nobody should ask for it")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 1)

    with pytest.raises(NifTypeError, match=r"memory of cuda:1 \(copy it to the host first"):
        lab.rust.sum(OnDevice())
