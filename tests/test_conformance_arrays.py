"""What people bring: every kind of array by every protocol, its value, address and lifetime, and what is refused."""

from __future__ import annotations

import array
import collections
import ctypes
import decimal
import gc
import mmap
import threading
import weakref
from collections.abc import Callable
from ctypes import POINTER
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tvm_ffi
import xarray as xr
from labs import check_that_the_core_reads
from numpy.lib.stride_tricks import as_strided
from tensors import KEPT, ByCapsule, ByManaged, ByTable, Newer

from nif_lab import Lab, wire
from nif_lab.arguments import LANES
from nif_lab.errors import ArgumentTypeError, BufferReleased, CopyRequired, NifError, NifTypeError, NifValueError

X = np.array([0.5, -1.0, 3.25, 8.0])
LANGUAGES = ["rust", "zig", "nim", "julia"]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", LANGUAGES)
def test_every_protocol_gives_the_value(lab: Lab, name: str, lane: str) -> None:
    kinds: list[Callable[[np.ndarray], Any]] = [
        ByTable, ByManaged, Newer, ByCapsule, lambda x: ByCapsule(x, is_old=True), tvm_ffi.from_dlpack,
    ]  # fmt: skip
    for make in kinds:
        for x in (X.copy(), np.zeros(0), np.arange(1000.0)):
            value = make(x)
            before = lab.memory.core.copy_count
            assert lab.call(name, "sum", value, lane=lane) == pytest.approx(x.sum())
            assert lab.call(name, "dot", x=value, y=x, lane=lane) == pytest.approx(x @ x)
            assert lab.call(name, "axpy", 2.0, value, y := np.ones(len(x)), lane=lane) is None
            assert (y == 1 + 2 * x).all()
            reasons = {reason for _, _, reason in lab.memory.core.copies_since(before, True)}
            assert all("not in a pool" in it for it in reasons), "a worker's copies alone"
            assert lane == "isolated" or not reasons
        for strided in (X[::-1], np.repeat(X, 2)[::2], as_strided(X, (4,), (0,))):
            if make is tvm_ffi.from_dlpack and strided.strides[0] <= 0:
                continue  # it makes none of them
            assert lab.call(name, "sum", make(strided), lane=lane) == pytest.approx(strided.sum())


@pytest.mark.parametrize("name", ["rust", "zig", "nim"])
def test_elements_are_read_where_they_lie(lab: Lab, name: str) -> None:
    x = np.arange(12.0).reshape(3, 4)
    for value in (ByTable(x), ByManaged(x), ByCapsule(x), tvm_ffi.from_dlpack(x), xr.DataArray(x), memoryview(x)):
        assert lab.call(name, "address", value) == x.ctypes.data
    for one in (pa.array(X), pd.Series(X)):
        assert lab.call(name, "address", one) == np.asarray(one).ctypes.data
    many = x.reshape((1,) * 30 + (3, 4))
    assert lab.call(name, "address", ByTable(many)) == x.ctypes.data
    assert lab.call(name, "checksum", ByTable(x.reshape((1,) * 62 + (3, 4)))) == lab.call(name, "checksum", x)
    for value, axes in ((ByTable(x), "f64[3,4]"), (ByCapsule(np.array(2.0)), "f64[]")):
        with pytest.raises(NifValueError, match=rf"expected f64\[n\], got {axes.replace('[', chr(92) + '[')}"):
            lab.call(name, "sum", value)


@pytest.mark.parametrize("name", LANGUAGES)
def test_what_is_written_is_where_it_was_asked_for(lab: Lab, name: str) -> None:
    for kind in (ByTable, ByManaged, ByCapsule, tvm_ffi.from_dlpack):
        y = np.zeros(4)
        value = kind(y)
        for lane in LANES:
            lab.call(name, "axpy", 1.0, X, value, lane=lane)
        seen = np.from_dlpack(value) if isinstance(value, tvm_ffi.Tensor) else y
        assert (seen == 2 * X).all()
    for value, fix in (
        (type("ReadOnly", (ByTable,), {"flags": 1})(np.zeros(4)), lambda it: it.x),
        (ByCapsule(np.zeros(4), is_old=True), lambda it: it.x),  # old capsules can't say that they may be written to
        (pa.array(np.zeros(4)), np.array),
        (np.broadcast_to(0.0, 4), np.array),
    ):
        with pytest.raises(NifError, match=r"read-only|lose"):
            lab.call(name, "axpy", 1.0, X, value)
        lab.call(name, "axpy", 1.0, X, fixed := fix(value))
        assert (fixed == X).all()


