"""Python values as node tables, and node tables as Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arrays import given_array
from ..errors import ArgumentTypeError
from . import rules, schema
from .errors import WireError
from .rules import COLUMN
from .schema import ACTIVATIONS, DTYPES, LIMITS, Dialect, Kind, Marker

__all__ = [
    "GpuBuffer",
    "GpuTexture",
    "KernelDescriptor",
    "Layer",
    "NeuralNetwork",
    "Operand",
    "TensorOperation",
    "build",
    "flatten",
]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer of a network: activation(weights @ input + bias).

    Parameters
    ----------
    weights
        [outputs, inputs], float32 or float64.
    bias
        [outputs], float32 or float64.
    activation
        One of `schema.ACTIVATIONS`.
    """

    weights: Array
    bias: Array
    activation: str = "identity"


@dataclass(frozen=True, slots=True, eq=False)
class NeuralNetwork:
    """Layers, in order."""

    layers: tuple[Layer, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Operand:
    """The shape and element type of a tensor that is not there itself; dtype is a NumPy name or None."""

    shape: tuple[int, ...]
    dtype: str | None


@dataclass(frozen=True, slots=True)
class TensorOperation:
    """An operation by name, and what it works on."""

    name: str
    operands: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class KernelDescriptor:
    """A kernel by name, how it is launched, and its parameters: any values."""

    name: str
    grid: tuple[int, int, int] = (1, 1, 1)
    block: tuple[int, int, int] = (1, 1, 1)
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuBuffer:
    """`size` bytes of a live block of device memory; the handle comes from the pool it lies in."""

    handle: int
    size: int
    device: int = 0


@dataclass(frozen=True, slots=True)
class GpuTexture:
    """An image in a live block of device memory; dtype is a NumPy name."""

    handle: int
    height: int
    width: int
    channels: int = 4
    dtype: str = "uint8"
    device: int = 0


_ARRAYS: Final = {
    (dtype, ndim): marker
    for marker in schema.MARKERS.values()
    if marker.kind == Kind.ARRAY and marker.name != "tensor"
    for dtype in marker.dtypes
    for ndim in marker.ndims
}
_SCALARS: Final = {it.dtypes[0]: it for it in schema.MARKERS.values() if it.kind == Kind.SCALAR}
_CODES: Final = {it.name: it.code for it in DTYPES.values()}
_TENSOR: Final = schema.marker_named("tensor")


class _Table:
    """A node table being written, and its data."""

    def __init__(self, dialect: Dialect, version: int) -> None:
        self.dialect = dialect
        self.version = version
        self.rows: list[list[int]] = []
        self.pieces: list[Any] = []  # buffers
        self.length = 0

    def add(self, value: Any, parent: int = -1, name: str = "", depth: int = 1) -> None:
        """Append a value's row and those of its children."""
        if depth > LIMITS["depth"]:  # it may contain itself
            raise WireError("DEPTH", detail=f"at {name!r}")
        row = dict.fromkeys(COLUMN, 0) | {"parent": parent}
        row["name_offset"], row["name_length"] = self._store(_utf8(name))
        if isinstance(value, (NeuralNetwork, TensorOperation, KernelDescriptor)):
            self._add_record(row, value, depth)
            return
        device = isinstance(value, (GpuBuffer, GpuTexture))
        marker, data = _device(value) if device else self._array(row, value)
        row["marker"] = marker.code
        row["data_offset"], row["data_length"] = self._store(data)
        self.rows.append(list(row.values()))

    def _add_record(
        self, row: dict[str, int], value: NeuralNetwork | TensorOperation | KernelDescriptor, depth: int
    ) -> None:
        marker, children = _children(value)
        row["marker"], row["count"] = schema.marker_named(marker).code, len(children)
        row["data_offset"], row["data_length"] = self._store(_utf8(value.name))
        parent = len(self.rows)
        self.rows.append(list(row.values()))
        for name, child in children:
            self.add(child, parent, name, depth + 1)

    def _array(self, row: dict[str, int], value: Any) -> tuple[Marker, Array]:
        array = _as_array(value)
        dtype = _CODES.get(array.dtype.name)
        scalar = isinstance(value, (bool, int, float, np.generic))
        marker = _SCALARS.get(dtype or 0) if scalar else _ARRAYS.get((dtype or 0, array.ndim))
        if marker is None and self.version == 2 and dtype and array.ndim <= 4:
            marker = _TENSOR
        if marker is None or dtype is None:
            cure = "; version 2 has" if dtype and array.ndim <= 4 else ""
            what = f"{array.dtype.name}{list(array.shape)}"
            raise WireError("MARKER", detail=f"version {self.version} has no type for {what}{cure}")
        if not array.dtype.isnative:
            raise WireError(
                "VALUE", detail="frames are little-endian; convert with x.astype(x.dtype.newbyteorder('='))"
            )
        if self.version == 1 and dtype != marker.dtypes[-1]:
            dtype = marker.dtypes[-1]
            array = array.astype(DTYPES[dtype].numpy)
        row["dtype"], row["ndim"] = dtype, array.ndim
        for axis, size in enumerate(array.shape):
            row[f"shape{axis}"] = size
        if array.ndim > 1:
            column_major = array.flags.f_contiguous and not array.flags.c_contiguous
            row["order"] = self.dialect.order if self.version == 1 else int(column_major)
        return marker, np.asarray(array.T if row["order"] else array, order="C")

    def _store(self, data: bytes | Array) -> tuple[int, int]:
        at, length = self.length, data.nbytes if isinstance(data, np.ndarray) else len(data)
        if length:
            self.pieces.append(data)
        self.length += length
        return at, length

    def data(self) -> Any:
        """Return the bytes that the rows lead into: a lone array itself, without a copy."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise WireError("UTF8", detail=repr(text)) from error


def _as_array(value: Any) -> Array:
    if isinstance(value, bool):
        return np.array(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise WireError("VALUE", detail=f"{value} is not an int64")
        return np.array(value, np.int64)
    if isinstance(value, (float, np.generic)):
        return np.asarray(value)
    try:
        array = given_array("value", value)
    except ArgumentTypeError as refused:
        raise WireError("VALUE", detail=refused.reason) from None
    if array is None and hasattr(value, "__array__"):
        array = np.asarray(value)  # a shared buffer or a mapped file
    if array is None:
        raise WireError("MARKER", detail=f"no type for a {type(value).__name__}; give an array, a number or a record")
    return array


def _device(value: GpuBuffer | GpuTexture) -> tuple[Marker, bytes]:
    marker = schema.marker_named("gpu_buffer" if isinstance(value, GpuBuffer) else "gpu_texture")
    body = b""
    for it in schema.body_fields(marker):
        number = getattr(value, it.name)
        if it.name == "dtype":
            number = _CODES.get(number, 0)
        if not 0 <= number < 256**it.size:
            raise WireError("VALUE", detail=f"{it.name} is {number}")
        body += number.to_bytes(it.size, "little")
    return marker, body


def _children(value: NeuralNetwork | TensorOperation | KernelDescriptor) -> tuple[str, list[tuple[str, Any]]]:
    """Return a record's marker and its children by name."""
    children: list[tuple[str, Any]] = []
    if isinstance(value, NeuralNetwork):
        for i, layer in enumerate(value.layers):
            if layer.activation not in ACTIVATIONS:
                words = f"no activation {layer.activation!r}; there are {', '.join(ACTIVATIONS)}"
                raise WireError("VALUE", detail=words)
            activation = np.int32(ACTIVATIONS.index(layer.activation))
            children += [(f"{i}.weights", layer.weights), (f"{i}.bias", layer.bias), (f"{i}.activation", activation)]
        return "neural_network", children
    if isinstance(value, TensorOperation):
        for i, it in enumerate(value.operands):
            if it.dtype is not None and it.dtype not in _CODES:
                raise WireError("VALUE", detail=f"no element type {it.dtype!r}; there are {', '.join(_CODES)}")
            children += [
                (f"{i}.shape", np.array(it.shape, np.int64)),
                (f"{i}.dtype", np.int32(_CODES.get(it.dtype or "", 0))),
            ]
        return "tensor_operation", children
    children = [("grid", np.array(value.grid, np.int32)), ("block", np.array(value.block, np.int32))]
    return "kernel_descriptor", children + list(value.parameters.items())


def flatten(value: Any, dialect: str | int = "rust", version: int = 2) -> tuple[npt.NDArray[np.int64], Any]:
    """Return a value's node table and data, as `encode` takes them.

    An array that stands alone and has the dialect's order is not copied; a view of it is the data.

    Parameters
    ----------
    value
        A number, an array, or one of this module's dataclasses.
    dialect, version
        They decide about the order of axes (version 2 keeps that of the array), and about what has a marker.

    Returns
    -------
    nodes : numpy.ndarray
        int64, columns `schema.COLUMNS`.
    data : buffer
        What the offsets lead into.
    """
    table = _Table(rules.check_dialect(dialect), rules.check_version(version, (1, 2)))
    try:
        table.add(value)
    except (AttributeError, TypeError, LookupError, ArithmeticError) as error:  # a record's fields may hold anything
        raise WireError("VALUE", detail=f"this {type(value).__name__} can't be written: {error}") from error
    return np.array(table.rows, np.int64), table.data()


def build(nodes: npt.ArrayLike, frame: Any) -> Any:
    """Return the value of a node table that `decode` made; arrays are views of the frame."""
    rows = [dict(zip(COLUMN, row, strict=True)) for row in np.asarray(nodes).tolist()]
    data = rules.octets(frame)
    children: list[list[int]] = [[] for _ in rows]
    for index, row in enumerate(rows[1:], 1):
        children[row["parent"]].append(index)
    return _value(rows, children, data, 0)


def _value(rows: Sequence[dict[str, int]], children: Sequence[Sequence[int]], data: memoryview, index: int) -> Any:
    row = rows[index]
    marker = schema.MARKERS[row["marker"]]
    at, size = row["data_offset"], row["data_length"]
    if marker.kind == Kind.DEVICE:
        return _device_value(marker, data[at : at + size])
    if marker.kind == Kind.RECORD:
        named = {}
        for child in children[index]:
            start, length = rows[child]["name_offset"], rows[child]["name_length"]
            named[bytes(data[start : start + length]).decode()] = _value(rows, children, data, child)
        return _record_value(marker, bytes(data[at : at + size]).decode(), named)
    shape = tuple(row[f"shape{axis}"] for axis in range(row["ndim"]))
    dtype = DTYPES[row["dtype"]].numpy
    array: Array = np.ndarray(shape, dtype, data[at : at + size], order="F" if row["order"] else "C")
    if marker.kind == Kind.SCALAR:
        # What has a type of its own in Python becomes that.
        return array.item() if marker.name in {"float64", "int64", "boolean"} else array[()]
    return array


def _device_value(marker: Marker, body: memoryview) -> GpuBuffer | GpuTexture:
    numbers, at = {}, 0
    for it in schema.body_fields(marker):
        numbers[it.name] = int.from_bytes(body[at : at + it.size], "little")
        at += it.size
    if marker.name == "gpu_buffer":
        return GpuBuffer(**numbers)
    dtype = DTYPES[numbers.pop("dtype")].name
    return GpuTexture(dtype=dtype, **numbers)


def _record_value(
    marker: Marker, name: str, named: dict[str, Any]
) -> NeuralNetwork | TensorOperation | KernelDescriptor:
    if marker.name == "kernel_descriptor":
        grid, block = (tuple(named.pop(key).tolist()) for key in ("grid", "block"))
        return KernelDescriptor(name, grid, block, named)
    values = list(named.values())
    if marker.name == "tensor_operation":
        pairs = zip(values[::2], values[1::2], strict=True)
        operands = (Operand(tuple(shape.tolist()), DTYPES[int(code)].name if code else None) for shape, code in pairs)
        return TensorOperation(name, tuple(operands))
    layers = zip(values[::3], values[1::3], values[2::3], strict=True)
    return NeuralNetwork(tuple(Layer(weights, bias, ACTIVATIONS[int(code)]) for weights, bias, code in layers), name)
