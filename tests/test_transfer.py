"""Transfers: what arrives is what was sent, without a copy, and the result says so truthfully."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nif_lab import Lab, Transfer, backends
from nif_lab.errors import NifTypeError

PAIRS = list(permutations(backends.names(), 2))


@pytest.mark.parametrize(("source", "target"), PAIRS, ids="-".join)
def test_every_pair_hands_over_without_a_copy(lab: Lab, rng: np.random.Generator, source: str, target: str) -> None:
    value = rng.normal(size=(100, 100))
    done = lab.transfer(source, target, value)
    np.testing.assert_array_equal(done.array, value)
    assert done.source_checksum == done.target_checksum == xxhash.xxh3_64_intdigest(value.tobytes())
    assert (done.written, done.copied, done.verified, done.bytes) == (True, False, True, 80_000)
    assert done.ns > 0
    assert done.write_ns > 0
    assert "without a copy, verified" in str(done)


def test_a_value_in_shared_memory_is_not_written_again(lab: Lab) -> None:
    block = lab.transfer("rust", "zig", np.arange(1000.0)).array
    again = lab.transfer("nim", "julia", block)
    assert again.array is block
    assert (again.written, again.write_ns, again.copied) == (False, 0.0, False)
    part = lab.transfer("zig", "rust", block[10:20])
    assert not part.written
    assert part.array.ctypes.data == block.ctypes.data + 80


@given(
    value=hnp.arrays(
        st.sampled_from(["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    ),
    pair=st.sampled_from(PAIRS),
)
def test_any_array_arrives_bit_for_bit(lab: Lab, value: np.ndarray, pair: tuple[str, str]) -> None:
    done = lab.transfer(*pair, value)
    assert (done.array.dtype, done.array.shape) == (value.dtype, value.shape)
    assert done.array.tobytes() == value.tobytes()
    assert done.verified


def test_strided_values_are_made_contiguous_first(lab: Lab) -> None:
    value = np.arange(24.0).reshape(4, 6)[::-1, ::2]
    done = lab.transfer("rust", "julia", value)
    np.testing.assert_array_equal(done.array, value)
    assert done.written


def test_a_difference_is_shown(lab: Lab) -> None:
    done = lab.transfer("rust", "zig", np.arange(3.0))
    different = Transfer("rust", "zig", done.array, True, 1.0, 1.0, True, 1, 2)
    assert not different.verified
    assert "copied, NOT VERIFIED" in str(different)


def test_the_matrix_has_all_twelve_pairs(lab: Lab) -> None:
    matrix = lab.transfer_matrix(np.arange(100.0))
    assert [(it.source, it.target) for it in matrix] == PAIRS
    assert matrix.zero_copy == 1.0
    assert all(it.verified for it in matrix)
    assert matrix["zig", "nim"].target == "nim"
    assert len(repr(matrix).splitlines()) == 12
    assert matrix._repr_html_().count("0 copies ✓") == 12
    with pytest.raises(KeyError):
        _ = matrix["zig", "zig"]


def test_what_cannot_be_shared_is_refused(lab: Lab) -> None:
    with pytest.raises(NifTypeError, match="an array of object"):
        lab.transfer("rust", "zig", np.array([object()]))
    with pytest.raises(NifTypeError, match="expected native byte order"):
        lab.transfer("rust", "zig", np.arange(3, dtype=">f8"))
