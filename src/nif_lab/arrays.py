"""Reading any array as NumPy's, where it lies if that can be: of other libraries, buffers, sequences of numbers."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from . import _core
from .arrow import NotReadable, Several, read_arrow
from .errors import ArgumentTypeError

__all__ = [
    "CONVERTED",
    "ELEMENTS",
    "LISTED",
    "STRIDED",
    "SWAPPED",
    "UNPACKED",
    "OnDevice",
    "Refusal",
    "Taken",
    "as_array",
    "given_array",
    "is_bytes",
    "name_of",
    "spelled",
]

#: NumPy's name of each element type of a signature.
ELEMENTS: Final = {
    "bool": "?", "i8": "i1", "i16": "i2", "i32": "i4", "i64": "i8", "u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8",
    "f32": "f4", "f64": "f8", "c64": "c8", "c128": "c16",
}  # fmt: skip
CPU: Final = frozenset({1, 3, 11})  # DLPack's numbers: the CPU, and memory of the host that CUDA or ROCm has pinned
DEVICES: Final = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda", 14: "oneapi"}
#: Why a copy was made, as the ledger has it.
STRIDED, CONVERTED, SWAPPED, LISTED, UNPACKED = (
    "argument not contiguous", "argument of another element type", "argument of another byte order",
    "argument is a sequence", "elements of the argument unpacked",
)  # fmt: skip
#: What to do with memory of a GPU.
TO_HOST: Final = "(copy it to the host first: {}; only the gpu functions take memory of a device)"


class Refusal(Exception):
    """Why a value can't be given to a parameter, with the fix in parentheses."""


class OnDevice(Refusal):
    """An array that is in the memory of a device, and not in the host's."""


@dataclass(slots=True)
class Taken:
    """An array that was read from a caller's object, and the copies that it took: bytes and reason each."""

    array: np.ndarray
    copies: list[tuple[int, str]]


def name_of(value: Any) -> str:
    """Return what error messages call an object: its type."""
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
    if isinstance(value, (np.ndarray, np.generic)):
        return _checked(Taken(np.asarray(value), []), value)
    if isinstance(value, (str, type, Mapping)) or value is None or type(value).__module__.startswith("nif_lab"):
        return None  # the core takes buffers and mapped files itself, and knows who may read them
    if (dense := _dense(value)) is not None:
        raise Refusal(f"got {name_of(value)} that is sparse (make it dense: {dense})")
    for read in (_by_arrow, _by_dlpack, _by_buffer, _by_array, _by_items):
        taken = read(value)
        if taken is not None:
            return _checked(taken, value)
    return None


def given_array(name: str, value: Any) -> np.ndarray | None:
    """Read an object that isn't given to a function but to the Lab.

    Parameters
    ----------
    name : str
        What the caller knows it as: ``"value"``.
    value : object
        Any array, or anything else.

    Returns
    -------
    numpy.ndarray or None
        The array; None for what is no array at all.

    Raises
    ------
    ArgumentTypeError
        For an array whose elements can't be read, with the reason and the fix.
    """
    try:
        taken = as_array(value)
    except Refusal as said:
        raise ArgumentTypeError(name, str(said)) from None
    return None if taken is None else taken.array


def is_bytes(value: Any) -> bool:
    """Return whether an object is a run of bytes, which are no numbers unless a function says so."""
    if isinstance(value, memoryview):
        return value.itemsize == 1 and isinstance(value.obj, (bytes, bytearray, mmap.mmap))
    return isinstance(value, (bytes, bytearray, mmap.mmap)) or name_of(value) == "Buffer"  # pyarrow's


def _checked(taken: Taken, value: Any) -> Taken:
    dtype = taken.array.dtype
    if dtype.kind in "biufc":
        return taken
    what = name_of(value)
    if dtype.kind in "mM":
        raise Refusal(f"got {what} of dates or times (take their numbers: x.astype('i8'))")
    if dtype.kind == "O":
        raise Refusal(_objects(what, taken))
    if dtype.names:
        raise Refusal(f"got {what} of records (take one field: x['{dtype.names[0]}'])")
    if dtype.kind == "V" and dtype.type is not np.void and np.can_cast(dtype, np.float32, "safe"):  # bfloat16
        array = taken.array.astype(np.float32)
        return Taken(array, [*taken.copies, (array.nbytes, CONVERTED)])
    kinds = "text" if dtype.kind in "SU" else str(dtype)
    raise Refusal(f"got {what} of {kinds} (make it numbers: numpy.asarray(x).astype('f8'))")


def _objects(what: str, taken: Taken) -> str:
    """Return why an array of Python objects isn't one of numbers."""
    items = taken.array.reshape(-1).tolist()
    if any(it is None or (isinstance(it, float) and math.isnan(it)) for it in items):
        return f"got {what} of Python objects, with missing values (drop or fill them, then numpy.asarray(x, 'f8'))"
    if items and all(isinstance(it, int) for it in items):
        return f"got {what} of integers beyond 64 bits (make them floats: numpy.asarray(x, 'f8'))"
    return f"got {what} of Python objects (make them numbers: numpy.asarray(x, 'f8'))"


def _dense(value: Any) -> str | None:
    """Return what makes a sparse array dense; None for any other object."""
    kind = type(value)
    if kind.__module__.partition(".")[0] == "torch":
        return "x.to_dense()" if "sparse" in str(getattr(value, "layout", "")) else None
    if hasattr(kind, "__array__") or not (hasattr(kind, "nnz") or hasattr(kind, "nse")):
        return None
    return next((f"x.{it}()" for it in ("toarray", "todense", "to_dense") if hasattr(kind, it)), None)


