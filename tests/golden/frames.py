"""Frames that every codec must read alike: good ones, bad ones, and the script that writes them down.

``python tests/golden/frames.py`` writes a file per good frame and two indexes: `index.json` has each file's dialect,
version and node table, `bad.json` the bad frames in hex with the error's exact text. The live handles are
`nif_lab.wire.examples.LIVE`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nif_lab.wire import KernelDescriptor, NeuralNetwork, TensorOperation, WireError, decode_nodes, encode
from nif_lab.wire.examples import EXAMPLES, LIVE
from nif_lab.wire.rules import checksum_of
from nif_lab.wire.schema import DIALECTS, marker_named
from nif_lab.wire.xxh3 import checksum

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Good:
    name: str
    dialect: str
    version: int
    frame: bytes
    alignment: int = 8


@dataclass(frozen=True)
class Bad:
    name: str
    dialect: str
    version: int
    frame: bytes
    code: str


def nested(depth: int) -> Any:
    """A value that is nested so deep."""
    value: Any = True
    for _ in range(depth - 1):
        value = KernelDescriptor("k", parameters={"k": value})
    return value


def good() -> Iterator[Good]:
    """An example of each type in each layout that has it, and what else is worth keeping."""
    for name, value in EXAMPLES.items():
        if 1 in marker_named(name).versions:
            for dialect in DIALECTS:
                yield Good(f"{name}.v1.{dialect}", dialect, 1, encode(value, dialect, 1))
        yield Good(f"{name}.v2", "rust", 2, encode(value))
    for alignment in (1, 2, 64):
        frame = encode(EXAMPLES["array_f32"], "zig", 1, alignment)
        yield Good(f"alignment_{alignment}.v1.zig", "zig", 1, frame, alignment)
    for dialect in DIALECTS:
        yield Good(f"empty.v1.{dialect}", dialect, 1, encode(np.zeros((0, 5)), dialect, 1))
    for name, value in (
        ("scalar_tensor", np.array(2.5, np.float16)),
        ("bool_tensor", np.array([[True, False]])),
        ("complex64", np.array([1j], np.complex64)),
        ("four_axes", np.arange(16, dtype=np.int8).reshape(2, 2, 2, 2)),
        ("no_operands", TensorOperation("é")),
    ):
        yield Good(f"{name}.v2", "rust", 2, encode(value))
    yield Good("no_checksum.v2", "rust", 2, encode(EXAMPLES["matrix_2d_f64"], checksum=False))
    yield Good("no_layers.v1.nim", "nim", 1, encode(NeuralNetwork(), "nim", 1))
    yield Good("deepest.v1.rust", "rust", 1, encode(nested(64), "rust", 1))
    odd = struct.pack("<4Q", 3, 0x7FF0DEADBEEF0001, 1 << 63, 1)  # a signalling NaN, -0, a subnormal number
    yield Good("odd_floats.v1.nim", "nim", 1, bytes([1, 0x11]) + odd)


def summed(frame: bytes | bytearray) -> bytes:
    """The version 2 frame with the checksum it should have."""
    whole = checksum_of(bytes(frame[:64]), checksum(memoryview(frame)[64:]))
    return bytes(frame[:56]) + whole.to_bytes(8, "little") + bytes(frame[64:])


def edited(frame: bytes, at: int, new: bytes) -> bytes:
    return frame[:at] + new + frame[at + len(new) :]


def array(marker: int, *shape: int, width: str = "I", tail: bytes = b"") -> bytes:
    return bytes([1, marker]) + struct.pack(f"<{len(shape)}{width}", *shape) + tail


def record(marker: int, payload: bytes, width: str = "I") -> bytes:
    return bytes([1, marker]) + struct.pack(f"<{width}", len(payload)) + payload


def names(*those: bytes, title: bytes = b"t", count: int | None = None) -> bytes:
    head = struct.pack("<HH", len(those) if count is None else count, len(title)) + title
    return head + b"".join(struct.pack("<H", len(it)) + it for it in those)


def bad() -> Iterator[Bad]:
    """The bad frames of every kind; the code is what the document says, not what the codec said."""
    yield from bad_headers()
    yield from bad_sizes()
    yield from bad_payloads()
    yield from bad_records()
    yield from bad_version2()


def bad_headers() -> Iterator[Bad]:
    scalar = encode(1.5, "rust", 1)
    yield Bad("empty", "rust", 0, b"", "SHORT")
    yield Bad("empty, version 1", "rust", 1, b"", "SHORT")
    yield Bad("empty, version 2", "rust", 2, b"", "SHORT")
    yield Bad("one byte", "rust", 0, b"\1", "SHORT")
    yield Bad("one strange byte", "rust", 0, b"\7", "SHORT")
    yield Bad("cut scalar", "rust", 1, scalar[:-1], "SHORT")
    for dialect in DIALECTS:
        yield Bad(f"cut header, {dialect}", dialect, 1, encode(EXAMPLES["matrix_2d_f32"], dialect, 1)[:9], "SHORT")
    yield Bad("cut handle", "rust", 1, encode(EXAMPLES["gpu_buffer"], "rust", 1)[:-1], "SHORT")
    for version in (0, 3, 255):
        yield Bad(f"version {version}", "rust", 1, edited(scalar, 0, bytes([version])), "VERSION")
        yield Bad(f"version {version}, any accepted", "rust", 0, edited(scalar, 0, bytes([version])), "VERSION")
    yield Bad("swapped header", "rust", 0, scalar[1::-1] + scalar[2:], "VERSION")
    yield Bad("version 2 read as 1", "rust", 1, encode(1.5), "VERSION")
    yield Bad("version 1 read as 2", "rust", 2, scalar + bytes(64), "VERSION")
    for marker in (0, 6, 0x14, 0x24, 0x32, 0x43, 0x51, 0x60, 0xFF):
        yield Bad(f"marker {marker:02x}", "rust", 1, edited(scalar, 1, bytes([marker])), "MARKER")


def bad_sizes() -> Iterator[Bad]:
    largest, beyond = 2**31 - 1, 2**31
    for dialect in ("rust", "zig"):
        align = b"\x08" * (dialect == "zig")
        yield Bad(f"dimension, {dialect}", dialect, 1, array(0x21, beyond, 0, tail=align), "DIM")
        yield Bad(f"top bit, {dialect}", dialect, 1, array(0x21, 0, 2**32 - 1, tail=align), "DIM")
        yield Bad(f"rows * cols, {dialect}", dialect, 1, array(0x20, 65536, 65536, tail=align), "OVERFLOW")
        yield Bad(f"2 GiB, {dialect}", dialect, 1, array(0x21, 2**15, 2**13, tail=align), "LENGTH")
        yield Bad(f"* itemsize, {dialect}", dialect, 1, array(0x21, 2**15, 2**14, tail=align), "OVERFLOW")
        yield Bad(f"wraps u32, {dialect}", dialect, 1, array(0x11, 2**29, tail=align), "OVERFLOW")
        yield Bad(f"+ header, {dialect}", dialect, 1, array(0x10, 2**30 - 1, tail=align), "OVERFLOW")
        yield Bad(f"wraps u64, {dialect}", dialect, 1, array(0x23, largest, largest, 2, tail=align), "OVERFLOW")
        yield Bad(f"0 x too much, {dialect}", dialect, 1, array(0x23, 0, largest, largest, tail=align), "OVERFLOW")
        yield Bad(f"record + header, {dialect}", dialect, 1, bytes([1, 0x40]) + b"\xff" * 4, "OVERFLOW")
    for dialect in ("nim", "julia"):
        yield Bad(f"dimension, {dialect}", dialect, 1, array(0x21, 2**40 + 1, 0, width="Q"), "DIM")
        yield Bad(f"top bit, {dialect}", dialect, 1, array(0x11, 2**63, width="Q"), "DIM")
        yield Bad(f"wraps u64, {dialect}", dialect, 1, array(0x20, 2**40, 2**40, width="Q"), "OVERFLOW")
        yield Bad(f"* itemsize, {dialect}", dialect, 1, array(0x21, 2**40, 2**20, width="Q"), "OVERFLOW")
        yield Bad(f"0 x too much, {dialect}", dialect, 1, array(0x21, 2**40, 2**20, 0, width="Q")[:-8], "OVERFLOW")
        yield Bad(f"record + header, {dialect}", dialect, 1, bytes([1, 0x40]) + b"\xff" * 8, "OVERFLOW")
        yield Bad(f"record, {dialect}", dialect, 1, array(0x42, 2**62, width="Q"), "LENGTH")
    for dialect in DIALECTS:
        for name in ("array_f64", "matrix_2d_f32", "matrix_3d_f64", "array_complex", "kernel_descriptor"):
            frame = encode(EXAMPLES[name], dialect, 1)
            yield Bad(f"cut {name}, {dialect}", dialect, 1, frame[:-1], "LENGTH")
            yield Bad(f"{name} and a byte, {dialect}", dialect, 1, frame + b"\0", "TRAILING")
        yield Bad(f"scalar and a byte, {dialect}", dialect, 1, encode(True, dialect, 1) + b"\0", "TRAILING")


def bad_payloads() -> Iterator[Bad]:
    padded = encode(EXAMPLES["array_f32"], "zig", 1)
    for alignment in (0, 3, 128, 255):
        yield Bad(f"alignment {alignment}", "zig", 1, edited(padded, 6, bytes([alignment])), "ALIGN")
    yield Bad("a dimension goes before the alignment", "zig", 1, array(0x10, 2**31, tail=b"\3"), "DIM")
    yield Bad("the alignment goes before the size", "zig", 1, array(0x10, 2**30, tail=b"\3"), "ALIGN")
    yield Bad("no padding", "zig", 1, padded[:-4], "LENGTH")
    yield Bad("padding", "zig", 1, padded[:-1] + b"\1", "PAD")
    yield Bad("too much padding", "zig", 1, padded + bytes(8), "TRAILING")
    yield Bad("boolean 2", "rust", 1, b"\1\5\2", "VALUE")
    yield Bad("boolean 255", "julia", 1, b"\1\5\xff", "VALUE")
    handles = {"unknown": (1 << 32 | 6, "HANDLE"), "freed": (9, "STALE"), "freed, old": (1 << 32 | 9, "STALE")}
    handles |= {"other generation": (2 << 32 | 7, "STALE"), "generation 0": (7, "STALE")}
    handles["an address"] = (0x7F0012345678, "HANDLE")
    for name in ("gpu_buffer", "gpu_texture"):
        for dialect in DIALECTS:
            frame = encode(EXAMPLES[name], dialect, 1)
            for what, (handle, code) in handles.items():
                yield Bad(f"{name} {what}, {dialect}", dialect, 1, edited(frame, 2, struct.pack("<Q", handle)), code)
            yield Bad(f"{name}, other device, {dialect}", dialect, 1, frame[:-4] + b"\5\0\0\0", "HANDLE")
    frame = encode(EXAMPLES["gpu_buffer"], "rust", 1)
    yield Bad("more than the block", "rust", 1, edited(frame, 10, struct.pack("<Q", 4097)), "HANDLE")
    yield Bad("far more than the block", "rust", 1, edited(frame, 10, b"\xff" * 8), "HANDLE")
    frame = encode(EXAMPLES["gpu_texture"], "rust", 1)
    yield Bad("a texture too large", "rust", 1, edited(frame, 10, b"\xff" * 12), "HANDLE")
    yield Bad("a texture that wraps to 0", "rust", 1, edited(frame, 10, struct.pack("<3I", 2**31, 2**31, 4)), "HANDLE")
    for dtype in (0, 15, 2**32 - 1):
        yield Bad(f"texture of type {dtype}", "rust", 1, edited(frame, 22, struct.pack("<I", dtype)), "VALUE")


def bad_records() -> Iterator[Bad]:
    kernel = b"grid", b"block"
    shape = array(0x12, 3, tail=struct.pack("<3i", 1, 1, 1))
    launch = shape + shape

    def of(payload: bytes, name: str, code: str) -> Bad:
        return Bad(name, "rust", 1, record(0x42, payload), code)

    yield Bad("65 deep", "rust", 1, encode_deep(65), "DEPTH")
    yield of(b"\2\0\0", "cut count", "LENGTH")
    yield of(names(count=512), "513 values", "LIMIT")
    yield of(names(count=65535), "65536 values", "LIMIT")
    many = encode(KernelDescriptor("k", parameters={f"{i}": True for i in range(254)}), "rust", 1)
    inner = record(0x42, names(*kernel, *(b"%d" % i for i in range(254)), b"x", title=b"")
        + launch + b"\1\5\1" * 254 + many)  # fmt: skip
    yield Bad("513 values in two records", "rust", 1, inner, "LIMIT")
    yield of(names(b"grid"), "no block", "VALUE")
    yield of(names(*kernel, title=b"t" * 256) + launch, "long title", "LIMIT")
    yield of(struct.pack("<HH", 2, 200) + b"t", "cut title", "LENGTH")
    for text in (b"\xff", b"\xc0\x80", b"a\0", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):
        yield of(names(*kernel, title=text) + launch, f"title {text.hex()}", "UTF8")
        yield of(names(*kernel, text) + launch + b"\1\5\1", f"name {text.hex()}", "UTF8")
    yield of(names(b"grid", count=2), "no second name", "LENGTH")
    yield of(names(b"grid", count=2) + b"\5", "cut name length", "LENGTH")
    yield of(names(*kernel, b"") + launch + b"\1\5\1", "empty name", "LIMIT")
    yield of(names(*kernel, b"n" * 256) + launch + b"\1\5\1", "long name", "LIMIT")
    yield of(names(*kernel, b"nn")[:-1], "cut name", "LENGTH")
    yield of(names(*kernel, b"a", b"a") + launch + b"\1\5\1" * 2, "duplicate", "DUPLICATE")
    yield of(names(*kernel, b"grid") + launch + b"\1\5\1", "duplicate of a fixed one", "DUPLICATE")
    yield of(names(b"block", b"grid") + launch, "swapped names", "VALUE")
    yield of(names(*kernel) + shape, "a child too few", "LENGTH")
    yield of(names(*kernel) + launch + b"\0", "bytes after the children", "LENGTH")
    yield of(names(*kernel) + launch[:-1], "cut child", "LENGTH")
    yield of(names(*kernel) + shape + b"\1\5\1", "block is a boolean", "MARKER")
    yield of(names(*kernel) + shape + array(0x12, 2, tail=bytes(8)), "block of two", "VALUE")
    yield of(names(*kernel) + shape + b"\2" + shape[1:], "child of version 2", "VERSION")
    yield of(names(*kernel, b"a") + launch + b"\1\x77\1", "child of no type", "MARKER")
    yield of(names(*kernel, b"a") + launch + b"\1\5\3", "boolean 3 within", "VALUE")
    yield Bad("half a group", "rust", 1, record(0x40, names(b"0.weights", b"0.bias")), "VALUE")
    network = encode(EXAMPLES["neural_network"], "rust", 1)
    yield Bad("no such activation", "rust", 1, network[:-4] + b"\5\0\0\0", "VALUE")
    yield Bad("negative activation", "rust", 1, network[:-4] + b"\xff" * 4, "VALUE")
    yield Bad("name of another group", "rust", 1, network.replace(b"0.bias", b"1.bias"), "VALUE")
    operation = encode(EXAMPLES["tensor_operation"], "rust", 1)
    yield Bad("no such element type", "rust", 1, operation[:-4] + b"\x0f\0\0\0", "VALUE")


def encode_deep(depth: int) -> bytes:
    """A version 1 frame nested so deep, which the encoder would refuse."""
    shape = array(0x12, 3, tail=struct.pack("<3i", 1, 1, 1))
    frame = b"\1\5\1"
    for _ in range(depth - 1):
        frame = record(0x42, names(b"grid", b"block", b"k", title=b"k") + shape + shape + frame)
    return frame


def bad_version2() -> Iterator[Bad]:
    frame = encode(EXAMPLES["matrix_2d_f64"])
    tensor = encode(EXAMPLES["tensor"])
    plain = encode(EXAMPLES["matrix_2d_f64"], checksum=False)
    deep = encode(np.ones((2, 2, 2, 2), "i1"), checksum=False)
    for length in (1, 4, 5, 63):
        yield Bad(f"first {length} bytes", "rust", 2, frame[:length], "SHORT")
    yield Bad("cut payload", "rust", 2, frame[:-1], "LENGTH")
    yield Bad("a byte more", "rust", 2, frame + b"\0", "TRAILING")
    yield Bad("magic", "rust", 2, edited(frame, 1, b"P"), "VERSION")
    yield Bad("version 3 behind the magic", "rust", 0, edited(frame, 4, b"\3"), "VERSION")
    yield Bad("marker", "rust", 2, edited(frame, 5, b"\x61"), "MARKER")
    for name, at, new in (
        ("type of another marker", 6, b"\1"),
        ("axes of another marker", 7, b"\1"),
        ("order 2", 8, b"\2"),
        ("flags 2", 9, b"\2"),
        ("flags 3", 9, b"\3"),
        ("reserved", 15, b"\1"),
        ("axis beyond ndim", 32, b"\1"),
        ("last axis", 47, b"\x80"),
    ):
        yield Bad(name, "rust", 2, summed(edited(frame, at, new)), "VALUE")
    for name, at, new in (
        ("no type", 6, b"\0"),
        ("type 15", 6, b"\x0f"),
        ("five axes", 7, b"\5"),
        ("255 axes", 7, b"\xff"),
    ):
        yield Bad(f"tensor of {name}", "rust", 2, summed(edited(tensor, at, new)), "VALUE")
        yield Bad(f"tensor of {name}, no checksum", "rust", 2, edited(deep, at, new), "VALUE")
    yield Bad("column-major vector", "rust", 2, summed(edited(encode(np.ones(3)), 8, b"\1")), "VALUE")
    large = struct.pack("<2Q", 2**40, 2**40)
    yield Bad("dimension", "rust", 2, edited(frame, 16, struct.pack("<Q", 2**40 + 1)), "DIM")
    yield Bad("top bit", "rust", 2, edited(frame, 24, struct.pack("<Q", 2**63)), "DIM")
    yield Bad("shape", "rust", 2, edited(frame, 16, large), "OVERFLOW")
    yield Bad("payload", "rust", 2, edited(frame, 48, b"\xff" * 8), "OVERFLOW")
    yield Bad("payload + header", "rust", 2, edited(frame, 48, struct.pack("<Q", 2**63 - 64)), "OVERFLOW")
    yield Bad("other payload", "rust", 2, edited(frame, 48, struct.pack("<Q", 49)), "LENGTH")
    yield Bad("swapped shape", "rust", 2, edited(frame, 16, struct.pack("<2Q", 3, 2)), "CHECKSUM")
    yield Bad("other payload byte", "rust", 2, frame[:-1] + b"\0", "CHECKSUM")
    yield Bad("other checksum", "rust", 2, edited(frame, 56, bytes(8)), "CHECKSUM")
    yield Bad("checksum unasked for", "rust", 2, edited(plain, 63, b"\1"), "VALUE")
    bools = encode(np.array([True, False, True]))
    yield Bad("element 2 of bool", "rust", 2, summed(edited(bools, 65, b"\2")), "VALUE")
    yield Bad("boolean of 2", "rust", 2, summed(edited(encode(True), 64, b"\2")), "VALUE")
    yield Bad("scalar of two bytes", "rust", 2, summed(edited(encode(True), 48, b"\2") + b"\0"), "LENGTH")
    buffer = encode(EXAMPLES["gpu_buffer"])
    yield Bad("short buffer", "rust", 2, summed(edited(buffer, 48, b"\x13")[:-1]), "LENGTH")
    yield Bad("unknown handle", "rust", 2, summed(edited(buffer, 64, bytes(8))), "HANDLE")
    kernel = encode(EXAMPLES["kernel_descriptor"])
    second = 64 + 64  # the first child
    yield Bad("padding of the names", "rust", 2, summed(edited(kernel, second - 1, b"\1")), "PAD")
    yield Bad("padding of a child", "rust", 2, summed(edited(kernel, second + 127, b"\1")), "PAD")
    yield Bad("checksum in a child", "rust", 2, summed(edited(kernel, second + 9, b"\1")), "VALUE")
    yield Bad("magic of a child", "rust", 2, summed(edited(kernel, second, b"\0")), "VERSION")
    short = edited(kernel[:-64], 48, struct.pack("<Q", len(kernel) - 128))
    yield Bad("no padding of the last child", "rust", 2, summed(short[:-1]), "LENGTH")
    yield Bad("no payload of the last child", "rust", 2, summed(short), "LENGTH")
    unfilled = edited(kernel[:-1], 48, struct.pack("<Q", len(kernel) - 65))
    yield Bad("padding a byte short", "rust", 2, summed(unfilled), "LENGTH")


def said(it: Good | Bad) -> list[list[int]] | str:
    """What the reference answers: the node table, or the error in the words that all codecs share."""
    try:
        return decode_nodes(it.frame, it.dialect, it.version, LIVE).tolist()
    except WireError as error:
        return f"{error.code}: {error.rule} (byte {error.offset})"


def write(folder: Path) -> None:
    """Write all frames and the indexes."""
    index, refused = {}, {}
    for it in good():
        (folder / f"{it.name}.bin").write_bytes(it.frame)
        about = {"dialect": it.dialect, "version": it.version, "alignment": it.alignment}
        index[it.name] = {**about, "nodes": said(it)}
    for it in bad():
        assert it.name not in refused, it.name
        refused[it.name] = {"dialect": it.dialect, "version": it.version, "frame": it.frame.hex(), "error": said(it)}
    for name, content in (("index", index), ("bad", refused)):
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        (folder / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    write(FOLDER)
