"""Every refusal: the same kind, argument and text in every language.

Nothing is tested function by function: `wrong` makes the arguments from the documented signatures, and
`contract.refusal` says what must happen. What the Lab refuses by itself is in test_values.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import wrong
from contract import ELEMENTS, FUNCTIONS, Function, Refusal, good_arguments, own_refusal, refusal
from contract import count as spell_count
from hypothesis import assume, given
from hypothesis import strategies as st
from outcome import outcome

from nif_lab.errors import NifMemoryError, NifTypeError, NifValueError

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend

pytestmark = pytest.mark.slow

every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=str)


def expected(function: Function, arguments: list[Any]) -> Refusal | None:
    """Say what the contract says; an output that is None is left out, so a fitting one takes its place."""
    if function.outputs and arguments[-1] is None:
        out = np.zeros(output_shape(function, arguments), ELEMENTS[function.parameters[-1].element])
        arguments = [*arguments[:-1], out]
    return refusal(function, arguments) or own_refusal(function, arguments)


def output_shape(function: Function, inputs: list[Any]) -> list[int]:
    """Return the size of the output that the other arguments ask for; anything where they don't make sense."""
    sizes: dict[str, int] = {}
    for parameter, value in zip(function.parameters, inputs, strict=False):
        if parameter.axes and isinstance(value, np.ndarray):
            sizes.update(zip(parameter.axes, value.shape, strict=False))
        elif isinstance(value, int):
            sizes[parameter.name] = max(int(value), 0)
    return [sizes.get(axis, 0) for axis in function.parameters[-1].axes or ()]


def agree(backend: LoadedBackend, function: Function, cases: Iterable[tuple[str, list[Any], Refusal | None]]) -> None:
    """Assert that every case fails (or doesn't) as the contract says; tell all that don't."""
    disagreements = []
    for label, arguments, want in cases:
        got = outcome(backend, function, arguments)
        if got != want:
            disagreements.append(f"{function.name}, {label}:\n  expected {want}\n  got      {got}")
    if disagreements:
        pytest.fail(f"{backend.name} disagrees with docs/abi.md\n" + "\n".join(disagreements), pytrace=False)


@every_function
def test_number_of_arguments(backend: LoadedBackend, function: Function) -> None:
    def cases() -> Iterable[tuple[str, list[Any], Refusal | None]]:
        most, least = len(function.parameters), len(function.parameters) - function.outputs
        for label, arguments in wrong.counts(function):
            if least <= len(arguments) <= most:
                want = own_refusal(function, good_arguments(function))
            else:
                takes = most if len(arguments) > most else least
                want = Refusal(NifTypeError, None, f"takes {spell_count(takes)}, {len(arguments)} given")
            yield label, arguments, want

    agree(backend, function, cases())


@every_function
def test_wrong_arguments(backend: LoadedBackend, function: Function) -> None:
    for generator in wrong.EVERY:
        if generator is not wrong.counts:
            agree(backend, function, ((label, args, expected(function, args)) for label, args in generator(function)))


@pytest.mark.parametrize("function", [f for f in FUNCTIONS.values() if f.outputs], ids=str)
def test_the_same_answers_when_the_output_is_left_out(backend: LoadedBackend, function: Function) -> None:
    """What the other arguments get wrong is told in the same words; the fitting output is never at fault."""

    def cases() -> Iterable[tuple[str, list[Any], Refusal | None]]:
        for generator in (wrong.types, wrong.memory, wrong.sizes):
            for label, arguments in generator(function):
                inputs = arguments[:-1]
                if math.prod(output_shape(function, inputs)) <= 2**20:  # the next test has the others
                    yield label, inputs, expected(function, [*inputs, None])
                    yield f"{label}, and out = None", [*inputs, None], expected(function, [*inputs, None])

    agree(backend, function, cases())


def test_an_output_too_large_for_memory_is_an_error(backend: LoadedBackend) -> None:
    with pytest.raises((NifMemoryError, NifValueError)):
        backend.histogram(np.zeros(3), 2**62, 0.0, 1.0)
    for width, height in [(2**32, 2**32), (2**63 - 1, 1), (2**62, 4)]:
        with pytest.raises((NifMemoryError, NifValueError)):
            backend.mandelbrot(width, height, -2.0, 1.0, -1.0, 1.0, 10)


@functools.cache
def candidates(function: Function) -> list[list[Any]]:
    """For each parameter, a good value first and then everything that `wrong` tries there."""
    pools: list[list[Any]] = [[value] for value in good_arguments(function)]
    for generator in (wrong.types, wrong.memory, wrong.sizes):
        for _, arguments in generator(function):
            for pool, value in zip(pools, arguments, strict=True):
                if value is not pool[0]:
                    pool.append(value)
    return pools


@every_function
@given(data=st.data())
def test_the_first_of_several_mistakes_is_told(backend: LoadedBackend, function: Function, data: st.DataObject) -> None:
    """Any mixture of right and wrong arguments fails as the order of the checks says."""
    arguments = [data.draw(st.just(pool[0]) | st.sampled_from(pool)) for pool in candidates(function)]
    if function.outputs and arguments[-1] is None:
        assume(math.prod(output_shape(function, arguments)) <= 2**20)
    assert outcome(backend, function, arguments) == expected(function, arguments)


def test_a_negative_length_waits_for_its_turn(backend: LoadedBackend) -> None:
    """An output that is left out can't be made; the callee still tells the first mistake."""
    for name, arguments in {
        "mandelbrot": [-(2**63), 3, None, 1.0, -1.0, 1.0, 10],
        "histogram": [np.zeros(3), -(2**63), None, 1.0],
    }.items():
        function = FUNCTIONS[name]
        assert outcome(backend, function, arguments) == refusal(function, [*arguments, np.zeros(0)])
        right = [1.0 if it is None else it for it in arguments]
        with pytest.raises(NifValueError, match="expected 0 or more, got -9223372036854775808"):
            getattr(backend, name)(*right)


def test_a_refused_call_writes_nothing(backend: LoadedBackend) -> None:
    z = np.ones((4, 5))
    for name, arguments in {
        "hillshade": (z, -1.0, 1.0, 0.0, 0.0),
        "smooth": (z, -1),
        "matmul": (z, z),
        "transpose": (z[:, :4],),
    }.items():
        out = np.full((5, 5), 7.0)
        with pytest.raises(NifValueError):
            getattr(backend, name)(*arguments, out)
        assert (out == 7.0).all()
    y = np.full(3, 7.0)
    with pytest.raises(NifValueError):
        backend.axpy(2.0, np.ones(4), y)
    assert (y == 7.0).all()
