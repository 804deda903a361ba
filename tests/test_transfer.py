"""Transfers: what arrives is what was sent, bit for bit; what was copied is in the ledger, and nothing else was."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nif_lab import Lab, backends, wire
from nif_lab.arguments import LANES, WAYS
from nif_lab.errors import BackendNotLoaded, CopyRequired, NifTypeError
from nif_lab.recovery import RecoveryPolicy

PAIRS = list(permutations(backends.names(), 2))
RECORDS = [
    wire.NeuralNetwork((wire.Layer(np.arange(6.0).reshape(2, 3), np.array([0.5, -1.0]), "relu"),), "net"),
    wire.TensorOperation("matmul", (wire.Operand((3, 4), "float32"), wire.Operand((4, 0), "float64"))),
    wire.KernelDescriptor("dot", (1, 2, 3), (32, 1, 1), {"n": 7, "x": np.arange(5.0), "flag": True}),
]
ARRAYS = hnp.arrays(
    st.sampled_from(["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


def in_pool(lab: Lab, value: np.ndarray) -> np.ndarray:
    array = lab.memory.empty(value.shape, value.dtype)
    array[...] = value
    return array


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize(("source", "target"), PAIRS, ids="-".join)
def test_every_pair_hands_over_without_a_copy(
    lab: Lab, rng: np.random.Generator, source: str, target: str, lane: str
) -> None:
    value = in_pool(lab, rng.normal(size=(100, 100)))
    done = lab.transfer(source, target, value, lane=lane, strict=True)
    assert done.value is value
    assert done.source_checksum == done.target_checksum == xxhash.xxh3_64_intdigest(value.tobytes())
    assert (done.mode, done.lanes, done.copies, done.write_ns) == ("shared", (lane, lane), (), 0.0)
    assert (done.verified, done.bytes) == (True, 80_000)
    assert done.ns >= done.hand_over_ns > 0
    assert "without a copy, verified" in str(done)


def test_a_value_outside_the_pools_is_written_by_the_source(lab: Lab) -> None:
    value = np.arange(1000.0)
    done = lab.transfer("rust", "zig", value)
    assert [(it.bytes, it.place, it.reason) for it in done.copies] == [(8000, "rust.write", "value not in a pool")]
    assert done.write_ns > 0
    np.testing.assert_array_equal(done.array, value)
    again = lab.transfer("nim", "julia", done.array, strict=True)
    assert again.value is done.array
    part = lab.transfer("zig", "rust", done.array[10:20], strict=True)
    assert part.array.ctypes.data == done.array.ctypes.data + 80


@pytest.mark.parametrize("mode", WAYS)
@given(value=ARRAYS, pair=st.sampled_from(PAIRS), lane=st.sampled_from(LANES), pooled=st.booleans())
def test_any_array_arrives_bit_for_bit(
    lab: Lab, mode: str, value: np.ndarray, pair: tuple[str, str], lane: str, pooled: bool
) -> None:
    done = lab.transfer(*pair, in_pool(lab, value) if pooled else value, mode, lane=lane)
    assert (done.array.dtype, done.array.shape) == (value.dtype, value.shape)
    assert done.array.tobytes() == value.tobytes()
    assert done.verified
    # Of an array without elements there is only a frame to copy.
    assert done.copied == (mode == "wire" or (value.nbytes > 0 and (mode == "mmap" or not pooled)))


@given(
    value=hnp.arrays(st.sampled_from(["f4", "f8", "i2"]), st.tuples(*[st.integers(1, 9)] * 3)),
    steps=st.tuples(*[st.sampled_from([1, -1, 2, -2])] * 3),
    axes=st.permutations(range(3)),
    pair=st.sampled_from(PAIRS),
    mode=st.sampled_from(WAYS),
)
def test_any_view_arrives(
    lab: Lab, value: np.ndarray, steps: tuple[int, ...], axes: list[int], pair: tuple[str, str], mode: str
) -> None:
    view = in_pool(lab, value)[tuple(slice(None, None, step) for step in steps)].transpose(axes)
    done = lab.transfer(*pair, view, mode)
    assert done.array.tobytes() == view.tobytes()
    assert done.array.shape == view.shape
    if mode == "shared":
        whole = view.flags.c_contiguous or view.flags.f_contiguous
        assert [it.reason for it in done.copies] == (
            [] if whole else ["strided view: a target reads contiguous memory"]
        )


@pytest.mark.parametrize("mode", ["auto", "wire", "mmap"])
@pytest.mark.parametrize("value", [1.5, -3, True, np.float32(2.5), np.nan, *RECORDS], ids=lambda it: type(it).__name__)
def test_numbers_and_records_arrive(lab: Lab, value: Any, mode: str) -> None:
    expected = wire.encode(value)
    for pair, lane in product(PAIRS, LANES):
        done = lab.transfer(*pair, value, mode, lane=lane)
        assert wire.encode(done.value) == expected
        assert done.verified
        assert "encoded into a frame" in {it.reason for it in done.copies}


def test_many_axes_arrive(lab: Lab) -> None:
    value = np.arange(2.0**10).reshape((2,) * 10)
    for view in (value, value[::-1], value.transpose(3, 1, 2, 0, *range(4, 10))):
        for mode in ("shared", "mmap"):
            assert lab.transfer("rust", "nim", view, mode).array.tobytes() == view.tobytes()


def test_every_dialect_carries_a_matrix(lab: Lab) -> None:
    value = in_pool(lab, np.arange(12.0).reshape(3, 4))
    for (source, target), dialect in product(PAIRS, backends.names()):
        done = lab.transfer(source, target, value, "wire", dialect=dialect, version=1)
        np.testing.assert_array_equal(done.array, value)
        dtypes = [it.reason for it in done.copies if it.reason.startswith("dtype")]
        expected = [] if done.array.dtype == value.dtype else [f"dtype float64 -> {done.array.dtype} asked by"]
        assert [it[: len(it.rsplit("the", 1)[0]) - 1] for it in dtypes] == expected


def test_shared_buffers_and_files_are_values(lab: Lab) -> None:
    values = np.arange(60.0).reshape(6, 10)
    buffer = lab.memory.from_array(values)
    assert lab.transfer("rust", "zig", buffer, strict=True).array.tobytes() == values.tobytes()
    with lab.memory.map_file(dtype="f8", shape=(6, 10)) as file:
        np.asarray(file)[:] = values
        done = lab.transfer("nim", "rust", file, strict=True)
        assert done.value is file
        assert done.verified
        there = lab.transfer("nim", "rust", file, lane="isolated", strict=True)
        assert there.verified
        assert there.copies == ()


def test_strict_refuses_before_it_copies(lab: Lab) -> None:
    pooled = in_pool(lab, np.arange(100.0))
    before = lab.ledger.mark()
    for value, mode in [
        (np.arange(3.0), "shared"), (pooled[::2], "shared"), (pooled.astype(">f8"), "shared"), (pooled, "wire"),
        (pooled, "mmap"), (1.5, "auto"),
    ]:  # fmt: skip
        with pytest.raises(CopyRequired, match="To fix") as caught:
            lab.transfer("rust", "zig", value, mode, strict=True)
        assert caught.value.reason
    assert lab.ledger.mark() == before


def test_the_ledger_adds_up() -> None:
    lab = Lab(["rust", "zig"])
    value = in_pool(lab, np.arange(1000.0))
    for _ in range(3):
        lab.transfer("rust", "zig", value)
    lab.transfer("rust", "zig", np.arange(500.0))
    it = lab.ledger.totals
    assert (it.transfers, it.transfers_without_copy, it.bytes, it.bytes_without_copy) == (4, 3, 28_000, 24_000)
    assert (it.share_of_transfers, it.share_of_bytes) == (0.75, 24 / 28)
    assert lab.ledger.by_reason() == {"value not in a pool": (1, 4000)}
    assert [str(it) for it in lab.ledger.copies()] == ["4,000 bytes in rust.write: value not in a pool"]
    lab.isolated.zig.dot(value, np.arange(1000.0))
    assert lab.ledger.by_reason()["argument not in a pool"] == (1, 8000)
    assert lab.ledger.copies(1)[0].place == "zig.dot"
    assert "75% without a copy" in repr(lab.ledger)
    assert "argument not in a pool" in lab.ledger._repr_html_()


def test_other_threads_copies_are_not_mine(lab: Lab) -> None:
    pooled, outside = in_pool(lab, np.arange(100.0)), np.arange(100.0)
    stop = threading.Event()

    def copy() -> None:
        while not stop.is_set():
            lab.isolated.zig.dot(outside, outside)

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        for _ in range(50):
            assert lab.transfer("rust", "nim", pooled).copies == ()
    finally:
        stop.set()
        thread.join()


def test_a_difference_is_shown(lab: Lab) -> None:
    different = replace(lab.transfer("rust", "zig", np.arange(3.0)), target_checksum=2)
    assert not different.verified
    assert "1 copy, NOT VERIFIED" in str(different)


def test_what_julia_compiles_is_told_apart() -> None:
    lab = Lab(["rust", "zig", "julia"])  # with a worker that has compiled nothing yet
    value = lab.memory.empty((2, 1, 2, 1, 2), np.uint16)
    value[...] = 1
    first, second = (lab.transfer("rust", "julia", value) for _ in range(2))
    assert first.compile_ns > 1e6
    assert second.compile_ns == 0
    assert "(first call, compiling: " in str(first)
    assert "compiling" not in str(second)
    assert lab.transfer("rust", "zig", in_pool(lab, np.ones((1, 1, 1, 1, 1), np.int16))).compile_ns == 0


def test_the_matrix_has_all_twelve_pairs(lab: Lab) -> None:
    value = in_pool(lab, np.arange(100.0))
    matrix = lab.transfer_matrix(value)
    assert [(it.source, it.target) for it in matrix] == PAIRS
    assert matrix.zero_copy == 1.0
    assert all(it.verified for it in matrix)
    assert all(it.value is None for it in matrix), "twelve payloads aren't kept"
    assert matrix["zig", "nim"].target == "nim"
    assert len(repr(matrix).splitlines()) == 12
    assert matrix._repr_html_().count("0 copies ✓") == 12
    with pytest.raises(KeyError):
        _ = matrix["zig", "zig"]
    every = lab.transfer_matrix(value, WAYS, selves=True, lane="isolated")
    assert len(every) == 48
    assert all(it.verified and it.lanes == ("isolated", "isolated") for it in every)
    assert every["zig", "zig", "wire"].mode == "wire"
    assert every._repr_html_().count("<table") == 3


def test_the_target_may_be_killed_in_the_middle(rng: np.random.Generator) -> None:
    """What arrives is right all the same: the value isn't the worker's, and a new one reads it."""
    lab = Lab(["rust", "zig"], lane="isolated", policy=RecoveryPolicy(retries=20, crashes=None))
    value = in_pool(lab, rng.normal(size=100_000))
    expected = xxhash.xxh3_64_intdigest(value.tobytes())
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.02):
            for pid in lab.zig.workers.pids[:1]:
                os.kill(pid, 9)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            for mode in WAYS:
                done = lab.transfer("rust", "zig", value, mode)
                assert done.verified
                assert done.array.tobytes() == value.tobytes()
            assert done.source_checksum == expected
    finally:
        stop.set()
        thread.join()
    assert lab.zig.workers.started > 10


def test_what_cannot_be_transferred_is_refused(lab: Lab) -> None:
    with pytest.raises(NifTypeError, match="Python objects"):
        lab.transfer("rust", "zig", np.array([object()]))
    with pytest.raises(BackendNotLoaded, match="no backend 'cobol'"):
        lab.transfer("rust", "cobol", 1.0)
    with pytest.raises(ValueError, match="no mode 'fast'"):
        lab.transfer("rust", "zig", 1.0, "fast")
    swapped = lab.transfer("rust", "zig", np.arange(3, dtype=">f8"))
    np.testing.assert_array_equal(swapped.array, np.arange(3.0))
    assert swapped.copies[0].reason == "byte order"
