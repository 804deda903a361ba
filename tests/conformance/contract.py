"""The contract as data: the tables of docs/kernels.md, the checks of docs/abi.md as one plain function.

The tests read the documentation, so what it says stays true. `refusal` is the oracle of every error: it knows a NIF
only by its signature, as a callee's SDK does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nif_lab.errors import NifError, NifPanic, NifTypeError, NifValueError
from nif_lab.wire import WireError, decode_nodes, encode_nodes
from nif_lab.wire.schema import COLUMNS, LIVE

Array = npt.NDArray[Any]

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"

#: nif_function.flags by the names that docs/kernels.md uses; a PURE function is IDEMPOTENT too.
FLAGS: Final = {"LONG": 1, "IDEMPOTENT": 2, "PURE": 4 | 2, "THREAD_BOUND": 8, "POLLS_CANCEL": 16, "FAULT": 32}

#: The element types of the ABI and what NumPy calls them.
ELEMENTS: Final = {
    "bool": "bool", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "f16": "float16", "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128",
}  # fmt: skip
ELEMENT_OF: Final = {numpy_name: element for element, numpy_name in ELEMENTS.items()}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a signature.

    ``type`` is spelled as error texts spell it, without ``mut``; ``axes`` is None for a scalar, ``("...",)`` for any
    rank.
    """

    name: str
    type: str
    element: str
    axes: tuple[str, ...] | None
    mut: bool

    @property
    def output(self) -> bool:
        """Whether the Lab allocates it when it is left out."""
        return self.mut and (self.name == "out" or self.name.startswith("out_"))

    @property
    def any_rank(self) -> bool:
        return self.axes == ("...",)


@dataclass(frozen=True, slots=True)
class Function:
    """One NIF as docs/kernels.md has it."""

    signature: str
    name: str
    parameters: tuple[Parameter, ...]
    result: str
    flags: int

    @property
    def flag_names(self) -> set[str]:
        return {name for name, bit in FLAGS.items() if self.flags & bit == bit}

    @property
    def outputs(self) -> int:
        """How many arguments may be left out."""
        return len([p for p in self.parameters if p.output])

    @property
    def arrays(self) -> list[tuple[int, Parameter]]:
        """The array parameters and their positions."""
        return [(i, p) for i, p in enumerate(self.parameters) if p.axes is not None]

    @property
    def dimensions(self) -> set[str]:
        return {axis for p in self.parameters for axis in p.axes or () if axis != "..."}

    def __str__(self) -> str:
        return self.name


SIGNATURE: Final = re.compile(r"(\w+)\((.*)\) -> (\S+)")
PARAMETER: Final = re.compile(r"(\w+): (mut )?((\w+)(?:\[([^\]]*)\])?)")


def parse(signature: str, flags: int = 0) -> Function:
    """Take a signature apart."""
    whole = SIGNATURE.fullmatch(signature)
    assert whole, f"not a signature: {signature}"
    name, inside, result = whole.groups()
    parameters = tuple(
        Parameter(p[1], p[3], p[4], None if p[5] is None else tuple(p[5].split(",")), bool(p[2]))
        for p in PARAMETER.finditer(inside)
    )
    return Function(signature, name, parameters, result, flags)


