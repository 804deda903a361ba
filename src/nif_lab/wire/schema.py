"""The wire protocol as one table: markers, element types, dialects, fields, records, limits, columns and errors.

The codec, the inspector and the byte tables of docs/wire.md all come from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

__all__ = [
    "ACTIVATIONS",
    "COLUMNS",
    "COUNT",
    "DIALECTS",
    "DTYPES",
    "ERRORS",
    "LIMITS",
    "LIVE",
    "MAGIC",
    "MARKERS",
    "NAME_LENGTH",
    "RECORDS",
    "TITLE_LENGTH",
    "Column",
    "Dialect",
    "Dtype",
    "Field",
    "Kind",
    "Marker",
    "Record",
    "Role",
    "body_fields",
    "body_offset",
    "header",
    "marker_named",
]


@dataclass(frozen=True, slots=True)
class Dtype:
    """An element type: its code on the wire, its name and its size in bytes."""

    code: int
    name: str
    size: int

    @property
    def numpy(self) -> np.dtype:
        """The same, as NumPy knows it; little-endian."""
        return np.dtype(self.name).newbyteorder("<")


_NAMES: Final = (
    "float32", "float64", "int32", "int64", "bool", "int8", "int16",
    "uint8", "uint16", "uint32", "uint64", "float16", "complex64", "complex128",
)  # fmt: skip
#: By code. Code 0 means that a value has no elements of its own.
DTYPES: Final = {code: Dtype(code, name, np.dtype(name).itemsize) for code, name in enumerate(_NAMES, 1)}
_CODES: Final = {it.name: it.code for it in DTYPES.values()}


class Kind:
    """What a marker's payload is."""

    SCALAR: Final = "scalar"
    ARRAY: Final = "array"
    DEVICE: Final = "device"
    RECORD: Final = "record"


@dataclass(frozen=True, slots=True)
class Marker:
    """A type of value.

    Attributes
    ----------
    code, name, kind, meaning
        What stands on the wire, and what it stands for.
    dtypes
        The codes of the element types it may have in version 2; the last is the one it has in version 1.
    ndims
        The numbers of axes it may have; one in version 1.
    versions
        In which it exists.
    """

    code: int
    name: str
    kind: str
    dtypes: tuple[int, ...]
    ndims: tuple[int, ...]
    meaning: str
    versions: tuple[int, ...] = (1, 2)


def _marker(code: int, name: str, kind: str, dtypes: str, ndim: int, meaning: str) -> Marker:
    return Marker(code, name, kind, tuple(_CODES[it] for it in dtypes.split()) or (0,), (ndim,), meaning)


_TENSOR: Final = Marker(
    0x60, "tensor", Kind.ARRAY, tuple(DTYPES), (0, 1, 2, 3, 4), "array of any element type, 0 to 4 axes", (2,)
)
#: By code.
MARKERS: Final = {
    it.code: it
    for it in (
        _marker(0x01, "float32", Kind.SCALAR, "float32", 0, "one IEEE 754 single"),
        _marker(0x02, "float64", Kind.SCALAR, "float64", 0, "one IEEE 754 double"),
        _marker(0x03, "int32", Kind.SCALAR, "int32", 0, "one signed integer"),
        _marker(0x04, "int64", Kind.SCALAR, "int64", 0, "one signed integer"),
        _marker(0x05, "boolean", Kind.SCALAR, "bool", 0, "0 false, 1 true, nothing else"),
        _marker(0x10, "array_f32", Kind.ARRAY, "float32", 1, "singles"),
        _marker(0x11, "array_f64", Kind.ARRAY, "float64", 1, "doubles"),
        _marker(0x12, "array_i32", Kind.ARRAY, "int32", 1, "signed integers"),
        _marker(0x13, "array_i64", Kind.ARRAY, "int64", 1, "signed integers"),
        _marker(0x20, "matrix_2d_f32", Kind.ARRAY, "float32", 2, "matrix of singles"),
        _marker(0x21, "matrix_2d_f64", Kind.ARRAY, "float64", 2, "matrix of doubles"),
        _marker(0x22, "matrix_3d_f32", Kind.ARRAY, "float32", 3, "three axes of singles"),
        _marker(0x23, "matrix_3d_f64", Kind.ARRAY, "float64", 3, "three axes of doubles"),
        _marker(0x30, "gpu_buffer", Kind.DEVICE, "", 0, "a live block of device memory, by handle"),
        _marker(0x31, "gpu_texture", Kind.DEVICE, "", 0, "a live image in device memory, by handle"),
        _marker(0x40, "neural_network", Kind.RECORD, "", 0, "layers: weights, bias, activation"),
        _marker(0x41, "tensor_operation", Kind.RECORD, "", 0, "an operation's name and its operands"),
        _marker(0x42, "kernel_descriptor", Kind.RECORD, "", 0, "a kernel's name, launch shape and parameters"),
        _marker(0x50, "array_complex", Kind.ARRAY, "complex64 complex128", 1, "pairs of real and imaginary part"),
        _TENSOR,
    )
}


