"""Wrong arguments of every kind, for any function: nothing here is written per NIF.

Each generator goes through the parameters of a documented signature and yields a label and all the arguments, of which
one is wrong (or unusual and right: the oracle, `contract.refusal`, knows).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from contract import ELEMENTS, OWN_CHECKS, Array, Function, good_arguments

Case = tuple[str, list[Any]]


def replaced(function: Function, position: int, value: Any) -> list[Any]:
    """Good arguments but for one."""
    arguments = good_arguments(function)
    arguments[position] = value
    return arguments


def counts(function: Function) -> Iterator[Case]:
    """Row 1."""
    good = good_arguments(function)
    for n in range(len(good) + 3):
        yield f"{n} arguments", [*good, 1, 2][:n]


def types(function: Function) -> Iterator[Case]:
    """Rows 2 and 3: the wrong type, element type or number of axes."""
    for position, parameter in enumerate(function.parameters):
        for value in (None, True, 1, 1.0, "text", b"bytes"):
            yield f"{parameter.name} = {value!r}", replaced(function, position, value)
        good = good_arguments(function)[position]
        shape, dtype = (good.shape, good.dtype) if isinstance(good, np.ndarray) else ((2,), "f8")
        for other in ELEMENTS.values():
            yield f"{parameter.name} of {other}", replaced(function, position, np.ones(shape, other))
            yield f"{parameter.name} of {other}, empty", replaced(function, position, np.ones((3, 0, 2), other))
        for ndim in range(5):
            yield f"{parameter.name} of {ndim} axes", replaced(function, position, np.ones((2,) * ndim, dtype))


def unaligned(array: Array) -> Array:
    """Copy an array to where it is one byte off."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    memory[1:] = array.reshape(-1).view(np.uint8)
    return memory[1:].view(array.dtype).reshape(array.shape)


def memory(function: Function) -> Iterator[Case]:
    """Rows 6 and 7: memory that isn't aligned, or not contiguous."""
    for position, parameter in function.arrays:
        good: Array = good_arguments(function)[position]
        for dtype in ELEMENTS.values() if parameter.any_rank else [good.dtype.name]:
            yield f"{parameter.name}, {dtype} unaligned", replaced(function, position, unaligned(good.astype(dtype)))
        for label, view in views(good).items():
            yield f"{parameter.name}, {label}", replaced(function, position, view)
        block = np.arange(24.0).reshape(2, 3, 4)
        for label, view in views(block).items() if parameter.any_rank else ():
            yield f"{parameter.name}, block, {label}", replaced(function, position, view)


def views(array: Array) -> dict[str, Array]:
    """Unusual strides, of arrays with as many axes as ``array``; some are contiguous nevertheless."""
    every, back = (slice(None, None, 2),), (slice(None, None, -1),)
    last = (..., slice(None, None, 2))
    wide = np.repeat(array, 2, axis=-1)
    return {
        "stepped": wide[last],
        "backwards": array[back * array.ndim],
        "first axis backwards": array[back],
        "Fortran": np.asfortranarray(array),
        "first elements": array[every * array.ndim][(slice(1),) * array.ndim],
        "one element": wide[last][(slice(1),) * array.ndim],
        "no elements": wide[last][..., :0],
        "transposed": array.T,
        "stride 0": np.lib.stride_tricks.as_strided(array, array.shape, (0,) * array.ndim),
    }


def sizes(function: Function) -> Iterator[Case]:
    """Rows 8 and 9, and numbers that a function itself refuses."""
    for position, parameter in enumerate(function.parameters):
        good = good_arguments(function)[position]
        if isinstance(good, np.ndarray) and not parameter.any_rank:
            for axis, right in enumerate(good.shape):
                for size in (0, 1, right - 1, right + 1, 1000):
                    shape = (*good.shape[:axis], size, *good.shape[axis + 1 :])
                    yield f"{parameter.name} of {shape}", replaced(function, position, np.ones(shape, good.dtype))
        numbers: tuple[float, ...] = ()
        if parameter.type == "i64" and parameter.name in function.dimensions:
            numbers = (-(2**63), -3, -1, 0, 1, 2**31, 2**32, 2**63 - 1)
        elif parameter.type == "i64" and function.name in OWN_CHECKS:
            numbers = (-(2**63), -3, -1, 0, 1)
        elif parameter.type == "f64" and function.name in OWN_CHECKS:
            numbers = (-np.inf, -1.7e308, -1.0, -5e-324, -0.0, 0.0, 1.0, 1.7e308, np.inf, np.nan)
        for number in numbers:
            yield f"{parameter.name} = {number}", replaced(function, position, number)


def overlaps(function: Function) -> Iterator[Case]:
    """Row 10: two arrays in one block, at every distance that matters."""
    for size in (0, 1, 4):
        good = good_arguments(function, size)
        for one, parameter in function.arrays:
            for two, other in function.arrays:
                if one == two:
                    continue
                first, second = good[one], good[two]
                for start in {0, 8, second.nbytes - 8, second.nbytes, second.nbytes + 8} - {-8}:
                    block = np.zeros(4096, np.uint8)
                    arguments = list(good)
                    arguments[one] = _within(block, start, first)
                    arguments[two] = _within(block, 0, second)
                    yield f"{parameter.name} {start} bytes after the start of {other.name}", arguments
                    arguments = list(good)
                    arguments[one] = arguments[two] = _within(block, 0, first)
                    yield f"{parameter.name} is {other.name}", arguments
                    if first.ndim == second.ndim == 2:
                        columns = np.zeros((size, 2 * size))
                        arguments = list(good)
                        arguments[one], arguments[two] = columns[:, ::2], columns[::-1, 1::2]
                        yield f"{parameter.name} and {other.name} interleaved", arguments


def _within(block: Array, start: int, array: Array) -> Array:
    return block[start : start + array.nbytes].view(array.dtype).reshape(array.shape)


#: Every generator, for what wants them all.
EVERY = (counts, types, memory, sizes, overlaps)
