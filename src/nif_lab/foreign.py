"""Arguments that a function doesn't take as they are: other libraries' arrays, other element types and layouts, lists.

The core calls `adapt` when a function has refused its arguments, so ordinary calls never come here. What can be read
where it lies is read there. What has to be copied is copied for parameters that are only read, and the ledger has the
copy with its reason. A ``mut`` parameter is never given a copy, because the result would be lost.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from .arrow import NotReadable, Several, read_arrow
from .errors import NifTypeError, NifValueError

if TYPE_CHECKING:
    from ._core import Memory

__all__ = ["Adapted", "Parameter", "Refusal", "Taken", "adapt", "as_array", "options", "returned_as"]

#: NumPy's name of each element type of a signature.
ELEMENTS: Final = {
    "bool": "?", "i8": "i1", "i16": "i2", "i32": "i4", "i64": "i8", "u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8",
    "f32": "f4", "f64": "f8", "c64": "c8", "c128": "c16",
}  # fmt: skip
CPU: Final = frozenset({1, 3, 11})  # DLPack's numbers: the CPU, and memory of the host that CUDA or ROCm has pinned
DEVICES: Final = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda", 14: "oneapi"}
PARAMETER: Final = re.compile(r"(\w+): (mut )?([\w.]+(?:\[[^\]]*\])?)")
#: Why a copy was made, as the ledger has it.
STRIDED, CONVERTED, SWAPPED, LISTED, UNPACKED = (
    "argument not contiguous", "argument of another element type", "argument of another byte order",
    "argument is a sequence", "elements of the argument unpacked",
)  # fmt: skip


class Adapted(NamedTuple):
    """Arguments that fit, and what the result is made into for the caller; None for NumPy's kinds."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    wrap: Callable[[Any], Any] | None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a signature.

    Attributes
    ----------
    name, spelled : str
        ``"x"`` and ``"f64[n]"``.
    mutable : bool
        Whether the function writes to it.
    """

    name: str
    spelled: str
    mutable: bool

    @property
    def element(self) -> str:
        """Element type of an array, or the type of a scalar."""
        return self.spelled.partition("[")[0]

    @property
    def is_array(self) -> bool:
        return self.spelled.endswith("]")

    @property
    def is_matrix(self) -> bool:
        """Whether the array may have any strides."""
        return self.spelled.count(",") == 1


class Refusal(Exception):
    """Why a value can't be given to a parameter, with the fix in parentheses."""


@dataclass(slots=True)
class Taken:
    """An array that was read from a caller's object, and the copies that it took: bytes and reason each."""

    array: np.ndarray
    copies: list[tuple[int, str]]


def name_of(value: Any) -> str:
    return type(value).__name__


def spelled(array: np.ndarray) -> str:
    """Return element type and shape as error messages have them: ``f32[3,4]``."""
    names = {np.dtype(it): name for name, it in ELEMENTS.items()}
    element = names.get(array.dtype.newbyteorder("="), str(array.dtype))
    return f"{element}[{','.join(map(str, array.shape))}]"


