"""Reading arrays of Arrow's C data interface where they lie: pyarrow, polars, and every library with its capsules.

The structs are those of the Arrow specification ("The Arrow C data interface"). Only primitive
columns without missing values are read, since only those are arrays of numbers.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from typing import Any, ClassVar, Final

import numpy as np

__all__ = ["NotReadable", "Several", "read_arrow"]

FORMATS: Final = {
    "c": "i1", "C": "u1", "s": "i2", "S": "u2", "i": "i4", "I": "u4", "l": "i8", "L": "u8",
    "e": "f2", "f": "f4", "g": "f8",
}  # fmt: skip

#: What other types are, by the first letter of their format.
KINDS: Final = {
    "u": "text",
    "U": "text",
    "v": "text",
    "t": "dates or times",
    "z": "bytes",
    "Z": "bytes",
    "d": "decimals",
    "n": "nulls",
    "+": "lists",
}


class NotReadable(Exception):
    """Why an Arrow array isn't an array of numbers, with the fix."""


class Several(NotReadable):
    """A table: more than one column."""


class _Schema(ctypes.Structure):
    """``struct ArrowSchema``."""


_Schema._fields_ = [
    ("format", c_char_p), ("name", c_char_p), ("metadata", c_void_p), ("flags", c_int64), ("n_children", c_int64),
    ("children", c_void_p), ("dictionary", c_void_p), ("release", c_void_p), ("private_data", c_void_p),
]  # fmt: skip


class _Array(ctypes.Structure):
    """``struct ArrowArray``."""

    _fields_: ClassVar = [
        ("length", c_int64), ("null_count", c_int64), ("offset", c_int64), ("n_buffers", c_int64),
        ("n_children", c_int64), ("buffers", POINTER(c_void_p)), ("children", c_void_p), ("dictionary", c_void_p),
        ("release", c_void_p), ("private_data", c_void_p),
    ]  # fmt: skip


class _Stream(ctypes.Structure):
    """``struct ArrowArrayStream``."""


_Stream._fields_ = [
    ("get_schema", CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Schema))),
    ("get_next", CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Array))),
    ("get_last_error", CFUNCTYPE(c_char_p, POINTER(_Stream))),
    ("release", c_void_p),
    ("private_data", c_void_p),
]

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = c_void_p, [ctypes.py_object, c_char_p]


def _at(kind: Any, capsule: Any, name: bytes) -> Any:
    return ctypes.cast(_pointer(capsule, name), POINTER(kind)).contents


class _Owned:
    """An Arrow array that was taken out of a stream: released with the last NumPy view of it."""

    def __init__(self, array: _Array) -> None:
        self.array = array

    def __del__(self) -> None:
        if self.array.release:
            CFUNCTYPE(None, POINTER(_Array))(self.array.release)(ctypes.byref(self.array))


class _View:
    """What NumPy makes an array of, and what keeps the memory."""

    def __init__(self, address: int, dtype: np.dtype[Any], length: int, keeper: Any) -> None:
        self.__array_interface__ = {
            "version": 3, "data": (address, True), "typestr": dtype.str, "shape": (length,), "strides": None,
        }  # fmt: skip
        self.keeper = keeper


def _view(schema: _Schema, array: _Array, keeper: Any) -> tuple[np.ndarray, bool]:
    """Return the elements, and whether they were unpacked into a copy."""
    form = (schema.format or b"").decode()
    if form == "+s":
        raise Several("of several columns (take one column)")
    if schema.dictionary:
        raise NotReadable("of categories (take their codes, or convert them to numbers)")
    if form != "b" and form not in FORMATS:
        how = "numpy.array(x.to_list()) or x.to_pylist()" if form.startswith("+") else "convert it to numbers"
        raise NotReadable(f"of {KINDS.get(form[:1], 'elements')} (Arrow's type '{form}'; {how})")
    has_bitmap = array.n_buffers > 0 and bool(array.buffers[0])
    if array.null_count > 0 or (array.null_count < 0 and has_bitmap and not _all_set(array)):
        raise NotReadable("with missing values (drop or fill them)")
    length, offset = array.length, array.offset
    data = array.buffers[1] if array.n_buffers > 1 and length else None
    if form == "b":
        size = (offset + length + 7) // 8
        bits = np.frombuffer((ctypes.c_uint8 * size).from_address(data), np.uint8) if data else np.zeros(0, np.uint8)
        return np.unpackbits(bits, bitorder="little")[offset : offset + length].astype(bool), True
    dtype = np.dtype(FORMATS[form])
    if not data:
        return np.zeros(0, dtype), False
    return np.asarray(_View(data + offset * dtype.itemsize, dtype, length, keeper)), False


def _all_set(array: _Array) -> bool:
    size = (array.offset + array.length + 7) // 8
    bits = np.frombuffer((ctypes.c_uint8 * size).from_address(array.buffers[0]), np.uint8)
    return bool(np.unpackbits(bits, bitorder="little")[array.offset : array.offset + array.length].all())


def read_arrow(value: Any) -> tuple[np.ndarray, bool]:
    """Read an object with ``__arrow_c_array__`` or ``__arrow_c_stream__`` as a NumPy array.

    Parameters
    ----------
    value : object
        One primitive column, in one piece and without missing values.

    Returns
    -------
    array : numpy.ndarray, shape (n,), read-only
        Over the object's own memory, or a copy of booleans, which Arrow packs into bits.
    unpacked : bool
        Whether it is such a copy.

    Raises
    ------
    NotReadable
        For anything else, with the fix.
    """
    if hasattr(value, "__arrow_c_array__"):
        schema, capsule = value.__arrow_c_array__()
        return _view(_at(_Schema, schema, b"arrow_schema"), _at(_Array, capsule, b"arrow_array"), (schema, capsule))
    capsule = value.__arrow_c_stream__()
    stream = _at(_Stream, capsule, b"arrow_array_stream")
    schema = _Schema()
    if stream.get_schema(ctypes.byref(stream), ctypes.byref(schema)):
        raise NotReadable("whose stream has no schema (make it an array: numpy.asarray(x))")
    try:
        chunks: list[_Owned] = []
        while True:
            chunk = _Array()
            if stream.get_next(ctypes.byref(stream), ctypes.byref(chunk)):
                raise NotReadable("whose stream failed (make it an array: numpy.asarray(x))")
            if not chunk.release:
                break
            chunks.append(_Owned(chunk))
        full = [it for it in chunks if it.array.length] or chunks[:1]
        if len(full) > 1:
            raise NotReadable(f"in {len(full)} chunks (join them: x.rechunk() or x.combine_chunks())")
        if not full:
            return np.zeros(0, np.dtype(FORMATS.get((schema.format or b"").decode(), "f8"))), False
        return _view(schema, full[0].array, full[0])
    finally:
        if schema.release:
            CFUNCTYPE(None, POINTER(_Schema))(schema.release)(ctypes.byref(schema))
