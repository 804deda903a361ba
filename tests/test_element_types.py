"""Arrays of other libraries in every element type: what comes back has the values and the type that went in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

if TYPE_CHECKING:
    from nif_lab import Lab

NUMBERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
#: A kind of array, how it is made of NumPy's, and the element types that it has.
KINDS: dict[str, tuple[Callable[[np.ndarray], Any], tuple[str, ...]]] = {
    "Arrow": (pa.array, NUMBERS),
    "chunked Arrow": (lambda x: pa.chunked_array([pa.array(x)]), NUMBERS),
    "buffer": (memoryview, (*NUMBERS, "c8", "c16", "?")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_element_type_arrives(lab: Lab, kind: str) -> None:
    make, types = KINDS[kind]
    for dtype in types:
        numbers = np.array([1, 0, 3], dtype)
        if numbers.dtype.kind in "iu":
            numbers[0] = np.iinfo(dtype).max  # its size and sign
        for function in (lab.direct.rust.write, lab.isolated.rust.write, lab.direct.zig.write, lab.direct.nim.write):
            got = function(make(numbers))
            assert got.dtype == numbers.dtype, (kind, dtype, function)
            np.testing.assert_array_equal(got, numbers, f"{kind} {dtype} {function}")