def as_array(value: Any) -> Taken | None:
    """Read an object as a NumPy array, without a copy where its library allows that.

    Parameters
    ----------
    value : object
        Any array: of NumPy, of a library with DLPack or Arrow's capsules, with the buffer protocol or ``__array__``, or
        a sequence of numbers.

    Returns
    -------
    Taken or None
        The array; None for what is no array at all.

    Raises
    ------
    Refusal
        For an array whose elements can't be read, with the reason and the fix.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise Refusal("got a masked array (fill it: x.filled(value))")
    if isinstance(value, np.ndarray):
        return _checked(Taken(value, []), value)
    if isinstance(value, (str, type, Mapping)) or value is None or type(value).__module__.startswith("nif_lab"):
        return None  # the core takes buffers and mapped files itself, and knows who may read them
    for read in (_by_arrow, _by_dlpack, _by_buffer, _by_array, _by_items):
        taken = read(value)
        if taken is not None:
            return _checked(taken, value)
    return None


def _checked(taken: Taken, value: Any) -> Taken:
    kind = taken.array.dtype.kind
    if kind in "biufc":
        return taken
    what = name_of(value)
    if kind in "mM":
        raise Refusal(f"got {what} of dates or times (take their numbers: x.astype('i8'))")
    if kind == "O":
        raise Refusal(f"got {what} of Python objects or with missing values (drop or fill them, then x.astype('f8'))")
    raise Refusal(f"got {what} of {taken.array.dtype} (make it numbers: numpy.asarray(x, 'f8'))")


def _by_dlpack(value: Any) -> Taken | None:
    if not hasattr(type(value), "__dlpack__"):
        return None
    device, number = value.__dlpack_device__()
    if int(device) not in CPU:
        where = f"{DEVICES.get(int(device), f'device type {int(device)}')}:{number}"
        raise Refusal(
            f"got {name_of(value)} in memory of {where} (copy it to the host first: functions read the CPU's memory)"
        )
    if getattr(value, "requires_grad", False):
        raise Refusal(f"got {name_of(value)} that records gradients (detach it: x.detach())")
    try:
        return Taken(np.from_dlpack(value), [])
    except (BufferError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise Refusal(f"got {name_of(value)} that can't be read: {error} (convert its elements first)") from None


def _by_arrow(value: Any) -> Taken | None:
    kind = type(value)
    if not (hasattr(kind, "__arrow_c_array__") or hasattr(kind, "__arrow_c_stream__")):
        return None
    try:
        array, unpacked = read_arrow(value)
    except Several as error:
        # A table of polars gives NaN for missing integers, so only its columns are read.
        if hasattr(kind, "__array__") and kind.__module__.partition(".")[0] != "polars":
            return None
        raise Refusal(f"got {name_of(value)} {error}") from None
    except NotReadable as error:
        raise Refusal(f"got {name_of(value)} {error}") from None
    return Taken(array, [(array.nbytes, UNPACKED)] if unpacked else [])


def _by_buffer(value: Any) -> Taken | None:
    try:
        view = memoryview(value)
    except (TypeError, BufferError):
        return None
    try:
        return Taken(np.asarray(view), [])
    except (TypeError, ValueError):
        return Taken(np.frombuffer(view, np.uint8), [])


def _by_array(value: Any) -> Taken | None:
    kind = type(value)
    if not (hasattr(kind, "__array__") or hasattr(value, "__array_interface__") or hasattr(kind, "__array_struct__")):
        return None
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype == object:
        return None
    # A library that has to convert makes another array each time.
    copied = array.nbytes > 0 and np.asarray(value).ctypes.data != array.ctypes.data
    return Taken(array, [(array.nbytes, UNPACKED)] if copied else [])


def _by_items(value: Any) -> Taken | None:
    if not isinstance(value, Sequence):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        raise Refusal(f"got {name_of(value)} of rows of different lengths (make them equally long)") from None
    if array.dtype.kind in "US":
        raise Refusal(f"got {name_of(value)} of text (make it numbers: [float(it) for it in x])")
    return Taken(array, [(array.nbytes, LISTED)])


def _parameters(signature: str) -> list[Parameter]:
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    return [Parameter(name, kind, bool(mut)) for name, mut, kind in PARAMETER.findall(inside)]


def _scalar(value: Any, parameter: Parameter) -> Any:
    """Return the Python value that a scalar parameter takes, or the value itself."""
    element = parameter.element
    if element == "bytes":
        try:
            return value if isinstance(value, bytes) else bytes(memoryview(value).cast("B"))
        except TypeError:
            return value
    if element == "str":
        return value
    taken = None if isinstance(value, (bytes, bytearray, list, tuple)) else as_array(value)
    if taken is not None:
        if taken.array.ndim or taken.array.dtype.kind not in "biuf":
            return value
        value = taken.array.item()
    if element.startswith("f") and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _lost(array: np.ndarray, got: str, reason: str, code: str) -> str:
    """Return why a function can't write to an array, with the fix."""
    if reason == STRIDED:
        strides = ",".join(str(it // (array.itemsize or 1)) for it in array.strides)
        why, fix = f"expected contiguous memory, got strides [{strides}]", "x = numpy.ascontiguousarray(x)"
    elif reason == SWAPPED:
        why, fix = "expected native byte order", f"x = x.astype('{code}')"
    else:
        why, fix = got, f"x = numpy.array(x, '{code}')"
    return f"{why}; a copy would lose what the function writes ({fix})"


def _array(value: Any, parameter: Parameter, strict: bool, note: Callable[[int, str], None]) -> Any:
    """Return the array that an array parameter takes: where it lies, or a copy."""
    if isinstance(value, (bytes, bytearray)) and parameter.element not in {"u8", "any"}:
        return value  # bytes are no numbers, unless the function says so
    taken = as_array(value)
    if taken is None:
        return value
    array, copies = taken.array, taken.copies
    wanted = None if parameter.element == "any" else np.dtype(ELEMENTS.get(parameter.element, "f8"))
    is_listed = any(reason == LISTED for _, reason in copies)
    got = f"expected {parameter.spelled}, got {name_of(value) if is_listed else spelled(array)}"
    is_swapped = not array.dtype.isnative
    if wanted is not None and array.dtype.newbyteorder("=") != wanted:
        if not np.can_cast(array.dtype, wanted, "safe"):
            raise Refusal(f"{got} (it can't be converted without loss: x.astype('{wanted.str[1:]}') if you want that)")
        copies.append((array.size * wanted.itemsize, CONVERTED))
    elif is_swapped:
        copies.append((array.nbytes, SWAPPED))
    is_strided = not (array.flags.c_contiguous or array.size <= 1 or parameter.is_matrix)
    is_odd = array.itemsize > 0 and any(stride % array.itemsize for stride in array.strides)
    if not copies and (is_strided or is_odd or not array.flags.aligned):
        copies.append((array.nbytes, STRIDED))
    if not copies:
        return array
    if parameter.mutable:
        raise Refusal(_lost(array, got, copies[0][1], (wanted or array.dtype.newbyteorder("=")).str[1:]))
    if strict:
        return value
    target = wanted if wanted is not None else array.dtype.newbyteorder("=")
    copied = np.array(array, dtype=target, order="C", copy=True)
    for _, reason in copies[-1:]:
        note(copied.nbytes, reason)
    return copied


#: What a call says in place of its Lab: whether copies are refused, and the kind of array results.
OVERRIDE: ContextVar[tuple[bool | None, str | None]] = ContextVar("OVERRIDE", default=(None, None))


@contextmanager
def options(strict: bool | None, results: str | None) -> Iterator[None]:
    """Make the calls inside with these options in place of the Lab's.

    Parameters
    ----------
    strict : bool or None
        Whether arguments are refused that would have to be copied.
    results : {"caller", "numpy"} or None
        The kind of array results.
    """
    token = OVERRIDE.set((strict, results))
    try:
        yield
    finally:
        OVERRIDE.reset(token)


def adapt(
    signature: str, place: str, memory: Memory, args: tuple[Any, ...], kwargs: dict[str, Any], refusal: str
) -> Adapted | None:
    """Make arguments fit that a function has refused.

    Parameters
    ----------
    signature : str
        The function's: ``"dot(x: f64[n], y: f64[n]) -> f64"``.
    place : str
        Backend and function: ``"rust.dot"``.
    memory : Memory
        The Lab's memory in the core, which has the ledger, ``strict`` and ``results``.
    args : tuple
        The call's positional arguments.
    kwargs : dict
        Its keyword arguments.
    refusal : str
        What the function said.

    Returns
    -------
    Adapted or None
        None where there is nothing to change: the refusal stands.

    Raises
    ------
    NifTypeError, NifValueError
        For what can't be made to fit, with the reason and the fix.
    """
    parameters = _parameters(signature)
    named = {it.name: it for it in parameters}
    backend, _, function = place.partition(".")
    strict, results = OVERRIDE.get()
    strict = memory.strict if strict is None else strict
    noted: list[tuple[int, str]] = []

    def one(value: Any, parameter: Parameter) -> Any:
        try:
            if parameter.is_array or parameter.element == "any":
                return _array(value, parameter, strict, lambda size, reason: noted.append((size, reason)))
            return value if strict else _scalar(value, parameter)
        except Refusal as said:
            if strict and isinstance(value, (np.ndarray, Sequence)) and not isinstance(value, np.ma.MaskedArray):
                return value  # the function's own words
            reason = str(said)
            if reason.startswith("got"):
                reason = f"expected {parameter.spelled}, {reason}"
            message = f"{place}(): argument '{parameter.name}': {reason}"
            is_value = isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray) and "lose" in reason
            error = NifValueError if is_value else NifTypeError
            raise error(message, backend, function, parameter.name, reason) from None

    if len(args) > len(parameters) or any(name not in named for name in kwargs):
        return None
    pairs = list(zip(args, parameters, strict=False))
    new = tuple(one(value, parameter) for value, parameter in pairs)
    renamed = {name: one(value, named[name]) for name, value in kwargs.items()}
    if all(a is b for a, b in zip(args, new, strict=True)) and all(kwargs[it] is renamed[it] for it in kwargs):
        return None
    for size, reason in noted:
        memory.note_copy(size, place, reason)
    arrays = [value for value, parameter in pairs if parameter.is_array]
    wants_numpy = (results or memory.results) == "numpy"
    return Adapted(new, renamed, returned_as(arrays[0]) if arrays and not wants_numpy else None)


def returned_as(value: Any) -> Callable[[Any], Any] | None:
    """Return what makes array results into the kind of array that an object is; None where that is NumPy's.

    Parameters
    ----------
    value : object
        The first array argument of a call.
    """
    module = type(value).__module__.partition(".")[0]
    if module == "torch":
        convert = sys.modules["torch"].from_dlpack
    elif module in {"jax", "jaxlib"}:
        convert = sys.modules["jax"].numpy.from_dlpack
    elif module == "cupy":
        convert = sys.modules["cupy"].asarray
    elif module == "tvm_ffi":
        convert = sys.modules["tvm_ffi"].from_dlpack
    else:
        return None

    def wrap(result: Any) -> Any:
        if isinstance(result, np.ndarray):
            return convert(result)
        if isinstance(result, tuple):
            values = [convert(it) if isinstance(it, np.ndarray) else it for it in result]
            return type(result)(*values) if hasattr(result, "_fields") else tuple(values)
        return result

    return wrap
