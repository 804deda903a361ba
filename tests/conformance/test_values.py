"""What the Lab adds to the callee's checks: Python's own values, keywords, and memory that no callee could be shown.

The Lab refuses these before a language is called, so one language stands for all, in both lanes. What the languages
refuse themselves is in test_errors.py, in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import wrong
from contract import FUNCTIONS, Array, Function, Parameter, Refusal, good_arguments, own_refusal
from labs import in_lane
from outcome import outcome

from nif_lab.arguments import LANES
from nif_lab.errors import NifError, NifTypeError, NifValueError

if TYPE_CHECKING:
    from nif_lab.lab import Lab, LoadedBackend


@dataclass(frozen=True, slots=True)
class Place:
    """One parameter of one function."""

    function: Function
    position: int

    @property
    def parameter(self) -> Parameter:
        return self.function.parameters[self.position]

    @property
    def good(self) -> Any:
        return good_arguments(self.function)[self.position]

    def __str__(self) -> str:
        return f"{self.function.name}-{self.parameter.name}"


PLACES = [Place(function, i) for function in FUNCTIONS.values() for i in range(len(function.parameters))]
ARRAYS = [it for it in PLACES if it.parameter.axes is not None]
NUMBERS = [it for it in PLACES if it.parameter.type in ("i64", "f64")]


@pytest.fixture(params=LANES)
def backend(lab: Lab, request: pytest.FixtureRequest) -> LoadedBackend:
    """One language, in either lane."""
    return in_lane(lab, "zig", request.param)


def refused(backend: LoadedBackend, place: Place, value: Any, kind: type[NifError], reason: str) -> None:
    """Assert that ``value`` in that place, among good arguments, is refused with ``reason``."""
    arguments = wrong.replaced(place.function, place.position, value)
    assert outcome(backend, place.function, arguments) == Refusal(kind, place.parameter.name, reason), place


def test_there_are_places_of_every_kind() -> None:
    """The tests below are loops over them; without any they would pass."""
    assert len(PLACES) > 50
    assert len(ARRAYS) > 20
    assert len(NUMBERS) > 20


def test_values_that_are_no_array_and_no_scalar(backend: LoadedBackend) -> None:
    for place in PLACES:
        for value in ({1.0}, {}, object(), 1j, slice(3)):
            cure = " (make it a list: list(x))" if isinstance(value, set) and place in ARRAYS else ""
            reason = f"expected {place.parameter.type}, got {type(value).__name__}{cure}"
            refused(backend, place, value, NifTypeError, reason)


def test_sequences_are_told_how_to_become_arrays(backend: LoadedBackend) -> None:
    for place in ARRAYS:
        for value in ([1.0, 2.0], (1.0, 2.0)):
            got = f"got {type(value).__name__} (make it an array: numpy.asarray(...))"
            refused(backend, place, value, NifTypeError, f"expected {place.parameter.type}, {got}")


def test_dtypes_that_the_abi_has_no_name_for(backend: LoadedBackend) -> None:
    for place in ARRAYS:
        for dtype in ("O", "U3", "S3", "M8[s]", "m8[s]", "V8"):
            array = np.zeros(place.good.shape, dtype)
            reason = f"expected {place.parameter.type}, got an array of {array.dtype.name}"
            refused(backend, place, array, NifTypeError, reason)


def test_byte_order(backend: LoadedBackend) -> None:
    for place in ARRAYS:
        swapped = place.good.astype(place.good.dtype.newbyteorder())
        refused(backend, place, swapped, NifTypeError, "expected native byte order")


def test_strides_that_split_elements(backend: LoadedBackend) -> None:
    for place in ARRAYS:
        records = np.zeros(place.good.shape, [("value", place.good.dtype), ("odd", "u1")])
        refused(backend, place, records["value"], NifValueError, "expected strides in whole elements")


def test_read_only_memory(backend: LoadedBackend) -> None:
    for place in ARRAYS:
        array: Array = place.good
        array.flags.writeable = False
        if place.parameter.mut:
            refused(backend, place, array, NifValueError, "is read-only")
        else:
            arguments = wrong.replaced(place.function, place.position, array)
            assert outcome(backend, place.function, arguments) == own_refusal(place.function, arguments), place


def test_integers_beyond_64_bits(backend: LoadedBackend) -> None:
    for place in NUMBERS:
        for number in (2**63, -(2**63) - 1, 10**30):
            refused(backend, place, number, NifValueError, "expected an integer of 64 bits")


def test_strings_with_nul(backend: LoadedBackend) -> None:
    for name in ("error_value", "panic"):
        for text in ("\0", "a\0", "\0b", "a\0b"):
            refused(backend, Place(FUNCTIONS[name], 0), text, NifValueError, "contains a NUL character")


def test_numbers_of_numpy_are_numbers(backend: LoadedBackend) -> None:
    for value, same in (
        (np.float64(1.5), 1.5), (np.float32(1.5), 1.5), (np.float16(1.5), 1.5), (np.int8(-3), -3), (np.uint8(200), 200),
        (np.int64(2**62), 2**62), (np.uint64(7), 7), (np.bool_(True), 1), (True, 1), (3, 3), (2**53 + 1, 2.0**53),
    ):  # fmt: skip
        assert backend.add(value, 0.0) == same, repr(value)
        if not isinstance(value, np.floating):
            assert backend.divide(value, 1) == int(value), repr(value)


def test_keywords(backend: LoadedBackend) -> None:
    x, y = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    assert backend.dot(x=x, y=y) == backend.dot(x, y=y) == backend.dot(y=y, x=x) == 11.0
    a, out = np.arange(6.0).reshape(2, 3), np.empty((3, 2))
    assert backend.transpose(a=a, out=out) is out
    np.testing.assert_array_equal(out, a.T)
    np.testing.assert_array_equal(backend.transpose(a=a), a.T)


def test_wrong_keywords(backend: LoadedBackend) -> None:
    x = np.ones(2)
    dot = FUNCTIONS["dot"]
    assert outcome(backend, dot, [x], z=x) == Refusal(NifTypeError, None, "has no parameter 'z'")
    assert outcome(backend, dot, [x], x=x, y=x) is not None
    mismatch = Refusal(NifValueError, "y", "expected f64[n] with n = 2, got f64[1]")
    assert outcome(backend, dot, [], y=x[:1], x=x) == mismatch
    assert outcome(backend, dot, [], x=x) == Refusal(NifTypeError, None, "takes 2 arguments, 1 given")
    into = Refusal(NifTypeError, None, "has no parameter 'into'")
    assert outcome(backend, FUNCTIONS["transpose"], [np.ones((2, 2))], into=np.ones((2, 2))) == into


def test_an_output_given_as_none_is_left_out(backend: LoadedBackend) -> None:
    a = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(backend.transpose(a, None), a.T)
    np.testing.assert_array_equal(backend.transpose(a, out=None), a.T)
