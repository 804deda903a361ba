"""Kernels of a source: their parameters, and how a launch's arguments are packed."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .. import _core
from .._core import DeviceBuffer
from ..arguments import Lane, whole
from ..errors import ArgumentTypeError, ArgumentValueError, GpuFault

__all__ = ["Kernel", "Launch", "Parameter", "kernels_of", "launch", "shape_of"]

#: C's types, and their letters for `struct`.
LETTERS: Final = {
    "double": "d", "float": "f", "bool": "?", "char": "b", "signed char": "b", "unsigned char": "B", "short": "h",
    "unsigned short": "H", "int": "i", "unsigned int": "I", "unsigned": "I", "long": "q", "unsigned long": "Q",
    "long long": "q", "unsigned long long": "Q", "size_t": "Q", "int8_t": "b", "uint8_t": "B", "int16_t": "h",
    "uint16_t": "H", "int32_t": "i", "uint32_t": "I", "int64_t": "q", "uint64_t": "Q",
}  # fmt: skip
ARRAY: Final = "Q"
#: An array that a kernel only reads, in a list of places.
READS: Final = 1 << 31
KERNEL: Final = re.compile(r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\([^)]*\)\s*)?void\s+(\w+)\s*\(([^)]*)\)')
COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel.

    Attributes
    ----------
    name, letter : str
        In the source, and for `struct`.
    element : str
        C's type of an array's elements; empty for a number.
    is_read : bool
        Whether the kernel only reads the array.
    text : str
        What C calls it: ``"const double *x"``.
    """

    name: str
    letter: str
    element: str = ""
    is_read: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that is loaded on a device.

    Attributes
    ----------
    name : str
        In its source.
    parameters : tuple of Parameter
        In order.
    device : int
        On which it is loaded.
    number : int
        What functions of all languages are given for it.
    """

    name: str
    parameters: tuple[Parameter, ...]
    device: int
    number: int

    @property
    def signature(self) -> str:
        """Its name and parameters: ``"scale(double *x, double factor, int n)"``."""
        return f"{self.name}({', '.join(it.text for it in self.parameters)})"

    def packed(self, arguments: Sequence[Any]) -> tuple[bytes, np.ndarray, list[Any]]:
        """Return the arguments as the kernel has them, the places of arrays there, and those arrays."""
        if len(arguments) != len(self.parameters):
            reason = f"{self.name} takes {len(self.parameters)} arguments, {len(arguments)} given"
            raise ArgumentTypeError("args", reason)
        layout, values, places, kept = "<", [], [], []
        for parameter, value in zip(self.parameters, arguments, strict=True):
            size = struct.calcsize("<" + parameter.letter)
            layout += "x" * (-struct.calcsize(layout) % size)
            if parameter.element:
                array = _array(parameter, value)
                places.append(struct.calcsize(layout) | (READS if parameter.is_read else 0))
                kept.append(array)
            layout += parameter.letter
            values.append(kept[-1].number if parameter.element else value)
        try:
            return struct.pack(layout, *values), np.array(places, np.uint32), kept
        except struct.error:
            pairs = zip(self.parameters, values, strict=True)
            wrong, value = next(it for it in pairs if not _fits(*it))
            raise ArgumentTypeError("args", f"{self.name} takes '{wrong.text}', got {value!r}") from None


def _fits(parameter: Parameter, value: Any) -> bool:
    try:
        struct.pack("<" + parameter.letter, value)
    except struct.error:
        return False
    return True


def _array(parameter: Parameter, value: Any) -> DeviceBuffer:
    array = value if isinstance(value, DeviceBuffer) else _core.gpu_array(value)
    if array is None:
        reason = f"'{parameter.name}' is an array on a device, got {type(value).__name__} (lab.memory.to_device(x))"
        raise ArgumentTypeError("args", reason)
    wanted = LETTERS.get(parameter.element)
    kind = array.dtype
    code = {"d": "f8", "f": "f4", "?": "b1"}.get(wanted or "", f"{'i' if (wanted or 'i').islower() else 'u'}")
    fits = wanted is None or (
        kind.str[1:] == code if len(code) == 2 else kind.kind == code and kind.itemsize == struct.calcsize("<" + wanted)
    )
    if not fits:
        raise ArgumentTypeError("args", f"'{parameter.name}' has elements of type {parameter.element}, got {kind}")
    return array


def _parameter(text: str, place: int) -> Parameter:
    words = re.sub(r"\b(__restrict__|restrict|volatile)\b", " ", text)
    found = re.fullmatch(r"\s*(.*?)([\s*]+)(\w+)\s*", words, re.DOTALL)
    kind, stars, name = (found[1], found[2], found[3]) if found else (words, "", f"argument {place}")
    is_read = bool(re.search(r"\bconst\b", kind))
    plain = " ".join(re.sub(r"\bconst\b", " ", kind).split())
    if "*" in stars or plain.endswith("*"):
        element = plain.rstrip("* ") or "void"
        return Parameter(name, ARRAY, element, is_read, f"{'const ' if is_read else ''}{element} *{name}")
    if plain not in LETTERS:
        raise ArgumentValueError("source", f"parameter '{name}' has a type that can't be passed: {plain!r}")
    return Parameter(name, LETTERS[plain], text=f"{plain} {name}")


def kernels_of(source: str) -> dict[str, tuple[Parameter, ...]]:
    """Return the kernels of a source (``extern "C" __global__ void``) and their parameters."""
    plain = COMMENT.sub(" ", source)
    return {
        name: tuple(_parameter(it, at) for at, it in enumerate(inside.split(",")) if it.strip())
        for name, inside in KERNEL.findall(plain)
    }


def shape_of(grid: int | Sequence[int], block: int | Sequence[int], shared: int = 0) -> np.ndarray:
    """Return the seven numbers of a launch."""

    def three(name: str, given: int | Sequence[int]) -> list[int]:
        numbers = list(given) if isinstance(given, (tuple, list)) else [given]
        if not 1 <= len(numbers) <= 3:
            raise ArgumentValueError(name, f"expected one to three numbers, got {len(numbers)}")
        return [whole(name, it, 1, 2**31 - 1) for it in numbers] + [1] * (3 - len(numbers))

    both = [*three("grid", grid), *three("block", block), whole("shared", shared, 0, 2**31 - 1)]
    return np.array(both, np.uint32)


class Launch:
    """A launch whose arguments are packed: call it as often as you like. It keeps its arrays.

    Parameters
    ----------
    function
        A language's ``gpu_launch``.
    kernel
        Which.
    shape
        The seven numbers.
    arguments
        Of the kernel.
    """

    __slots__ = ("_kept", "_packed", "_places", "_shape", "function", "kernel")

    def __init__(self, function: Any, kernel: Kernel, shape: np.ndarray, arguments: Sequence[Any]) -> None:
        self.function = function
        self.kernel = kernel
        self._packed, self._places, self._kept = kernel.packed(arguments)
        self._shape = shape

    def __call__(self) -> None:
        self.function(self.kernel.number, self._shape, self._packed, self._places)


def launch(
    function: Callable[[str, str, Lane], Any],
    kernel: Kernel,
    shape: tuple[int | Sequence[int], int | Sequence[int], int],
    arguments: Sequence[Any],
    language: str,
    lane: Lane,
) -> None:
    """Start a kernel by a language's ``gpu_launch``, which ``function`` finds; a fault says which kernel it was."""
    try:
        Launch(function(language, "gpu_launch", lane), kernel, shape_of(*shape), arguments)()
    except GpuFault as fault:
        fault.kernel = kernel.name
        raise