def test_what_torch_keeps_for_later_is_seen(lab: Lab) -> None:
    class Recording(ByTable):
        requires_grad = True

    with pytest.raises(NifTypeError, match=r"records gradients \(detach it: x\.detach\(\)\)"):
        lab.rust.sum(Recording(X))

    class Negated(ByTable):
        asked = 0

        def is_neg(self) -> bool:
            type(self).asked += 1
            return True

        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("the tensor's negative bit is set")

    with pytest.raises(NifTypeError, match=r"negated.*resolve_neg"):
        lab.rust.sum(Negated(np.repeat(X, 2)[::2]))
    assert Negated.asked


def test_device_memory_names_gpu_pools(lab: Lab) -> None:
    class OnDevice(ByTable):
        device = 2

    class Cuda:
        __cuda_array_interface__: ClassVar = {"shape": (4,), "typestr": "<f8", "data": (4096, False), "version": 3}

    for value in (OnDevice(X), Cuda()):
        for take in (
            lab.rust.sum,
            lambda it: lab.call("zig", "sum", it, lane="isolated"),
            lambda it: lab.rust.add(it, 1.0),
            lambda it: lab.rust.dot(x=X, y=it),
        ):
            with pytest.raises(
                NifTypeError, match=r"memory of cuda.*copy it to the host first.*gpu functions take memory of a device"
            ):
                take(value)
        for door in (
            lambda it: lab.transfer("rust", "zig", it),
            lab.memory.from_array,
            lab.wire.encode,
        ):
            with pytest.raises((ArgumentTypeError, wire.WireError), match="gpu functions take memory of a device"):
                door(value)


def test_a_producer_may_die_first_and_its_deleter_is_called_once(lab: Lab) -> None:
    del ByTable.deleted[:]
    value = ByManaged(X)
    assert lab.rust.sum(value) == X.sum()
    assert ByTable.deleted == [threading.current_thread().name]
    for lane in LANES:
        thread = threading.Thread(target=lambda lane=lane: lab.call("nim", "sum", ByManaged(X), lane=lane))
        thread.start()
        thread.join()
    assert len(ByTable.deleted) == 3
    assert not KEPT
    held = ByCapsule(np.arange(4.0))
    gone = weakref.ref(held)
    assert lab.zig.sum(held) == 6.0
    del held
    assert gone() is None, "nothing is kept after the call"


def test_a_shared_buffer_has_the_table(lab: Lab) -> None:
    buffer = lab.memory.from_array(np.arange(6.0).reshape(2, 3))
    tensor = tvm_ffi.from_dlpack(buffer)
    assert tensor.shape == (2, 3)
    assert tensor.strides == (3, 1)
    assert tensor.data_ptr() == buffer.address
    assert lab.rust.address(buffer) == buffer.address
    seen = np.from_dlpack(tensor)
    seen[0, 0] = 7.0
    assert buffer[0, 0] == 7.0, "one memory"
    buffer.close()
    gc.collect()
    other = lab.memory.from_array(np.full((2, 3), 9.0))
    assert seen.tolist() == [[7.0, 1.0, 2.0], [3.0, 4.0, 5.0]], "the tensor keeps the block"
    other.close()
    done = threading.Thread(target=lambda it=[tensor, seen]: it.clear())
    del tensor, seen
    done.start()
    done.join()
    with pytest.raises(BufferReleased):
        tvm_ffi.from_dlpack(buffer)
    for dtype, shape in (("i4", (3,)), ("?", (2, 2)), ("f4", (0, 5)), ("c16", ()), ("u2", (1, 2, 3, 4, 5))):
        with lab.memory.allocate(shape, dtype) as made:
            assert np.from_dlpack(tvm_ffi.from_dlpack(made)).dtype == np.dtype(dtype)
            assert tuple(tvm_ffi.from_dlpack(made).shape) == shape
    with lab.memory.allocate(2, "M8[s]") as dates, pytest.raises(BufferError):
        tvm_ffi.from_dlpack(dates)