def _by_dlpack(value: Any) -> Taken | None:
    by_table = hasattr(type(value), "__dlpack_c_exchange_api__")
    if not (by_table or hasattr(type(value), "__dlpack__")):
        if hasattr(type(value), "__cuda_array_interface__") or hasattr(value, "__cuda_array_interface__"):
            raise OnDevice(f"got {name_of(value)} in memory of cuda {TO_HOST.format('x.copy_to_host() or x.get()')}")
        return None
    array = None
    try:
        device, number, array = _core.read_table(value) or (*value.__dlpack_device__(), None)
    except Exception as error:  # the library's own words
        if "Tracer" in name_of(value):
            advice = "call it outside of jax.jit, or by jax.pure_callback"
            raise Refusal(f"got {name_of(value)}, which has no elements yet ({advice})") from None
        if not hasattr(type(value), "__dlpack_device__"):
            raise Refusal(f"got {name_of(value)} that can't be read: {error} (make it an array of the host)") from None
        device, number = value.__dlpack_device__()
    if int(device) not in CPU:
        where = f"{DEVICES.get(int(device), f'device type {int(device)}')}:{number}"
        raise OnDevice(f"got {name_of(value)} in memory of {where} {TO_HOST.format('x.cpu() or x.get()')}")
    if getattr(value, "requires_grad", False):
        raise Refusal(f"got {name_of(value)} that records gradients (detach it: x.detach())")
    if any(getattr(value, it, bool)() for it in ("is_neg", "is_conj")):
        raise Refusal(
            f"got {name_of(value)} that is negated or conjugated later (do it now: x.resolve_neg().resolve_conj())"
        )
    if array is not None:
        return Taken(array, [])
    try:
        return Taken(np.from_dlpack(value), [])
    except Exception as error:  # bfloat16, sparse, deleted, and whatever else a library has
        reason = error
    try:
        taken = _by_array(value)
    except Refusal:
        taken = None
    if taken is not None:
        return taken
    advice = "convert its elements first: x.astype('float32'), in torch x.float()"
    raise Refusal(f"got {name_of(value)} that can't be read: {str(reason).rstrip('.')} ({advice})")


def _by_arrow(value: Any) -> Taken | None:
    kind = type(value)
    if not (hasattr(kind, "__arrow_c_array__") or hasattr(kind, "__arrow_c_stream__")):
        return None
    if hasattr(kind, "__array__") and isinstance(getattr(value, "dtype", None), np.dtype):
        return None  # pandas, over NumPy's arrays: Arrow would take each NaN for a missing value
    try:
        array, unpacked = read_arrow(value)
    except Several as error:
        # A table of polars gives NaN for missing integers, so only its columns are read.
        if hasattr(kind, "__array__") and kind.__module__.partition(".")[0] != "polars":
            return None
        whole = " or all: x.to_numpy()" if hasattr(kind, "to_numpy") else ""
        raise Refusal(f"got {name_of(value)} {str(error).rstrip(')')}{whole})") from None
    except NotReadable as error:
        raise Refusal(f"got {name_of(value)} {error}") from None
    except Exception:  # a library that can't make Arrow's arrays of its own
        return None
    return Taken(array, [(array.nbytes, UNPACKED)] if unpacked else [])


def _by_buffer(value: Any) -> Taken | None:
    try:
        view = memoryview(value)
    except (TypeError, BufferError, ValueError):
        return None
    if view.format in {"c", "b", "B"} and view.c_contiguous and is_bytes(value):
        return Taken(np.frombuffer(view, np.uint8), [])
    try:
        return Taken(np.asarray(view), [])
    except (TypeError, ValueError):
        return None  # pointers, structs


def _by_array(value: Any) -> Taken | None:
    kind = type(value)
    if not (hasattr(kind, "__array__") or hasattr(value, "__array_interface__") or hasattr(kind, "__array_struct__")):
        return None
    if hasattr(getattr(value, "dtype", None), "categories"):
        raise Refusal(f"got {name_of(value)} of categories (take their codes, or convert them to numbers)")
    try:
        array = np.asarray(value)
        # A library that has to convert makes another array each time.
        copied = array.nbytes > 0 and np.asarray(value).ctypes.data != array.ctypes.data
    except Exception as error:  # the library's own words
        raise Refusal(f"got {name_of(value)} that can't be read: {error} (make it an array of NumPy's)") from None
    if array.ndim == 0 and array.dtype == object:
        return None
    if isinstance(array, np.ma.MaskedArray):
        raise Refusal(f"got {name_of(value)} with masked values (fill them)")
    if kind.__module__.partition(".")[0] == "pandas" and kind.__name__.endswith("Index"):
        array = array.view()
        array.flags.writeable = False  # an index never changes
    return Taken(array, [(array.nbytes, UNPACKED)] if copied else [])


def _by_items(value: Any) -> Taken | None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return None
    if not isinstance(value, Sequence):
        if isinstance(value, Iterable) and not callable(value) and not hasattr(type(value), "__getitem__"):
            raise Refusal(f"got {name_of(value)} (make it a list: list(x))")
        return None
    try:
        array = np.asarray(value)
    except Exception as error:
        reason = "of rows of different lengths (make them equally long)"
        if not isinstance(error, ValueError):
            reason = f"that can't be read: {error} (make it numbers: [float(it) for it in x])"
        raise Refusal(f"got {name_of(value)} {reason}") from None
    if array.dtype.kind in "US":
        raise Refusal(f"got {name_of(value)} of text (make it numbers: [float(it) for it in x])")
    return Taken(array, [(array.nbytes, LISTED)])