def _documented() -> Iterator[Function]:
    """Read the tables of docs/kernels.md: a row of the first is one NIF, a row of the second is a room with several."""
    for line in (DOCS / "kernels.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or len(cells) not in (2, 3):
            continue
        if len(cells) == 3 and cells[0].startswith("`"):
            yield parse(cells[0].strip("`"), _flags(cells[1]))
        elif len(cells) == 2:
            room = re.search(r"\(flag (\w+)\)", cells[0])
            for nif in re.finditer(r"`(\w+\([^`]*\) -> [^`]+)`(?: \(([A-Z_, ]+)\))?", cells[1]):
                yield parse(nif[1], _flags(room[1] if room else "") | _flags(nif[2] or ""))


def _flags(names: str) -> int:
    return sum(FLAGS[name] for name in re.findall(r"\w+", names))


def _of_devices() -> Iterator[Function]:
    """Read the table of docs/gpu.md: what each language has beside that for arrays on a device."""
    for line in (DOCS / "gpu.md").read_text("utf-8").splitlines():
        if row := re.match(r"\| `(\w+\([^`]*\) -> [^`]+)` \| ([A-Z_, ]*) ?\|", line):
            yield parse(row[1], _flags(row[2]))


#: Every NIF that every backend has, by name.
FUNCTIONS: Final[Mapping[str, Function]] = {function.name: function for function in _documented()}
#: What Rust, Zig, Nim and Julia have beside these.
ON_DEVICES: Final[Mapping[str, Function]] = {function.name: function for function in _of_devices()}


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call fails: the exception, the name of the argument at fault or None, and the text."""

    kind: type[NifError]
    argument: str | None
    reason: str


def given(value: Any) -> str:
    """Spell what came, as an error text does (``G`` of docs/abi.md)."""
    if isinstance(value, np.ndarray):
        return f"{ELEMENT_OF[value.dtype.name]}[{','.join(map(str, value.shape))}]"
    return {type(None): "None", bool: "bool", int: "i64", float: "f64", str: "str", bytes: "bytes"}[type(value)]


#: Which Python types a scalar parameter takes.
SCALARS: Final = {"i64": (bool, int), "f64": (bool, int, float), "bool": (bool,), "str": (str,), "bytes": (bytes,)}


def count(n: int) -> str:
    return f"{n} argument" if n == 1 else f"{n} arguments"


def refusal(function: Function, arguments: Sequence[Any]) -> Refusal | None:
    """Go through the checks of docs/abi.md and return the first that fails: row 1 to 10.

    Rows 4 and 5 aren't here: a NumPy array can't get them wrong (test_abi.py has them).
    """
    parameters = function.parameters
    if len(arguments) != len(parameters):
        return Refusal(NifTypeError, None, f"takes {count(len(parameters))}, {len(arguments)} given")
    pairs = list(zip(parameters, arguments, strict=True))
    for parameter, value in pairs:
        if wrong := _alone(parameter, value):
            return wrong
    return _sizes(function, pairs) or _overlaps(pairs)


def _sizes(function: Function, pairs: list[tuple[Parameter, Any]]) -> Refusal | None:
    """Rows 8 and 9."""
    sizes: dict[str, int] = {}
    for parameter, value in pairs:
        if parameter.type == "i64" and parameter.name in function.dimensions:
            if value < 0:
                return Refusal(NifValueError, parameter.name, f"expected 0 or more, got {int(value)}")
            sizes[parameter.name] = int(value)
    for parameter, array in pairs:
        if parameter.axes is None or parameter.any_rank:
            continue
        for axis, size in zip(parameter.axes, array.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                reason = f"expected {parameter.type} with {axis} = {sizes[axis]}, got {given(array)}"
                return Refusal(NifValueError, parameter.name, reason)
    return None


def _overlaps(pairs: list[tuple[Parameter, Any]]) -> Refusal | None:
    """Row 10."""
    arrays = [(p, a) for p, a in pairs if isinstance(a, np.ndarray)]
    for parameter, array in arrays:
        for other, another in arrays:
            if parameter.mut and other is not parameter and _meet(array, another):
                return Refusal(NifValueError, parameter.name, f"overlaps argument '{other.name}'")
    return None


def _alone(parameter: Parameter, value: Any) -> Refusal | None:
    """Rows 2 to 7: what one argument gets wrong by itself."""
    mismatch = f"expected {parameter.type}, got {given(value)}"
    if not isinstance(value, np.ndarray) or parameter.axes is None:
        takes = (bytes,) if parameter.any_rank else SCALARS[parameter.element] if parameter.axes is None else ()
        return None if isinstance(value, takes) else Refusal(NifTypeError, parameter.name, mismatch)
    if parameter.element not in ("any", ELEMENT_OF[value.dtype.name]):
        return Refusal(NifTypeError, parameter.name, mismatch)
    if not parameter.any_rank and value.ndim != len(parameter.axes):
        return Refusal(NifValueError, parameter.name, mismatch)
    if not value.flags.aligned:
        return Refusal(NifValueError, parameter.name, f"expected data aligned to {value.dtype.alignment} bytes")
    if (parameter.any_rank or value.ndim == 1) and not value.flags.c_contiguous:
        strides = ",".join(str(stride // value.itemsize) for stride in value.strides)
        return Refusal(NifValueError, parameter.name, f"expected contiguous memory, got strides [{strides}]")
    return None


def _meet(one: Array, other: Array) -> bool:
    """Tell whether two arrays' byte ranges, from the first byte to the last, have a byte in common."""
    if one.size == 0 or other.size == 0:
        return False
    (start, end), (other_start, other_end) = np.lib.array_utils.byte_bounds(one), np.lib.array_utils.byte_bounds(other)
    return start < other_end and other_start < end


def own_refusal(function: Function, arguments: Sequence[Any]) -> Refusal | None:
    """Go through the checks of the function itself (row 11, docs/kernels.md), for arguments that passed all others.

    A panic's text is the language's own: its reason is empty here.
    """
    check = OWN_CHECKS.get(function.name)
    return check(*arguments) if check else None


def _hillshade(z: Array, dx: float, dy: float, *_: Any) -> Refusal | None:
    for name, spacing in (("dx", dx), ("dy", dy)):
        if not spacing > 0:
            return Refusal(NifValueError, name, "expected a positive number")
    return None


def _smooth(z: Array, passes: int, *_: Any) -> Refusal | None:
    return Refusal(NifValueError, "passes", f"expected 0 or more, got {int(passes)}") if passes < 0 else None


def _forward(weights: Array, bias: Array, x: Array, activation: int, *_: Any) -> Refusal | None:
    reason = f"expected 0 to 4, got {int(activation)}"
    return None if 0 <= activation <= 4 else Refusal(NifValueError, "activation", reason)


def _histogram(x: Array, bins: int, low: float, high: float, *_: Any) -> Refusal | None:
    if bins < 1:
        return Refusal(NifValueError, "bins", f"expected 1 or more, got {int(bins)}")
    if not math.isfinite(low):
        return Refusal(NifValueError, "low", "expected a finite number")
    with np.errstate(all="ignore"):
        scale = np.float64(bins) / (np.float64(high) - np.float64(low))
    if not 0 < scale < math.inf:
        return Refusal(NifValueError, "high", "expected a finite number above low")
    return None


def _mandelbrot(*arguments: Any) -> Refusal | None:
    iterations = int(arguments[6])
    text = f"expected 0 to 2147483647, got {iterations}"
    return None if 0 <= iterations < 2**31 else Refusal(NifValueError, "iterations", text)


def _error_value(message: str) -> Refusal:
    return Refusal(NifValueError, None, message)


def _panic(message: str) -> Refusal:
    return Refusal(NifPanic, None, "")


def _fault(kind: str, *_: Any) -> Refusal:
    """No generated text is a kind; test_fault_room.py has those that are."""
    return Refusal(NifValueError, "kind", "no such kind of fault")


def _octets(value: Any) -> Array:
    return np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value.reshape(-1).view(np.uint8)


def _columns(name: str, table: Array, expected: int) -> Refusal | None:
    width = table.shape[1]
    reason = f"expected {expected} columns, got {width}"
    return None if width == expected else Refusal(NifValueError, name, reason)


def _by_reference(codec: Callable[..., object], *arguments: Any, **options: Any) -> Refusal | None:
    """Tell what Python's codec says, in a native one's words: without the details it adds."""
    try:
        codec(*arguments, **options)
    except WireError as error:
        return Refusal(NifValueError, None, str(error).removesuffix(f": {error.detail}"))
    return None


def _decode(frame: Any, dialect: int, version: int, live: Array) -> Refusal | None:
    if wrong := _columns("live", live, len(LIVE)):
        return wrong
    return _by_reference(decode_nodes, _octets(frame), int(dialect), int(version), live.tolist())


def _encode(nodes: Array, data: Any, dialect: int, version: int, alignment: int, checksum: bool) -> Refusal | None:
    if wrong := _columns("nodes", nodes, len(COLUMNS)):
        return wrong
    data, dialect, version, alignment = _octets(data), int(dialect), int(version), int(alignment)
    return _by_reference(encode_nodes, nodes, data, dialect, version, alignment, checksum=checksum)


OWN_CHECKS: Final[Mapping[str, Callable[..., Refusal | None]]] = {
    "decode": _decode,
    "encode": _encode,
    "error_value": _error_value,
    "fault": _fault,
    "forward": _forward,
    "hillshade": _hillshade,
    "histogram": _histogram,
    "mandelbrot": _mandelbrot,
    "panic": _panic,
    "smooth": _smooth,
}


def good_arguments(function: Function, size: int | None = None) -> list[Any]:
    """Make arguments that every check accepts: numbers grow from the left, each dimension is another (or ``size``)."""
    axes = sorted(function.dimensions)
    sizes = {axis: 3 + i if size is None else size for i, axis in enumerate(axes)} | {"...": 4}
    arguments: list[Any] = []
    for position, p in enumerate(function.parameters, start=1):
        if p.axes is not None:
            dtype = ELEMENTS.get(p.element, "float64")  # any element type: float64 will do
            arguments.append(np.ones([sizes[axis] for axis in p.axes], dtype))
        else:
            scalars = {"f64": float(position), "i64": sizes.get(p.name, 3), "bool": True, "str": "text", "bytes": b"b"}
            arguments.append(scalars[p.element])
    return arguments