class Dataset:
    """As of h5py or zarr: a file's, which is read when it is asked for."""

    def __init__(self, x: np.ndarray) -> None:
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.x, dtype)

    def __getitem__(self, key: Any) -> Any:
        return self.x[key]

    def __len__(self) -> int:
        return len(self.x)


RECORDS = np.array([(0.5, 1), (2.5, 2)], dtype=[("a", "f8"), ("b", "i4")])
#: What is brought, what its sum is, and why it was copied.
TAKEN: dict[str, tuple[Any, float, str | None]] = {
    "float16": (X.astype("f2"), X.sum(), "element type"),
    "bfloat16 of jax": (jnp.asarray(X, dtype=jnp.bfloat16), X.sum(), "element type"),
    "jax with x64 off": (jnp.asarray(X), X.sum(), "element type"),
    "pandas with NaN": (pd.Series([1.0, np.nan]), np.nan, None),
    "pandas over NumPy": (pd.Series(X), X.sum(), None),
    "pandas nullable": (pd.Series([1, 2], dtype="Int64"), 3.0, "element type"),
    "pandas over Arrow": (pd.Series(X, dtype="double[pyarrow]"), X.sum(), None),
    "pandas index": (pd.RangeIndex(4), 6.0, "element type"),
    "pandas booleans": (pd.Series([True, False]), 1.0, "element type"),
    "no chunks": (pa.chunked_array([], type=pa.float64()), 0.0, None),
    "arrow slice after nulls": (pa.array([None, 1.0, 2.0])[1:], 3.0, None),
    "arrow booleans": (pa.array([True, False, True]), 2.0, "element type"),
    "arrow float16": (pa.array(X.astype("f2")), X.sum(), "element type"),
    "xarray with coordinates": (xr.DataArray(X, coords={"t": range(4)}, dims="t"), X.sum(), None),
    "range": (range(4), 6.0, "sequence"),
    "deque": (collections.deque([1.0, 2.0]), 3.0, "sequence"),
    "no items": ([], 0.0, None),
    "numpy scalars": ([np.float32(1), np.float64(2)], 3.0, "sequence"),
    "cast memoryview": (memoryview(bytes(32)).cast("d"), 0.0, None),
    "strided memoryview": (memoryview(X)[::2], 3.75, "contiguous"),
    "array of floats": (array.array("f", [1, 2]), 3.0, "element type"),
    "ctypes": ((ctypes.c_int * 3)(1, 2, 3), 6.0, "element type"),
    "memmap": (X.view(np.memmap), X.sum(), None),
    "subclass": (X.view(type("Mine", (np.ndarray,), {})), X.sum(), None),
    "field of records": (RECORDS["a"], 3.0, "contiguous"),
    "big-endian integers": (X.astype(">i4"), 10.0, "element type"),
    "unaligned": (np.frombuffer(b"\0" + X.tobytes(), "u1")[1:].view("f8"), X.sum(), "contiguous"),
    "a file's data set": (Dataset(X), X.sum(), "unpacked"),
    "a file's float32": (Dataset(X.astype("f4")), X.sum(), "element type"),
}
#: What is brought, a word of the reason, and what the message advises.
NOT_TAKEN: dict[str, tuple[Any, str, Any]] = {
    "pandas with pd.NA": (
        pd.Series([1.0, None], dtype="Float64"),
        r"missing values \(drop or fill",
        lambda x: x.dropna(),
    ),
    "pandas objects": (pd.Series([1.0, "2"]), r"Python objects.*asarray\(x, 'f8'\)", lambda x: np.asarray(x, "f8")),
    "Categorical": (pd.Categorical([1, 2]), r"categories \(take their codes", lambda x: x.codes.astype("f8")),
    "pandas dates": (
        pd.Series(pd.date_range("1970", periods=2)),
        "dates or times",
        lambda x: x.astype("i8").astype("f8"),
    ),
    "decimals of Arrow": (pa.array([decimal.Decimal(1)]), "decimals", lambda x: x.cast(pa.float64())),
    "keys of jax": (jax.random.key(0), "key_data", lambda x: np.asarray(jax.random.key_data(x), "f8")),
    "records": (RECORDS, r"records \(take one field: x\['a'\]\)", lambda x: x["a"]),
    "dates": (np.array(["1970-01-02"], "M8[D]"), "dates or times", lambda x: x.astype("i8").astype("f8")),
    "one date": (np.datetime64(1, "s"), "dates or times", lambda x: [float(x.astype("i8"))]),
    "generator": ((float(i) for i in range(3)), r"make it a list: list\(x\)", list),
    "set": ({1.0, 2.0}, r"make it a list: list\(x\)", list),
    "large integers": ([2**70, 1], r"beyond 64 bits.*asarray\(x, 'f8'\)", lambda x: np.asarray(x, "f8")),
    "decimals": ([decimal.Decimal("1.5")], r"asarray\(x, 'f8'\)", lambda x: np.asarray(x, "f8")),
    "None": ([1.0, None], r"missing values", lambda x: x[:1]),
    "bytes": (X.tobytes(), r"frombuffer\(x, 'f8'\)", lambda x: np.frombuffer(x, "f8")),
    "bytearray": (bytearray(X), r"frombuffer\(x, 'f8'\)", lambda x: np.frombuffer(x, "f8")),
    "bytes in a memoryview": (memoryview(X.tobytes()), r"frombuffer\(x, 'f8'\)", lambda x: np.frombuffer(x, "f8")),
    "a buffer of Arrow": (pa.py_buffer(X), r"frombuffer\(x, 'f8'\)", lambda x: np.frombuffer(x, "f8")),
    "anonymous mmap": (mmap.mmap(-1, 32), r"frombuffer\(x, 'f8'\)", lambda x: np.frombuffer(x, "f8").copy()),
    "ctypes pointer": ((ctypes.c_double * 2)(), "got", lambda x: x),
    "long double": (X.astype(np.longdouble), r"without loss.*astype\('f8'\)", lambda x: np.asarray(x).astype("f8")),
    "complex": (X.astype("c16"), r"take x\.real or x\.imag", lambda x: x.real),
    "text": (np.array(["1"]), r"text.*astype\('f8'\)", lambda x: np.asarray(x).astype("f8")),
}


