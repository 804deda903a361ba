"""Arrays that offer one protocol each, for tests: a table of C functions made by ctypes, or a capsule."""

from __future__ import annotations

import ctypes
import threading
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np


class DLTensor(Structure):
    _fields_: ClassVar = [
        ("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32), ("code", c_uint8),
        ("bits", c_uint8), ("lanes", c_uint16), ("shape", POINTER(c_int64)), ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]  # fmt: skip


class Managed(Structure):
    pass


Deleter = CFUNCTYPE(None, POINTER(Managed))
Managed._fields_ = [
    ("major", c_uint32), ("minor", c_uint32), ("context", c_void_p), ("deleter", Deleter), ("flags", c_uint64),
    ("tensor", DLTensor),
]  # fmt: skip
FromObject = CFUNCTYPE(c_int, ctypes.py_object, POINTER(POINTER(Managed)))
ToTensor = CFUNCTYPE(c_int, ctypes.py_object, POINTER(DLTensor))


class Exchange(Structure):
    _fields_: ClassVar = [
        ("major", c_uint32), ("minor", c_uint32), ("previous", c_void_p), ("allocate", c_void_p),
        ("managed", FromObject), ("to_object", c_void_p), ("tensor", ToTensor), ("stream", c_void_p),
    ]  # fmt: skip


CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


class ByTable:
    """An array with nothing but a table of C functions; `__dlpack__` would be an error."""

    requires_grad = False
    flags = 0
    device = 1
    deleted: ClassVar[list[str]] = []

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self.axes = (c_int64 * (2 * x.ndim))(*x.shape, *(it // x.itemsize for it in x.strides))

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("its table should be asked")

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def describe(self, it: DLTensor) -> None:
        """Fill a tensor that leads to the array."""
        it.data, it.device_type, it.device_id, it.ndim = self.x.ctypes.data, self.device, 0, self.x.ndim
        it.code, it.bits, it.lanes = CODES[self.x.dtype.kind], self.x.itemsize * 8, 1
        it.shape = ctypes.cast(self.axes, POINTER(c_int64))
        it.strides = ctypes.cast(ctypes.addressof(self.axes) + 8 * self.x.ndim, POINTER(c_int64))


@ToTensor
def to_tensor(value: ByTable, out: Any) -> int:
    value.describe(out.contents)
    return 0


KEPT: dict[int, Managed] = {}


@Deleter
def delete(managed: Any) -> None:
    ByTable.deleted.append(threading.current_thread().name)
    del KEPT[ctypes.addressof(managed.contents)]


@FromObject
def to_managed(value: ByTable, out: Any) -> int:
    made = Managed(major=1, minor=3, deleter=delete, flags=value.flags)
    value.describe(made.tensor)
    KEPT[ctypes.addressof(made)] = made
    out[0] = ctypes.pointer(made)
    return 0


def table(**fields: Any) -> Any:
    """Return the capsule of a table, as a type has it; it lives for ever."""
    made = Exchange(**{"major": 1, "minor": 3, "managed": to_managed, "tensor": to_tensor, **fields})
    FOREVER.append(made)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [c_void_p, ctypes.c_char_p, c_void_p]
    return new(ctypes.addressof(made), b"dlpack_exchange_api", None)


FOREVER: list[Any] = []
ByTable.__dlpack_c_exchange_api__ = table()  # type: ignore[attr-defined]


class ByManaged(ByTable):
    """Its table has no function for a bare tensor, which is allowed."""

    __dlpack_c_exchange_api__ = table(tensor=ToTensor())


class Newer(ByTable):
    """Its table is of another major version, and leads to one of this."""

    old = Exchange(major=1, minor=2, managed=to_managed, tensor=to_tensor)
    __dlpack_c_exchange_api__ = table(major=9, previous=ctypes.addressof(old), managed=FromObject(), tensor=ToTensor())


class ByCapsule:
    """An array with `__dlpack__` alone, of the newest kind of capsules or of the oldest."""

    def __init__(self, x: np.ndarray, *, is_old: bool = False) -> None:
        self.x, self.is_old = x, is_old

    def __dlpack__(self, **options: Any) -> Any:
        return self.x.__dlpack__(**({} if self.is_old else options))

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0
