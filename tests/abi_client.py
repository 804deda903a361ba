"""A second host, in ctypes: opens a NIF library without the Lab.

It proves that the ABI needs nothing but nif_lab.h, and lets a language's SDK be tried before (and without) the core.

    python tests/abi_client.py path/to/libkernels.so     # lists the table
"""

from __future__ import annotations

import ctypes as c
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class Dtype(c.Structure):
    _fields_ = (("code", c.c_uint8), ("bits", c.c_uint8), ("lanes", c.c_uint16))


class Device(c.Structure):
    _fields_ = (("type", c.c_int32), ("id", c.c_int32))


class Tensor(c.Structure):
    _fields_ = (
        ("data", c.c_void_p),
        ("device", Device),
        ("ndim", c.c_int32),
        ("dtype", Dtype),
        ("shape", c.POINTER(c.c_int64)),
        ("strides", c.POINTER(c.c_int64)),
        ("byte_offset", c.c_uint64),
    )


class Bytes(c.Structure):
    _fields_ = (("data", c.c_char_p), ("size", c.c_size_t))


class Value(c.Union):
    _fields_ = (("i", c.c_int64), ("f", c.c_double), ("p", c.c_void_p))


class AnyValue(c.Structure):
    _fields_ = (("type_index", c.c_int32), ("zero", c.c_uint32), ("v", Value))


SetError = c.CFUNCTYPE(None, c.c_void_p, c.c_int32, c.c_char_p, c.c_int32)
AllocTensor = c.CFUNCTYPE(c.c_void_p, Dtype, c.c_int32, c.POINTER(c.c_int64))
Progress = c.CFUNCTYPE(None, c.c_int64, c.c_int64)
Log = c.CFUNCTYPE(None, c.c_int32, c.c_char_p)
Call = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.POINTER(AnyValue), c.c_int32, c.POINTER(AnyValue))


class Host(c.Structure):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("abi_version", c.c_uint32),
        ("set_error", SetError),
        ("alloc_tensor", AllocTensor),
        ("log", Log),
        ("progress", Progress),
        ("gpu", c.c_void_p),
    )


class Env(c.Structure):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("n_results", c.c_uint32),
        ("host", c.POINTER(Host)),
        ("error", c.c_void_p),
        ("cancel", c.POINTER(c.c_int32)),
    )


class Function(c.Structure):
    _fields_ = (
        ("name", c.c_char_p),
        ("signature", c.c_char_p),
        ("doc", c.c_char_p),
        ("call", Call),
        ("flags", c.c_uint32),
        ("zero", c.c_uint32),
    )


class Library(c.Structure):
    _fields_ = (
        ("abi_version", c.c_uint32),
        ("struct_hash", c.c_uint32),
        ("language", c.c_char_p),
        ("compiler", c.c_char_p),
        ("library_version", c.c_char_p),
        ("n_functions", c.c_uint32),
        ("zero", c.c_uint32),
        ("functions", c.POINTER(Function)),
        ("load", c.CFUNCTYPE(c.c_int32, c.POINTER(Host))),
        ("unload", c.CFUNCTYPE(None)),
    )


CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


@dataclass
class CallFailed(Exception):
    """What the callee said: kind (with the tainted bit), argument index, message."""

    kind: int
    argument: int
    message: str


class Client:
    """One opened library; ``client("dot", x, y)`` calls a NIF."""

    def __init__(self, table: int | Path) -> None:
        self._error: CallFailed | None = None
        self._alive: list[Any] = []
        self.results: dict[int, np.ndarray] = {}
        self._set_error = SetError(self._on_error)
        self._alloc = AllocTensor(self._on_alloc)
        self._log = Log(lambda level, message: None)
        self._progress = Progress(lambda done, total: None)
        self.host = Host(c.sizeof(Host), 1, self._set_error, self._alloc, self._log, self._progress, None)
        if isinstance(table, Path):
            library = c.CDLL(str(table))
            library.nif_init.restype = c.POINTER(Library)
            library.nif_init.argtypes = (c.POINTER(Host),)
            self.library = library.nif_init(c.byref(self.host)).contents
        else:
            self.library = Library.from_address(table)
        if self.library.load:
            assert self.library.load(c.byref(self.host)) == 0
        self.cancel = c.c_int32(0)
        self.env = Env(c.sizeof(Env), 0, c.pointer(self.host), None, c.pointer(self.cancel))
        self.functions = {
            f.name.decode(): f for f in (self.library.functions[i] for i in range(self.library.n_functions))
        }

    def _on_error(self, env: int, kind: int, message: bytes, argument: int) -> None:
        self._error = CallFailed(kind, argument, message.decode())

    def _on_alloc(self, dtype: Dtype, ndim: int, shape: Any) -> int:
        letter = {v: k for k, v in CODES.items()}[dtype.code]
        numpy_dtype = "bool" if letter == "b" else f"{letter}{dtype.bits // 8}"
        array = np.zeros([shape[i] for i in range(ndim)], numpy_dtype)
        tensor = self.tensor(array)
        address = c.addressof(tensor)
        self.results[address] = array
        return address

    def tensor(self, array: np.ndarray) -> Tensor:
        """A DLTensor over ``array``, kept alive with the client."""
        shape = (c.c_int64 * array.ndim)(*array.shape)
        strides = (c.c_int64 * array.ndim)(*(s // array.itemsize for s in array.strides))
        dtype = Dtype(CODES[array.dtype.kind], array.itemsize * 8, 1)
        tensor = Tensor(array.ctypes.data, Device(1, 0), array.ndim, dtype, shape, strides, 0)
        self._alive.append((tensor, shape, strides, array))
        return tensor

    def any(self, value: Any) -> AnyValue:
        match value:
            case None:
                return AnyValue(0, 0, Value())
            case bool():
                return AnyValue(2, 0, Value(i=int(value)))
            case int():
                return AnyValue(1, 0, Value(i=value))
            case float():
                return AnyValue(3, 0, Value(f=value))
            case str():
                text = c.create_string_buffer(value.encode())
                self._alive.append(text)
                return AnyValue(8, 0, Value(p=c.addressof(text)))
            case bytes():
                record = Bytes(value, len(value))
                self._alive.append((record, value))
                return AnyValue(9, 0, Value(p=c.addressof(record)))
            case np.ndarray():
                return AnyValue(7, 0, Value(p=c.addressof(self.tensor(value))))
            case AnyValue():
                return value
        raise TypeError(type(value))

    def __call__(self, name: str, *args: Any, env: bool = True) -> Any:
        self._error = None
        values = (AnyValue * len(args))(*(self.any(a) for a in args))
        result = AnyValue()
        status = self.functions[name].call(c.byref(self.env) if env else None, values, len(args), c.byref(result))
        if status:
            raise self._error or CallFailed(0, -1, f"status {status} without an error")
        match result.type_index:
            case 0:
                return None
            case 1:
                return result.v.i
            case 2:
                return bool(result.v.i)
            case 3:
                return result.v.f
            case 7:
                return self.results[result.v.p]
            case 8:
                return c.string_at(result.v.p).decode()
        raise AssertionError(f"result of type index {result.type_index}")


if __name__ == "__main__":
    client = Client(Path(sys.argv[1]).resolve())
    table = client.library
    print(table.language.decode(), table.compiler.decode(), table.library_version.decode(), hex(table.struct_hash))
    for function in client.functions.values():
        print(f"{function.signature.decode()}  [{function.flags}]  {function.doc.decode()}")