@pytest.mark.parametrize("lane", LANES)
def test_what_people_bring_is_taken(lab: Lab, lane: str) -> None:
    for kind, (value, expected, reason) in TAKEN.items():
        before = lab.memory.core.copy_count
        assert lab.call("rust", "sum", value, lane=lane) == pytest.approx(expected, nan_ok=True), kind
        reasons = [it for _, _, it in lab.memory.core.copies_since(before, True) if "in a pool" not in it]
        assert len(reasons) == (reason is not None), f"{kind}: one line for one copy, got {reasons}"
        assert reason is None or reason in reasons[0], kind
        if reason and lane == "direct":
            with pytest.raises(NifError):
                lab.call("rust", "sum", value, lane=lane, strict=True)


def test_what_people_bring_is_refused_with_a_fix_that_works(lab: Lab) -> None:
    for kind, (value, words, fix) in NOT_TAKEN.items():
        if kind == "ctypes pointer":
            with pytest.raises(NifTypeError, match="got LP_c_double"):
                lab.rust.sum(ctypes.cast(value, POINTER(ctypes.c_double)))
            continue
        for function in (lab.rust.sum, lambda it: lab.rust.axpy(1.0, X, it)):
            with pytest.raises(NifTypeError, match=words):
                function(value)
        assert np.isfinite(lab.rust.sum(fix(value))), kind


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_worker_finds_a_converted_argument_where_it_was_converted(lab: Lab, name: str) -> None:
    for value in (X.astype("f4"), X[::-1], X.tolist(), jnp.asarray(X), X.astype(">f8")):
        before = lab.memory.core.copy_count
        assert lab.call(name, "sum", value, lane="isolated") == X.sum()
        copies = lab.memory.core.copies_since(before, True)
        assert [size for size, _, _ in copies] == [32], copies


