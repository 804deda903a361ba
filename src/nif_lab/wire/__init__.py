"""The wire protocol: one value as bytes that five languages read alike. docs/wire.md has the format.

>>> frame = encode(np.arange(6.0).reshape(2, 3), "julia", version=1)
>>> decode(frame, "julia")
>>> inspect(frame, "julia")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .decoder import decode_nodes
from .encoder import encode_nodes
from .errors import WireError
from .inspector import Inspection, inspect
from .values import (
    GpuBuffer,
    GpuTexture,
    KernelDescriptor,
    Layer,
    NeuralNetwork,
    Operand,
    TensorOperation,
    build,
    flatten,
)

__all__ = [
    "GpuBuffer",
    "GpuTexture",
    "Inspection",
    "KernelDescriptor",
    "Layer",
    "NeuralNetwork",
    "Operand",
    "TensorOperation",
    "WireError",
    "build",
    "decode",
    "decode_nodes",
    "encode",
    "encode_nodes",
    "flatten",
    "inspect",
]


def encode(
    value: Any,
    dialect: str = "rust",
    version: int = 2,
    alignment: int | None = None,
    *,
    checksum: bool = True,
    endianness: str = "little",
) -> bytes:
    """Return a value's frame.

    Parameters
    ----------
    value
        A Python or NumPy number, an array, or a record of this module. float is float64, int is int64.
    dialect
        ``"rust"``, ``"zig"``, ``"nim"`` or ``"julia"``; of no importance in version 2.
    version
        1 or 2.
    alignment
        Of arrays in version 1's zig dialect, where it is 8 unless given: a power of two, at most 64.
    checksum
        Whether a version 2 frame gets a checksum.
    endianness
        ``"little"``; there is no other.

    Raises
    ------
    WireError
        The value can't be written so.
    """
    if endianness != "little":
        raise WireError(
            "VALUE", detail=f"frames are little-endian, {endianness!r} is not offered; leave endianness out"
        )
    nodes, data = flatten(value, dialect, version)
    return encode_nodes(nodes, data, dialect, version, 8 if alignment is None else alignment, checksum=checksum)


def decode(frame: Any, dialect: str = "rust", version: int | None = None, live: Sequence[Sequence[int]] = ()) -> Any:
    """Return a frame's value; arrays are views of the frame.

    Parameters
    ----------
    frame
        Contiguous bytes.
    dialect
        What it was written in; of no importance in version 2.
    version
        1, 2 or None: the frame's own.
    live
        The live device handles, rows of `schema.LIVE`.

    Raises
    ------
    WireError
        The frame breaks a rule: which, and at which byte.
    """
    return build(decode_nodes(frame, dialect, version, live), frame)