def marker_named(name: str) -> Marker:
    """Return the marker of that name."""
    return next(it for it in MARKERS.values() if it.name == name)


@dataclass(frozen=True, slots=True)
class Field:
    """One unsigned little-endian number: its name, its size in bytes, what it means."""

    name: str
    size: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """The version 1 layout that one language prefers.

    Attributes
    ----------
    code, name
        As an argument of the native codecs, and in Python.
    dimension
        Size of a dimension and of a record's length, in bytes.
    order
        0 row-major, 1 column-major, for two axes and more.
    aligned
        Whether arrays carry an alignment and padding.
    dimension_max
        The largest dimension.
    frame_bits
        A frame's length is below two to this power.
    """

    code: int
    name: str
    dimension: int
    order: int
    aligned: bool
    dimension_max: int
    frame_bits: int


#: By name.
DIALECTS: Final = {
    it.name: it
    for it in (
        Dialect(0, "rust", 4, 0, False, 2**31 - 1, 32),
        Dialect(1, "zig", 4, 0, True, 2**31 - 1, 32),
        Dialect(2, "nim", 8, 0, False, 2**40, 63),
        Dialect(3, "julia", 8, 1, False, 2**40, 63),
    )
}

#: How a version 2 frame begins. The first byte is neither a version nor ASCII.
MAGIC: Final = b"\x89NIF"

_VERSION: Final = Field("version", 1, "version of the format")
_MARKER: Final = Field("marker", 1, "type of the value")
_SHAPE: Final = tuple(f"shape{axis}" for axis in range(4))
_V2: Final = (
    Field("magic", 4, "89 4e 49 46: 0x89, then NIF"),
    _VERSION,
    _MARKER,
    Field("dtype", 1, "code of the element type; 0 none"),
    Field("ndim", 1, "number of axes"),
    Field("order", 1, "0 row-major, 1 column-major; 0 below two axes"),
    Field("flags", 1, "1: the frame has a checksum; 0 in nested frames"),
    Field("reserved", 6, "zero"),
    *(Field(name, 8, f"length of axis {axis}; 0 beyond ndim") for axis, name in enumerate(_SHAPE)),
    Field("payload", 8, "length of the payload in bytes"),
    Field("checksum", 8, "XXH3-64 of the payload xor XXH3-64 of the 56 bytes before; 0 without a checksum"),
)


def header(marker: Marker, dialect: Dialect, version: int) -> tuple[Field, ...]:
    """Return the fields before a frame's payload, in order."""
    if version == 2:
        return _V2
    start = (_VERSION, _MARKER)
    if marker.kind == Kind.RECORD:
        return (*start, Field("length", dialect.dimension, "length of the rest of the frame in bytes"))
    if marker.kind != Kind.ARRAY:
        return start
    shape = tuple(Field(name, dialect.dimension, f"length of axis {i}") for i, name in enumerate(_SHAPE))
    alignment = Field("alignment", 1, "the payload is padded to a multiple of it: 1, 2, 4, 8, 16, 32 or 64")
    return (*start, *shape[: marker.ndims[0]], *([alignment] if dialect.aligned else []))


def body_offset(marker: Marker, dialect: Dialect, version: int) -> int:
    """Return where the payload begins, in bytes from the start of the frame."""
    return sum(it.size for it in header(marker, dialect, version))


_HANDLE: Final = Field("handle", 8, "slot in the lower 32 bits, generation in the upper 32")
_DEVICE: Final = Field("device", 4, "number of the device")
_DEVICES: Final = {
    "gpu_buffer": (_HANDLE, Field("size", 8, "bytes used of the block"), _DEVICE),
    "gpu_texture": (
        _HANDLE,
        Field("height", 4, "rows"),
        Field("width", 4, "columns"),
        Field("channels", 4, "elements per pixel"),
        Field("dtype", 4, "code of the element type"),
        _DEVICE,
    ),
}


def body_fields(marker: Marker) -> tuple[Field, ...]:
    """Return the fields of a device type's payload; the same in every dialect and version."""
    return _DEVICES[marker.name]


#: The numbers in a record's payload.
COUNT: Final = Field("count", 2, "number of children")
TITLE_LENGTH: Final = Field("title length", 2, "bytes of the title")
NAME_LENGTH: Final = Field("name length", 2, "bytes of the name")