def test_scalars(lab: Lab) -> None:
    for two in (
        np.float16(2),
        np.array(2, ">i4"),
        tvm_ffi.from_dlpack(np.array(2.0)),
        jnp.int8(2),
        ctypes.c_float(2),
        2,
    ):
        assert lab.rust.add(two, 1.0) == 3.0
        assert lab.call("zig", "add", 1.0, y=two, lane="isolated") == 3.0
    for value, words in (
        (decimal.Decimal(2), r"float\(x\)"), (pa.scalar(2.0), r"x\.as_py\(\)"), ([2.0], "got list"), ("2", "got str"),
        (np.ones(1), r"got f64\[1\]"), (np.datetime64("2020"), "got datetime64"), (2j, "complex"), (None, "None"),
        (np.ma.masked, "masked"),
    ):  # fmt: skip
        with pytest.raises(NifTypeError, match=words):
            lab.rust.add(value, 1.0)
    assert lab.rust.divide(np.array(7), jnp.int32(2)) == 3
    for value in (7.0, np.float64(7), np.array(7.0)):
        with pytest.raises(NifTypeError, match="expected i64, got f64"):
            lab.rust.divide(value, 2)
    with pytest.raises(NifValueError, match="64 bits"):
        lab.rust.divide(2**63, 2)


def test_the_doors_of_the_lab_take_the_same(lab: Lab) -> None:
    kinds = (ByCapsule(X), ByTable(X), tvm_ffi.from_dlpack(X), pd.Series(X), pa.array(X), X.tolist())
    expected = wire.encode(X)
    for value in kinds[:1] + kinds[2:]:
        assert wire.encode(value) == expected
        assert bytes(lab.wire.encode(value)) == expected
        assert (lab.memory.from_array(value).array == X).all()
        for mode in ("auto", "shared", "wire", "mmap"):
            done = lab.transfer("rust", "zig", value, mode=mode)
            assert done.verified
            assert (done.array == X).all()
    frame = np.frombuffer(expected, np.uint8)
    for given in (tvm_ffi.from_dlpack(frame.copy()), pa.array(frame)):
        assert (lab.wire.decode(given) == X).all()
        assert wire.inspect(given).frame == expected
    with pytest.raises(CopyRequired):
        lab.transfer("rust", "zig", pa.array(X), mode="shared", strict=True)
    for value, words in ((pa.array([1, None]), "missing"), (np.ma.masked_array(X, X > 0), "masked")):
        with pytest.raises(ArgumentTypeError, match=words):
            lab.transfer("rust", "zig", value)
        with pytest.raises(ArgumentTypeError, match=words):
            lab.memory.from_array(value)
        with pytest.raises(wire.WireError, match=words):
            lab.wire.encode(value)
    with lab.memory.map_file(size=32, dtype="f8") as file:
        for value in kinds[2:]:
            np.asarray(file)[...] = 0.0
            lab.rust.axpy(1.0, value, file)
            assert (np.asarray(file) == X).all()


def test_an_output_that_was_given_stays_what_it_is(lab: Lab) -> None:
    a = np.arange(6.0).reshape(2, 3)
    for first in (tvm_ffi.from_dlpack(a), ByCapsule(a), a):
        for out in (np.zeros((3, 2)), ByCapsule(np.zeros((3, 2))), tvm_ffi.from_dlpack(np.zeros((3, 2)))):
            assert lab.rust.transpose(first, out) is out
            seen = out.x if isinstance(out, ByCapsule) else np.from_dlpack(out)
            assert (seen == a.T).all()
    result = lab.rust.transpose(tvm_ffi.from_dlpack(a))
    assert isinstance(result, tvm_ffi.Tensor)
    assert isinstance(lab.rust.transpose(a=tvm_ffi.from_dlpack(a)), tvm_ffi.Tensor), "by name too"


