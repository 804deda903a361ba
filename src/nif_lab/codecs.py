"""A Lab's wire protocol: ``lab.wire``.

Values become frames and frames values by the codec of any language: Python's reference in `nif_lab.wire`, or a
backend's own. They agree on every byte and on every refusal (docs/wire.md).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import _core, wire
from .arguments import expect, one_of
from .device_memory import DeviceBuffer, device_number
from .errors import ArgumentTypeError, BackendNotLoaded, HandleError, NifValueError, NoSuchFunction
from .flags import Flag
from .wire import rules
from .wire.schema import ACTIVATIONS, LIVE, MARKERS, body_offset

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .lab import LoadedBackend
    from .memory import MemoryManager

__all__ = ["Wire"]

ALIGNMENT: Final = 8
#: Below so many bytes of data Python's own codec is quicker than a call is worth.
SMALL: Final = 4096
#: A refusal in a native codec's words: the code, and the place.
REFUSAL: Final = re.compile(r"([A-Z0-9]+): .*?(?: \((byte|node) (\d+)\))?$")


class Wire:
    """Encode and decode by the codec of a language, and look into frames.

    Examples
    --------
    >>> frame = lab.wire.encode(x, "julia", by="rust")
    >>> lab.wire.decode(frame, "julia", by="zig")
    >>> lab.wire.inspect(frame, "julia")
    """

    def __init__(self, backends: Mapping[str, LoadedBackend], memory: MemoryManager) -> None:
        self._backends, self._memory, self._core = backends, memory, memory.core

    def encode(
        self,
        value: Any,
        dialect: str = "rust",
        version: int = 2,
        *,
        by: str | LoadedBackend = "auto",
        alignment: int = ALIGNMENT,
        checksum: bool = True,
        endianness: str = "little",
    ) -> np.ndarray:
        """Return a value's frame, uint8, in shared memory; the payload lies at a multiple of 64 bytes.

        Parameters
        ----------
        value
            A number, an array, or a record of `nif_lab.wire`. Of a `DeviceBuffer` its number is written, as a
            ``gpu_texture`` if it has three axes (rows, columns, channels), as a ``gpu_buffer`` otherwise.
        dialect
            ``"rust"``, ``"zig"``, ``"nim"`` or ``"julia"``; of no importance in version 2.
        version
            1 or 2.
        by
            Whose codec: ``"python"``, a backend or its name. ``"auto"``: the core's for an array in version 2. Of other
            values Python's for small ones, else that of the dialect, else of any backend.
        alignment
            Of arrays in version 1's zig dialect.
        checksum
            Whether a version 2 frame gets a checksum.
        endianness
            ``"little"``; there is no other.

        Raises
        ------
        WireError
            The value can't be written so.
        """
        # What isn't an array, or is asked for in another way, is left to the codecs or refused below.
        written = _core.encode_frame(self._core, value, checksum, by, dialect, version, alignment, endianness)
        if written is not None:
            return written
        value = _as_record(value)
        spoken = rules.check_dialect(dialect)
        rules.check_version(version, (1, 2))
        if endianness != "little":
            return np.frombuffer(wire.encode(value, dialect, version, endianness=endianness), np.uint8)  # refuses
        if type(value) is np.ndarray and value.flags.c_contiguous and value.dtype.isnative and version == 2:
            nodes, data = _plan(value.dtype, value.shape), value
        else:
            nodes, data = wire.flatten(value, dialect, version)
        size = np.asarray(data).nbytes if isinstance(data, np.ndarray) else len(data)
        codec = self._codec(by, dialect, size)
        lead = 0 if version == 2 else -body_offset(MARKERS[int(nodes[0, 0])], spoken, version) % 64
        if codec is None:
            frame = wire.encode_nodes(nodes, data, dialect, version, alignment, checksum=checksum)
            room = self._memory.empty(lead + len(frame), np.uint8)
            room[lead:] = np.frombuffer(frame, np.uint8)
            return room[lead:]
        plain = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
        try:
            encode = codec.find_builtin("encode").function
            whole = encode(nodes, plain, spoken.code, version, alignment, checksum)
        except NifValueError as refused:
            raise _wire_error(refused) from None
        frame_array: np.ndarray = whole[lead:]
        return frame_array

    def decode(
        self,
        frame: Any,
        dialect: str = "rust",
        version: int | None = None,
        *,
        by: str | LoadedBackend = "auto",
        live: Sequence[Sequence[int]] | None = None,
    ) -> Any:
        """Return a frame's value; arrays are views of the frame, which is checked completely before.

        Parameters
        ----------
        frame
            Contiguous bytes: what `encode` returned, bytes, a file that was mapped.
        dialect
            What it was written in; of no importance in version 2.
        version
            1, 2 or None: the frame's own.
        by
            Whose codec, as for `encode`.
        live
            The live device handles, rows of `nif_lab.wire.schema.LIVE`; this Lab's own buffers unless given.

        Raises
        ------
        WireError
            The frame breaks a rule: which, and at which byte.
        """
        if by == "auto" and version != 1 and (view := _core.view_frame(frame)) is not None:
            return view
        rows: list[Sequence[int]] = []
        while live is None:
            try:
                return self._decode(frame, dialect, version, by, rows)
            except wire.WireError as error:
                row = self._row(frame, error)
                if row is None or row in rows:
                    raise
                rows.append(row)
        return self._decode(frame, dialect, version, by, live)

    def _row(self, frame: Any, error: wire.WireError) -> tuple[int, int, int, int] | None:
        """Return the row of the handle that a codec didn't find; None if no buffer of this Lab ever had it."""
        if error.code != "HANDLE" or error.offset < 0:
            return None
        number = int.from_bytes(bytes(rules.octets(frame)[error.offset : error.offset + 8]), "little")
        slot = number & 0xFFFF_FFFF
        try:
            buffer = self._memory.devices.find(number)
        except HandleError:
            return (slot, 0, 0, 0) if _core.gpu_is_stale(number) else None
        return slot, number >> 32, buffer.nbytes, device_number(buffer.device)

    def _decode(self, frame: Any, dialect: str, version: int | None, by: Any, live: Sequence[Sequence[int]]) -> Any:
        spoken = rules.check_dialect(dialect)
        if version is not None:
            rules.check_version(version, (1, 2))
        rows = rules.check_live(live)
        octets = np.frombuffer(rules.octets(frame), np.uint8)
        codec = self._codec(by, dialect, octets.nbytes)
        if codec is None:
            return wire.decode(octets, dialect, version, live)
        handles = np.array(rows, np.int64).reshape(-1, len(LIVE))
        try:
            nodes = codec.find_builtin("decode").function(octets, spoken.code, version or 0, handles)
        except NifValueError as refused:
            raise _wire_error(refused) from None
        return wire.build(nodes, octets)

    def inspect(self, frame: Any, dialect: str = "rust", version: int | None = None) -> wire.Inspection:
        """Return every field of a frame: where it is, its bytes, what it means; of a broken one also what is wrong."""
        return wire.inspect(frame, dialect, version)

    @staticmethod
    def view(frame: np.ndarray) -> np.ndarray:
        """Return the array in a version 2 frame, as a view.

        Without a checksum that takes a tenth of a microsecond; one is computed and compared first.

        Raises
        ------
        WireError
            When it is another value, or broken.
        """
        view = _core.view_frame(frame)
        if view is not None:
            return view
        value = wire.decode(frame, version=2)
        if not isinstance(value, np.ndarray):
            raise wire.WireError("MARKER", 5, detail="expected an array")
        return value

    def forward(self, network: wire.NeuralNetwork | Any, x: ArrayLike, by: str, dialect: str = "rust") -> np.ndarray:
        """Return a network's answer to one input, computed by a language's own `forward` kernel.

        Parameters
        ----------
        network
            The value, or its frame, which is then decoded by the same language.
        x
            The input: one value for each column of the first layer's weights.
        by
            Which backend.
        dialect
            Of a version 1 frame.
        """
        if not isinstance(network, wire.NeuralNetwork):
            network = self.decode(network, dialect, by=by)
        expect("network", network, wire.NeuralNetwork, "a neural network or its frame")
        kernel = self._backend(by).find_builtin("forward").function
        value = np.asarray(x, np.float64)
        for layer in network.layers:
            # `require` copies what lies at an odd address, as payloads inside version 1's records may.
            weights, bias = (np.require(it, np.float64, "A") for it in (layer.weights, layer.bias))
            value = kernel(weights, bias, value, ACTIVATIONS.index(one_of("activation", layer.activation, ACTIVATIONS)))
        return value

    def launch(self, descriptor: wire.KernelDescriptor | Any, by: str, dialect: str = "rust") -> Any:
        """Call the kernel that a descriptor, or its frame, names, with its parameters.

        Parameters
        ----------
        descriptor
            The value, or its frame. Grid and block are for devices.
        by
            Which backend. A frame may come from anybody, so it can name the backend's functions and nothing else, and
            of these none that fails on purpose.
        dialect
            Of a version 1 frame.

        Raises
        ------
        NoSuchFunction
            When the backend has no such function for a frame.
        """
        if not isinstance(descriptor, wire.KernelDescriptor):
            descriptor = self.decode(descriptor, dialect, by=by)
        expect("descriptor", descriptor, wire.KernelDescriptor, "a kernel descriptor or its frame")
        kernel = self._backend(by).find_function(descriptor.name)
        if kernel.flags & Flag.FAULT:
            raise NoSuchFunction(f"{kernel.name}() fails on purpose: a descriptor can't launch it")
        given = {
            name: np.require(it, requirements="A")
            if isinstance(it, np.ndarray)
            else getattr(it, "handle", it)  # functions take a device's buffer by its number
            for name, it in descriptor.parameters.items()
        }
        return kernel.function(**given)

    def _backend(self, by: str) -> LoadedBackend:
        return self._backends[one_of("backend", by, self._backends)]

    def _codec(self, by: str | LoadedBackend, dialect: str, size: int) -> LoadedBackend | None:
        """Return the backend whose codec it is; None for Python's own."""
        if not isinstance(by, str):
            if not hasattr(by, "find_function"):
                raise ArgumentTypeError("by", f"expected a backend or its name, got {type(by).__name__}")
            return by
        if by == "python" or (by == "auto" and size < SMALL):
            return None
        if by == "auto":
            loaded = [it for it in (dialect, *self._backends) if it in self._backends and self._backends[it].loaded]
            return self._backends[loaded[0]] if loaded else None
        if by not in self._backends:
            raise BackendNotLoaded(f"no codec '{by}'", f"use python, auto or one of {', '.join(self._backends)}")
        return self._backends[by]


def _as_record(value: Any) -> Any:
    """Return a value in which each buffer on a device is the record of it."""
    if isinstance(value, DeviceBuffer):
        device = device_number(value.device)
        if len(value.shape) != 3:
            return wire.GpuBuffer(value.number, value.nbytes, device)
        height, width, channels = value.shape
        return wire.GpuTexture(value.number, height, width, channels, str(value.dtype), device)
    if isinstance(value, wire.KernelDescriptor) and isinstance(value.parameters, dict):
        return replace(value, parameters={name: _as_record(it) for name, it in value.parameters.items()})
    return value


@functools.lru_cache(256)
def _plan(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Return the node table of a row-major array in version 2, which depends on no element."""
    nodes, _ = wire.flatten(np.empty(shape, dtype), version=2)  # whose pages are never touched
    nodes.flags.writeable = False
    return nodes


def _wire_error(refused: NifValueError) -> Exception:
    """Turn a native codec's refusal into what the reference raises."""
    found = REFUSAL.match(refused.reason)
    if not found or found[1] not in wire.schema.ERRORS:
        return refused
    return wire.WireError(found[1], int(found[3]) if found[3] else -1, unit=found[2] or "byte")
