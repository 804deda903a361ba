"""Arguments that a function doesn't take as they are: other libraries' arrays, other element types and layouts, lists.

The core calls `adapt` when a function has refused its arguments. Ordinary calls never come here, and arrays that the
core reads itself (rust/core/src/call/foreign.rs) don't either. What can be read where it lies is read there. What has
to be copied is copied for parameters that are only read, and the ledger has the copy with its reason. A ``mut``
parameter is never given a copy, because the result would be lost.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from .arrays import (
    CONVERTED,
    ELEMENTS,
    LISTED,
    STRIDED,
    SWAPPED,
    OnDevice,
    Refusal,
    as_array,
    is_bytes,
    name_of,
    spelled,
)
from .errors import NifTypeError, NifValueError

if TYPE_CHECKING:
    from ._core import Memory

__all__ = ["Adapted", "Parameter", "adapt", "in_kind_of", "options", "returned_as"]

#: What functions call Python's numbers.
SCALARS: Final = {float: "f64", int: "i64", bool: "bool"}
PARAMETER: Final = re.compile(r"(\w+): (mut )?([\w.]+(?:\[[^\]]*\])?)(\??)")


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
    is_optional : bool
        Whether it may be None.
    """

    name: str
    spelled: str
    mutable: bool
    is_optional: bool = False

    @property
    def shown(self) -> str:
        """The type as errors spell it."""
        return self.spelled + "?" * self.is_optional

    @property
    def element(self) -> str:
        """Element type of an array, or the type of a scalar."""
        return self.spelled.partition("[")[0]

    @property
    def is_texts(self) -> bool:
        """Whether it is a list of texts, of which the core makes bytes."""
        return self.spelled == "str[_]"

    @property
    def is_array(self) -> bool:
        return self.spelled.endswith("]") and not self.is_texts

    @property
    def is_matrix(self) -> bool:
        """Whether the array may have any strides."""
        return self.spelled.count(",") == 1


@lru_cache(maxsize=1024)
def _parameters(signature: str) -> tuple[Parameter, ...]:
    inside = signature[signature.index("(") + 1 : signature.rindex(") -> ")]  # named results have parentheses, too
    return tuple(Parameter(name, kind, bool(mut), bool(may)) for name, mut, kind, may in PARAMETER.findall(inside))


def _text(value: Any, parameter: Parameter, backend: str) -> Any:
    """Return the bytes that a parameter of that type takes, or the value itself."""
    if parameter.element == "str":
        if isinstance(value, (bytes, bytearray)):
            raise Refusal(f"got {name_of(value)} (x.decode())")
        if isinstance(value, np.ndarray) and value.dtype == np.uint8:
            advice = "bytes(x).decode()"
            if backend == "zig":  # []const u8 is both
                advice = f"if it is no text, give it a length in the documented call: /// `f({parameter.name}[n])`"
            raise Refusal(f"got {spelled(value)} ({advice})")
        return value
    if isinstance(value, str):
        raise Refusal("got str (x.encode())")
    if isinstance(value, (list, tuple, range)):
        raise Refusal(f"got {name_of(value)} (bytes(x))")
    try:
        return value if isinstance(value, bytes) else bytes(memoryview(value).cast("B"))
    except TypeError:
        return value


def _scalar(value: Any, parameter: Parameter, backend: str) -> Any:
    """Return the Python value that a scalar parameter takes, or the value itself."""
    element = parameter.element
    if element in ("bytes", "str"):
        return _text(value, parameter, backend)
    if isinstance(value, str) and element != "bool":
        raise Refusal(f"got str ({'int' if element[0] in 'iu' else 'complex' if element[0] == 'c' else 'float'}(x))")
    for how, call in (("as_py", "x.as_py()"), ("__float__", "float(x)")):
        if hasattr(type(value), how) and not hasattr(type(value), "__array__") and not isinstance(value, (int, float)):
            raise Refusal(f"got {name_of(value)} ({call})")
    taken = None if isinstance(value, (bytes, bytearray, list, tuple)) else as_array(value)
    if taken is not None:
        kinds = "biufc" if element in ("c64", "c128") else "biuf"
        if taken.array.size == 1 and taken.array.ndim and taken.array.dtype.kind in kinds:
            raise Refusal(f"got {spelled(taken.array)} (x.item())")
        if taken.array.ndim or taken.array.dtype.kind not in kinds:
            return value
        value = taken.array.item()
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if element in ("f32", "f64", "c64", "c128") and is_integer:
        try:
            return float(value)
        except OverflowError:
            raise _WrongValue("got an integer beyond the largest float, 1.8e308") from None
    return value