@pytest.mark.parametrize("lane", LANES)
def test_ctrl_c_while_an_array_is_read_ends_the_call(lab: Lab, lane: str) -> None:
    class Waiting(ByCapsule):
        def __dlpack__(self, **options: Any) -> Any:
            raise KeyboardInterrupt

    for _ in range(2):  # the second time the type is known
        with pytest.raises(KeyboardInterrupt):
            lab.call("rust", "sum", Waiting(X), lane=lane)
    assert lab.rust.sum(X) == X.sum()


@pytest.mark.parametrize("lane", LANES)
def test_the_usual_libraries_cost_no_refused_call(lab: Lab, lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core reads them itself, each a second time by what it knows of the type."""
    kinds = {
        "chunked": pa.chunked_array([X, X[:0]]),
        "pandas": pd.Series(X), "pandas of Arrow": pd.Series(X, dtype="double[pyarrow]"), "xarray": xr.DataArray(X),
        "memoryview": memoryview(X), "array": array.array("d", X),
    }  # fmt: skip
    home = getattr(lab, lane).rust
    check_that_the_core_reads(home, pd.Series, kinds.values(), monkeypatch)


def test_buffers_are_filled_from_any_array(lab: Lab) -> None:
    buffer = lab.memory.allocate(X.shape)
    for value in (
        X,
        pa.array(X),
        tvm_ffi.from_dlpack(X.copy()),
        jnp.asarray(X),
        ByCapsule(X),
        X.tolist(),
        memoryview(X),
    ):
        buffer[...] = 0.0
        buffer.copy_from(value)
        assert buffer.array.tolist() == X.tolist()
        buffer[1:3] = value[1:3] if isinstance(value, (np.ndarray, list, pa.Array)) else 7
    buffer.copy_from(2)
    assert set(buffer.array) == {2.0}
    for value, words in ((pa.array([1.0, None]), "missing"), (np.ma.masked_array(X, X > 0), "masked")):
        with pytest.raises(ArgumentTypeError, match=words):
            buffer[: len(value)] = value


class Sparse:
    """As SciPy's, which has no `__array__`."""

    nnz = 1

    def toarray(self) -> np.ndarray:
        return X


def test_what_has_another_shape_or_none_says_what_to_take(lab: Lab) -> None:
    matrix = X[None, :]
    for value, words, fix in (
        (Sparse(), r"sparse \(make it dense: x\.toarray\(\)\)", lambda x: x.toarray()),
        (matrix, r"got f64\[1,4\] \(numpy\.ravel\(x\)\)", np.ravel),
        (np.array(1.0), r"got f64\[\] \(numpy\.ravel", np.ravel),
        (pd.DataFrame({"a": X}), r"got f64\[4,1\] \(numpy\.ravel", np.ravel),
        (1.0, r"got f64 \(make it an array: numpy\.array\(\[x\]\)\)", lambda x: np.array([x])),
        ({"a": 1.0}, r"numpy\.array\(list\(x\.values\(\)\)\)", lambda x: np.array(list(x.values()))),
        (xr.Dataset({"name": ("t", X)}), r"x\['name'\]", lambda x: x["name"]),
    ):  # fmt: skip
        with pytest.raises(NifError, match=words):
            lab.rust.sum(value)
        assert np.isfinite(lab.rust.sum(fix(value)))
    turned = np.ones((2, 3)).T  # of which numpy.ravel makes a copy
    with pytest.raises(NifError, match=r"x = numpy\.ascontiguousarray\(x\), then give numpy\.ravel\(x\)"):
        lab.rust.axpy(2.0, np.ones(6), turned)
    turned = np.ascontiguousarray(turned)
    lab.rust.axpy(2.0, np.ones(6), np.ravel(turned))
    assert np.array_equal(turned, np.full((3, 2), 3.0))
    for value, words, fix in (
        (np.ones(1), r"x\.item\(\)", lambda x: x.item()),
        ("1.5", r"float\(x\)", float),
    ):
        with pytest.raises(NifTypeError, match=words):
            lab.rust.add(value, 1.0)
        assert lab.rust.add(fix(value), 1.0) > 1.0
    assert lab.rust.add(10**300, 1.0) == 1e300
    for lane in (lab.direct, lab.isolated):
        with pytest.raises(NifValueError, match="argument 'x': expected f64, got an integer beyond the largest float"):
            lane.rust.add(10**400, 1.0)
