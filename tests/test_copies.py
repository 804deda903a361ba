"""copy_array: any layout into any other, bit for bit as np.copyto does it, and the checksum of what was copied."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nif_lab import _core

if TYPE_CHECKING:
    from nif_lab import Lab

DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "q", "Q", "f2", "f4", "f8", "c8", "c16"]
CONVERSIONS = [("f4", "f8"), ("f8", "f4"), ("c8", "c16"), ("c16", "c8")]

SHAPES = st.one_of(
    st.lists(st.integers(0, 4), max_size=8),
    st.lists(st.integers(1, 90), min_size=1, max_size=2),
    st.lists(st.integers(1, 25), min_size=3, max_size=3),
).map(tuple)


@st.composite
def placed(draw: st.DrawFn, shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Random bytes, and an array in them: its axes in any order, with gaps, backwards, off its alignment."""
    order = draw(st.permutations(range(len(shape))))
    steps = draw(st.tuples(*[st.sampled_from([1, 1, 1, -1, 2, -3]) for _ in shape]))
    room = [shape[axis] * abs(steps[axis]) for axis in order]
    shift = draw(st.sampled_from([0, 0, 1, 8, 16]))
    size = math.prod(room) * np.dtype(dtype).itemsize
    memory = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, shift + size, np.uint8)
    array = memory[shift:].view(dtype).reshape(room)[(..., *(slice(None, None, steps[axis]) for axis in order))]
    return memory, array.transpose(np.argsort(order).astype(int))


def twin(memory: np.ndarray, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy of the bytes, and the same array in it."""
    other = memory.copy()
    offset = array.__array_interface__["data"][0] - memory.__array_interface__["data"][0] if array.size else 0
    return other, np.ndarray(array.shape, array.dtype, other, offset, array.strides)


def check(lab: Lab, source: np.ndarray, memory: np.ndarray, target: np.ndarray) -> None:
    for checksum in (False, True):
        expected_memory, expected = twin(memory, target)
        got_memory, got = twin(memory, target)
        with np.errstate(all="ignore"):
            np.copyto(expected, source, casting="same_kind")
        answer = _core.copy_array(source, got, checksum)
        assert got_memory.tobytes() == expected_memory.tobytes()
        assert answer == (lab.rust.checksum(expected.copy()) if checksum else None)


@pytest.mark.parametrize("types", [(it, it) for it in DTYPES] + CONVERSIONS, ids="-".join)
@given(data=st.data())
def test_any_layout_into_any_other(lab: Lab, types: tuple[str, str], data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    _, source = data.draw(placed(shape, types[0]))
    if shape and data.draw(st.integers(0, 4)) == 0:
        source = np.broadcast_to(source[:1], shape) if shape[0] else source
    check(lab, source, *data.draw(placed(shape, types[1])))


@pytest.mark.parametrize("types", [(it, it) for it in ("u1", "i2", "f4", "f8", "c16")] + CONVERSIONS, ids="-".join)
@pytest.mark.parametrize("order", ["same", "transposed", "every other", "rows"])
@pytest.mark.parametrize("shift", [0, 1])
def test_copies_past_the_caches(
    lab: Lab, rng: np.random.Generator, types: tuple[str, str], order: str, shift: int
) -> None:
    source_type, target_type = (np.dtype(it) for it in types)
    rows, columns = 1031, (20 << 20) // 1031 // target_type.itemsize
    across = {"transposed": (columns, rows), "every other": (rows, 2 * columns), "rows": (rows, columns + 3)}
    laid = across.get(order, (rows, columns))
    source = rng.integers(0, 256, math.prod(laid) * source_type.itemsize, np.uint8).view(source_type).reshape(laid)
    source = {"transposed": source.T, "every other": source[:, ::2], "rows": source[:, 3:]}.get(order, source)
    memory = np.zeros(shift + rows * columns * target_type.itemsize, np.uint8)
    check(lab, source, memory, memory[shift:].view(target_type).reshape(rows, columns))


@pytest.mark.serial
def test_others_run_while_a_large_copy_does() -> None:
    source, target = np.ones((4000, 4000)), np.zeros((4000, 4000))
    span: list[float] = []

    def copy() -> None:
        span.append(time.perf_counter())
        _core.copy_array(source.T, target)
        span.append(time.perf_counter())

    thread = threading.Thread(target=copy)
    thread.start()
    ticks = []
    while len(span) < 2:
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    thread.join()
    quarter = (span[1] - span[0]) / 4
    assert any(span[0] + quarter < tick < span[1] - quarter for tick in ticks)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


ROW = np.arange(6.0)


@pytest.mark.parametrize(
    ("source", "target", "error", "text"),
    [
        ([1.0], np.empty(1), TypeError, r"source: expected an array, got list \(make it one: numpy.asarray"),
        (ROW, None, TypeError, r"target: expected an array, got NoneType"),
        (ROW.astype(">f8"), np.empty(6), TypeError, r"source: elements of type >f8 can't be copied .*native"),
        (ROW.astype(object), np.empty(6), TypeError, r"source: elements of type object can't be copied"),
        (ROW, np.empty(6, "i8"), TypeError, r"source: float64 isn't converted to int64 .*astype\(target.dtype\)"),
        (ROW, np.empty(6, "c16"), TypeError, r"source: float64 isn't converted to complex128"),
        (ROW, np.empty(6, "f2"), TypeError, r"source: float64 isn't converted to float16"),
        (ROW, np.empty((2, 3)), ValueError, r"target: expected shape \[6\] as the source has, got \[2, 3\]"),
        (ROW, read_only(np.empty(6)), ValueError, r"target: is read-only"),
        (np.empty((1,) * 9), np.empty((1,) * 9), ValueError, r"source: expected at most 8 axes, got 9"),
        (ROW, ROW, ValueError, r"target: overlaps the source \(copy that first: source.copy\(\)\)"),
        (ROW[:3], ROW[3:0:-1], ValueError, r"target: overlaps the source"),
    ],
)
def test_what_cannot_be_copied(source: Any, target: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _core.copy_array(source, target)


def test_neighbours_do_not_overlap() -> None:
    memory = np.arange(6.0)
    assert _core.copy_array(memory[:3], memory[3:]) is None
    assert memory.tolist() == [0, 1, 2, 0, 1, 2]


def test_subclasses_are_arrays() -> None:
    target = np.zeros(3).view(np.matrix).T
    _core.copy_array(np.ones((3, 1)), target)
    assert target.sum() == 3