def _lost(array: np.ndarray, got: str, reason: str, code: str) -> str:
    """Return why a function can't write to an array, with the fix."""
    if reason == STRIDED:
        item = array.itemsize or 1
        is_odd = any(it % item for it in array.strides)
        strides = ",".join(str(it if is_odd else it // item) for it in array.strides)
        why = f"expected contiguous memory, got strides [{strides}]{' in bytes' if is_odd else ''}"
        fix = "x = numpy.ascontiguousarray(x)"
    elif reason == SWAPPED:
        why, fix = "expected native byte order", f"x = x.astype('{code}')"
    else:
        why, fix = got, f"x = numpy.array(x, '{code}')"
    return f"{why}; a copy would lose what the function writes ({fix})"


@dataclass(slots=True)
class _Call:
    """How the arguments of one call are made to fit.

    Attributes
    ----------
    strict : bool
        Whether copies are refused.
    room : callable
        Makes an empty array of a shape and an element type, in a pool where a worker reads it.
    to_worker : bool
        Whether one does.
    notes : list of (int, str)
        Copies: bytes and reason each.
    """

    strict: bool
    room: Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray]
    to_worker: bool
    notes: list[tuple[int, str]] = field(default_factory=list)

    def array(self, value: Any, parameter: Parameter) -> Any:
        """Return the array that an array parameter takes: where it lies, or a copy."""
        if is_bytes(value) and parameter.element not in {"u8", "any"}:
            code = ELEMENTS.get(parameter.element, "f8")
            raise Refusal(f"got {name_of(value)} (say what its bytes are: numpy.frombuffer(x, '{code}'))")
        taken = as_array(value)
        if taken is None:
            return value if self.strict else _no_array(value)
        _check_rank(taken.array, parameter, self.strict)
        array, copies = taken.array, taken.copies
        is_made_here = bool(copies)
        wanted = None if parameter.element == "any" else np.dtype(ELEMENTS.get(parameter.element, "f8"))
        is_listed = any(reason == LISTED for _, reason in copies)
        got = f"expected {parameter.shown}, got {name_of(value) if is_listed else spelled(array)}"
        is_swapped = not array.dtype.isnative
        needs_copy = True
        if wanted is not None and array.dtype.newbyteorder("=") != wanted:
            if not _fits(array, wanted, is_listed=is_listed):
                raise Refusal(f"{got} ({_cast_advice(array, wanted)})")
            copies.append((array.size * wanted.itemsize, CONVERTED))
        elif is_swapped:
            copies.append((array.nbytes, SWAPPED))
        else:
            is_strided = not (array.flags.c_contiguous or array.size <= 1 or parameter.is_matrix)
            is_odd = array.itemsize > 0 and any(stride % array.itemsize for stride in array.strides)
            needs_copy = is_strided or is_odd or not array.flags.aligned
            if not copies and needs_copy:
                copies.append((array.nbytes, STRIDED))
        if parameter.mutable and not copies and not array.flags.writeable:
            raise Refusal("is read-only (x = numpy.array(x))")
        if not copies:
            return array
        reason = LISTED if is_listed else copies[-1][1]
        target = wanted if wanted is not None else array.dtype.newbyteorder("=")
        if parameter.mutable:
            raise Refusal(_lost(array, got, reason, target.str[1:]))
        if self.strict:
            return value
        if needs_copy or (is_made_here and self.to_worker):
            copied = self.room(array.shape, target)
            np.copyto(copied, array, casting="unsafe")
            array = copied
        self.notes.append((array.nbytes, reason))
        return array


class _WrongValue(Refusal):
    """A refusal of the value, not of its type."""


def _no_array(value: Any) -> Any:
    """Return what is no array, or say how it becomes one."""
    module = type(value).__module__.partition(".")[0]
    if isinstance(value, (int, float, complex)):
        advice = "make it an array: numpy.array([x])"
    elif isinstance(value, Mapping):
        advice = "take one variable: x['name']" if module == "xarray" else "numpy.array(list(x.values()))"
    elif module == "polars" and hasattr(value, "collect"):
        advice = "x.collect()"
    else:
        return value
    raise Refusal(f"got {SCALARS.get(type(value), name_of(value))} ({advice})")


def _check_rank(array: np.ndarray, parameter: Parameter, is_strict: bool) -> None:
    """Refuse an array of another number of axes than a function wants, with what gives it that."""
    axes = 0 if is_strict or parameter.element == "any" else parameter.spelled.count(",") + 1
    if axes in (0, array.ndim):
        return
    advice = "numpy.ravel(x)"
    if parameter.mutable and not array.flags.c_contiguous:  # of which ravel makes a copy, and what is written is lost
        advice = "make it contiguous first, x = numpy.ascontiguousarray(x), then give numpy.ravel(x)"
    if axes > 1:
        matrices = {0: "numpy.atleast_2d(x)", 1: "x[None, :] is one row, x[:, None] one column"}
        advice = matrices.get(array.ndim, "take a matrix: x[0]")
    raise _WrongValue(f"expected {parameter.shown}, got {spelled(array)} ({advice})")


def _fits(array: np.ndarray, wanted: np.dtype[Any], *, is_listed: bool) -> bool:
    """Return whether elements convert without loss: by NumPy's rule, or those of a list by their values."""
    if np.can_cast(array.dtype, wanted, "safe"):
        return True
    if not is_listed or array.dtype.kind not in "iu" or wanted.kind not in "iu":
        return False
    limits = np.iinfo(wanted)
    return array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)