@dataclass(frozen=True, slots=True)
class Role:
    """What a record's child must be.

    Attributes
    ----------
    name
        Its name; in a repeated group it is preceded by the group's number and a dot.
    markers
        Names of the types it may have.
    below
        For a scalar: it is 0 or more and below this.
    length
        For an array: how many elements it has.
    """

    name: str
    markers: tuple[str, ...]
    below: int | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What children a record has: first the fixed ones, then whole groups, or any others.

    Attributes
    ----------
    title
        What the record's own name says.
    fixed, group
        The roles that come once, and those that repeat.
    others
        Whether children of any name and type may follow.
    """

    title: str
    fixed: tuple[Role, ...] = ()
    group: tuple[Role, ...] = ()
    others: bool = field(default=False)

    def accepts(self, count: int) -> bool:
        """Whether the record can have so many children."""
        rest = count - len(self.fixed)
        return rest >= 0 and (self.others or (rest % len(self.group) == 0 if self.group else rest == 0))

    def role(self, index: int) -> Role | None:
        """Return what the child at this index must be, its full name included; None: anything."""
        if index < len(self.fixed):
            return self.fixed[index]
        if not self.group:
            return None
        number, place = divmod(index - len(self.fixed), len(self.group))
        role = self.group[place]
        return Role(f"{number}.{role.name}", role.markers, role.below, role.length)


#: Codes of a layer's activation: the index. softmax is over the layer's outputs.
ACTIVATIONS: Final = ("identity", "relu", "tanh", "sigmoid", "softmax")

#: By the marker's name.
RECORDS: Final = {
    "neural_network": Record(
        "name of the network",
        group=(
            Role("weights", ("matrix_2d_f32", "matrix_2d_f64")),
            Role("bias", ("array_f32", "array_f64")),
            Role("activation", ("int32",), below=len(ACTIVATIONS)),
        ),
    ),
    "tensor_operation": Record(
        "name of the operation",
        group=(Role("shape", ("array_i64",)), Role("dtype", ("int32",), below=len(DTYPES) + 1)),
    ),
    "kernel_descriptor": Record(
        "name of the kernel",
        fixed=(Role("grid", ("array_i32",), length=3), Role("block", ("array_i32",), length=3)),
        others=True,
    ),
}

#: Limits of all dialects; larger is LIMIT or DEPTH.
LIMITS: Final = {
    "depth": 64,  # frames within frames; a frame that holds none is 1
    "nodes": 512,  # rows of a node table: at 14 columns of 8 bytes it stays below 64 KiB
    "name": 255,  # bytes of a name or title
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table of int64 that crosses the ABI."""

    name: str
    meaning: str


#: The node table: one row a value, a record before its children (pre-order).
COLUMNS: Final = (
    Column("marker", "code of the marker"),
    Column("dtype", "code of the element type; 0 for device types and records"),
    Column("ndim", "number of axes, 0 to 4"),
    *(Column(name, f"length of axis {axis}; 0 beyond ndim") for axis, name in enumerate(_SHAPE)),
    Column("order", "0 row-major, 1 column-major; 0 below two axes"),
    Column("data_offset", "where the payload is (of a record: its title)"),
    Column("data_length", "its length in bytes, without padding"),
    Column("name_offset", "where the name is that the parent knows it by; 0 for the root"),
    Column("name_length", "its length in bytes; 0 for the root"),
    Column("parent", "row of the parent; -1 for the root"),
    Column("count", "number of children; 0 unless it is a record"),
)

#: The table of handles that `decode` is given: one row a slot that was ever handed out.
LIVE: Final = (
    Column("slot", "lower half of the handle"),
    Column("generation", "upper half of the handle that is live now, 1 or more; 0: the slot is free"),
    Column("bytes", "size of the block"),
    Column("device", "number of the device"),
)

#: Code -> the words after it, in every language.
ERRORS: Final = {
    "SHORT": "the frame ends within its header",
    "VERSION": "not a frame of the expected version",
    "MARKER": "no such type, or not accepted here",
    "OVERFLOW": "the size is more than the format can express",
    "LENGTH": "sizes and the bytes that are there do not agree",
    "TRAILING": "bytes after the end",
    "DIM": "a dimension above the limit",
    "ALIGN": "the alignment is not 1, 2, 4, 8, 16, 32 or 64",
    "PAD": "padding is not zero",
    "VALUE": "a value that is not allowed here",
    "HANDLE": "no such device block, or not as described",
    "STALE": "the handle's block was freed",
    "DEPTH": "nested more than 64 deep",
    "LIMIT": "more than 512 values, or a name that is empty or over 255 bytes",
    "DUPLICATE": "two children of one name",
    "UTF8": "a name that is not UTF-8, or contains NUL",
    "CHECKSUM": "the checksum is wrong",
}
