"""What decoder and encoder share: sizes, and the checks that both make."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np

from ..arrays import given_array
from ..errors import ArgumentTypeError
from . import schema
from .errors import WireError
from .schema import COLUMNS, DIALECTS, DTYPES, MAGIC, Dialect, Kind, Marker, Role
from .xxh3 import checksum

__all__ = [
    "COLUMN",
    "MAGIC_NUMBER",
    "array_length",
    "check_booleans",
    "check_dialect",
    "check_live",
    "check_name",
    "check_role",
    "check_text",
    "check_version",
    "checksum_of",
    "dimension_max",
    "extent",
    "fixed_length",
    "is_alignment",
    "octets",
    "too_large",
]

MAGIC_NUMBER: Final = int.from_bytes(MAGIC, "little")
#: Column of the node table by name.
COLUMN: Final = {it.name: index for index, it in enumerate(COLUMNS)}


def octets(data: Any) -> memoryview:
    """Return the bytes of a contiguous buffer, or of another library's array, without a copy."""
    try:
        view = memoryview(data)
    except (TypeError, BufferError):
        array = None if isinstance(data, (list, tuple)) else given_array("frame", data)
        if array is None:
            raise ArgumentTypeError("frame", f"expected contiguous bytes, got {type(data).__name__}") from None
        view = array.data
    if not view.c_contiguous:
        raise WireError("VALUE", detail="the bytes are not contiguous; copy them with bytes()")
    return view.cast("B") if view.nbytes else memoryview(b"")


def check_version(version: int, allowed: Sequence[int]) -> int:
    """Return a version, if it is one."""
    if not isinstance(version, int) or version not in allowed:
        raise WireError("VERSION", detail=f"got {version}, there are 1 and 2")
    return version


def check_dialect(dialect: str | int) -> Dialect:
    """Return a dialect by its name or code."""
    is_plain = isinstance(dialect, (str, int))
    found = next((it for it in DIALECTS.values() if is_plain and dialect in (it.name, it.code)), None)
    if found is None:
        raise WireError("VALUE", detail=f"no dialect {dialect!r}; there are {', '.join(DIALECTS)}")
    return found


def check_live(live: Any) -> list[tuple[int, ...]]:
    """Return the rows of live handles as numbers."""
    try:
        rows = [tuple(map(operator.index, row)) for row in live]
        right = all(len(row) == len(schema.LIVE) and all(-(2**63) <= it < 2**63 for it in row) for row in rows)
    except TypeError:
        right = False
    if not right:
        columns = ", ".join(it.name for it in schema.LIVE)
        raise WireError("VALUE", detail=f"live: expected rows of {len(schema.LIVE)} whole numbers ({columns})")
    return rows


def dimension_max(dialect: Dialect, version: int) -> int:
    """Return the largest dimension."""
    return (dialect if version == 1 else DIALECTS["julia"]).dimension_max


def too_large(length: int, dialect: Dialect, version: int) -> bool:
    """Whether a frame of so many bytes can't be expressed."""
    return length >> (dialect.frame_bits if version == 1 else 63) > 0


def is_alignment(number: int) -> bool:
    """Whether it is a power of two from 1 to 64."""
    return number in (1, 2, 4, 8, 16, 32, 64)


def fixed_length(marker: Marker, dtype: int) -> int | None:
    """Return the payload's length of a scalar or device type; None for others."""
    if marker.kind == Kind.SCALAR:
        return DTYPES[dtype].size
    if marker.kind == Kind.DEVICE:
        return sum(it.size for it in schema.body_fields(marker))
    return None


def extent(dtype: int, shape: Sequence[int]) -> int:
    """Return the element size times all dimensions that aren't 0."""
    return DTYPES[dtype].size * prod(it for it in shape if it)


def array_length(dtype: int, shape: Sequence[int]) -> int:
    """Return the payload's length of an array."""
    return DTYPES[dtype].size * prod(shape)


def checksum_of(header: bytes | memoryview, payload_sum: int) -> int:
    """Return the checksum of a version 2 frame by its header and the XXH3-64 of its payload."""
    return payload_sum ^ checksum(memoryview(header)[:56])


def check_booleans(payload: memoryview, dtype: int, place: int, unit: str = "byte") -> None:
    """Check that elements of type bool are 0 or 1; in units of nodes the place is the row."""
    if dtype in DTYPES and DTYPES[dtype].name == "bool":
        wrong = np.frombuffer(payload, np.uint8) > 1
        if wrong.any():
            raise WireError("VALUE", place + (int(wrong.argmax()) if unit == "byte" else 0), unit=unit)


def check_text(text: bytes, place: int, unit: str = "byte") -> None:
    """Check that a name or title is UTF-8 without NUL."""
    try:
        right = "\0" not in text.decode()
    except UnicodeDecodeError:
        right = False
    if not right:
        raise WireError("UTF8", place, unit=unit)


def check_name(name: bytes, seen: set[bytes], role: Role | None, place: int, unit: str = "byte") -> None:
    """Check that a name is new in its record and the one its role has; note it."""
    if name in seen:
        raise WireError("DUPLICATE", place, unit=unit)
    if role and name != role.name.encode():
        raise WireError("VALUE", place, unit=unit, detail=f"expected the name {role.name!r}")
    seen.add(name)


def check_role(role: Role, row: Sequence[int], data: memoryview, place: int, unit: str = "byte") -> None:
    """Check that a child is within its role's bounds; `row` is its own in the node table."""
    if role.length is not None and row[COLUMN["shape0"]] != role.length:
        raise WireError("VALUE", place, unit=unit, detail=f"{role.name} has {role.length} elements")
    if role.below is not None:
        at, size = row[COLUMN["data_offset"]], row[COLUMN["data_length"]]
        if not 0 <= int.from_bytes(data[at : at + size], "little", signed=True) < role.below:
            raise WireError("VALUE", place, unit=unit, detail=f"{role.name} is 0 to {role.below - 1}")