def _cast_advice(array: np.ndarray, wanted: np.dtype[Any]) -> str:
    code = wanted.str[1:]
    how = f"numpy.asarray(x).astype('{code}')"
    if array.dtype.kind == "c" and wanted.kind != "c":
        return "it can't be converted without loss: take x.real or x.imag"
    return f"it can't be converted without loss: {how} if you want that"


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
    signature: str, place: str, memory: Memory, args: tuple[Any, ...], kwargs: dict[str, Any], to_worker: bool = False
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
    to_worker : bool
        Whether a worker reads them: copies are made in a pool then, where it finds them.

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
    room = memory.empty if to_worker else np.empty
    call = _Call(strict, room, to_worker)

    def one(value: Any, parameter: Parameter) -> Any:
        if value is None or parameter.is_texts:
            return value
        try:
            if parameter.is_array or parameter.element == "any":
                return call.array(value, parameter)
            return value if strict else _scalar(value, parameter, backend)
        except Refusal as said:
            if isinstance(said, OnDevice) and parameter.spelled == "u64":
                return value  # a function that takes devices' arrays: its own words
            if strict and isinstance(value, (np.ndarray, Sequence)) and not isinstance(value, np.ma.MaskedArray):
                return value  # the function's own words
            reason = str(said)
            if reason.startswith("got"):
                reason = f"expected {parameter.shown}, {reason}"
            message = f"{place}(): argument '{parameter.name}': {reason}"
            is_value = reason.startswith("is read-only") or isinstance(said, _WrongValue)
            is_value |= isinstance(value, np.ndarray) and "would lose" in reason
            error = NifValueError if is_value else NifTypeError
            raise error(message, backend, function, parameter.name, reason) from None

    if len(args) > len(parameters) or any(name not in named for name in kwargs):
        return None
    pairs = list(zip(args, parameters, strict=False))
    new = tuple(one(value, parameter) for value, parameter in pairs)
    renamed = {name: one(value, named[name]) for name, value in kwargs.items()}
    if all(a is b for a, b in zip(args, new, strict=True)) and all(kwargs[it] is renamed[it] for it in kwargs):
        return None
    for size, reason in call.notes:
        memory.note_copy(size, place, reason)
    first = _first_array(parameters, args, kwargs)
    wants_numpy = first is None or (results or memory.results) == "numpy"
    return Adapted(new, renamed, None if wants_numpy else returned_as(first, (*args, *kwargs.values())))


def _first_array(parameters: tuple[Parameter, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the first argument that an array is wanted for; None where there is none."""
    for place, parameter in enumerate(parameters):
        if parameter.is_array or parameter.element == "any":
            value = args[place] if place < len(args) else kwargs.get(parameter.name)
            if value is not None:
                return value
    return None


def in_kind_of(signature: str, memory: Memory, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    """Make the arrays of a result into those of the first array argument's library, if the Lab or the call wants that.

    Parameters
    ----------
    signature : str
        The function's.
    memory : Memory
        The Lab's memory in the core, which has ``results``.
    args, kwargs
        The call's arguments.
    result : object
        What the function returned.
    """
    if (OVERRIDE.get()[1] or memory.results) == "numpy":
        return result
    wrap = returned_as(_first_array(_parameters(signature), args, kwargs), (*args, *kwargs.values()))
    return result if wrap is None else wrap(result)


def returned_as(value: Any, given: Sequence[Any] = ()) -> Callable[[Any], Any] | None:
    """Return what makes array results into the kind of array that an object is; None where that is NumPy's.

    Parameters
    ----------
    value : object
        The first array argument of a call.
    given : sequence of object
        All its arguments: one that is returned stays what it is.
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

    def one(result: Any) -> Any:
        is_new = isinstance(result, np.ndarray) and not any(result is it for it in given)
        return convert(result) if is_new else result

    def wrap(result: Any) -> Any:
        if isinstance(result, tuple):
            values = [one(it) for it in result]
            return type(result)(*values) if hasattr(result, "_fields") else tuple(values)
        return one(result)

    return wrap
