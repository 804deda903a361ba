"""The reference codec and the inspector: what they write stays, what is broken is refused with its code, in bounds."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from write_golden import GOLDEN, golden

from nif_lab import wire
from nif_lab.wire import WireError, document
from nif_lab.wire.examples import EXAMPLES, LIVE
from nif_lab.wire.schema import DIALECTS, ERRORS
from nif_lab.wire.xxh3 import checksum

INDEX = json.loads((GOLDEN / "index.json").read_text("utf-8"))
dialects = st.sampled_from(sorted(DIALECTS))
arrays = hnp.arrays(
    st.sampled_from(["f4", "f8", "i4", "i8", "c16", "u1", "f2", "?"]),
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0),
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same to the bit, records and what is in them included."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if hasattr(one, "__dataclass_fields__"):
        return all(same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) or hasattr(one, "items"):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("name", sorted(INDEX))
def test_golden_frames_stay_as_they_are(name: str) -> None:
    frame, entry = golden()[name]
    assert (GOLDEN / f"{name}.bin").read_bytes() == frame
    assert INDEX[name] == entry
    value = wire.decode(frame, str(entry["dialect"]), None, LIVE)
    assert same(value, EXAMPLES[str(entry["marker"])])


def test_golden_has_everything() -> None:
    assert set(INDEX) == set(golden()) == {it.stem for it in GOLDEN.glob("*.bin")}
    assert {it["marker"] for it in INDEX.values()} == set(EXAMPLES)


def test_the_document_is_what_the_schema_says() -> None:
    path = Path(__file__).parents[1] / "docs" / "wire.md"
    assert document.fill(path.read_text("utf-8")) == path.read_text("utf-8"), (
        "run python -m nif_lab.wire.document docs/wire.md"
    )


@given(array=arrays, dialect=dialects)
def test_arrays_come_back_to_the_bit(array: np.ndarray, dialect: str) -> None:
    frame = wire.encode(array, dialect, 2)
    again = wire.decode(frame)
    assert same(again, array)
    assert not again.size or np.shares_memory(again, np.frombuffer(frame, np.uint8))


@given(value=st.one_of(st.floats(), st.booleans(), st.integers(-(2**63), 2**63 - 1)), dialect=dialects)
def test_numbers_come_back_to_the_bit(value: float, dialect: str) -> None:
    for version in (1, 2):
        assert same(wire.decode(wire.encode(value, dialect, version), dialect, version), value)


@given(data=st.binary(max_size=5000))
def test_the_checksum_is_xxh3(data: bytes) -> None:
    assert checksum(memoryview(data)) == xxhash.xxh3_64_intdigest(data)


F64 = bytes([1, 0x11])
BAD: list[tuple[str, bytes, str, str]] = [
    ("empty", b"", "rust", "SHORT"),
    ("one byte", b"\1", "rust", "SHORT"),
    ("version 0", b"\0\x02" + bytes(8), "rust", "VERSION"),
    ("version 255", b"\xff\x02" + bytes(8), "rust", "VERSION"),
    ("swapped", b"\x02\x01" + bytes(8), "rust", "VERSION"),
    ("marker", b"\1\x7f" + bytes(8), "rust", "MARKER"),
    ("boolean 2", b"\1\5\2", "rust", "VALUE"),
    ("trailing", wire.encode(1.5, "rust", 1) + b"\0", "rust", "TRAILING"),
    ("beyond", F64 + (3).to_bytes(4, "little") + bytes(16), "rust", "LENGTH"),
    ("dimension", F64 + (2**31).to_bytes(4, "little"), "rust", "DIM"),
    ("top bit", F64 + (2**63).to_bytes(8, "little"), "nim", "DIM"),
    ("u32 wraps", bytes([1, 0x21]) + (2**16).to_bytes(4, "little") * 2, "rust", "OVERFLOW"),
    ("u64 wraps", bytes([1, 0x23]) + (2**40).to_bytes(8, "little") * 3, "julia", "OVERFLOW"),
    *((f"alignment {n}", F64 + bytes(4) + bytes([n]), "zig", "ALIGN") for n in (0, 3, 128)),
    ("padding missing", wire.encode(np.zeros(1, "f4"), "zig", 1)[:-1], "zig", "LENGTH"),
    ("padding not zero", wire.encode(np.zeros(1, "f4"), "zig", 1)[:-1] + b"\1", "zig", "PAD"),
    ("checksum", wire.encode(np.ones(3), version=2)[:-1] + b"\0", "rust", "CHECKSUM"),
]


@pytest.mark.parametrize(("frame", "dialect", "code"), [it[1:] for it in BAD], ids=[it[0] for it in BAD])
def test_bad_frames_have_their_code_at_every_address(frame: bytes, dialect: str, code: str) -> None:
    for shift in range(64):
        room = memoryview(bytes(shift) + frame)[shift:]
        with pytest.raises(WireError) as refused:
            wire.decode_nodes(room, dialect)
        assert refused.value.code == code
        assert refused.value.rule == ERRORS[code]
    shown = wire.inspect(frame, dialect)
    assert shown.error is not None
    assert shown.error.code == code


@pytest.mark.parametrize(
    ("handle", "code"),
    [((3 << 32) | 7, ""), ((2 << 32) | 7, "STALE"), ((1 << 32) | 9, "STALE"), ((1 << 32) | 99, "HANDLE")],
)
def test_handles_are_looked_up(handle: int, code: str) -> None:
    for version in (1, 2):
        frame = wire.encode(wire.GpuBuffer(handle, 1024, 1), "rust", version)
        if not code:
            assert wire.decode(frame, "rust", version, LIVE).size == 1024
            continue
        with pytest.raises(WireError) as refused:
            wire.decode(frame, "rust", version, LIVE)
        assert refused.value.code == code


def test_what_nests_too_deep_or_has_bad_names_is_refused() -> None:
    deep: Any = 1
    for _ in range(70):
        deep = wire.KernelDescriptor("k", parameters={"inner": deep})
    for value, code in (
        (deep, "DEPTH"),
        (wire.KernelDescriptor("k", parameters={f"p{i}": i for i in range(600)}), "LIMIT"),
        (wire.KernelDescriptor("k", parameters={"x" * 256: 1}), "LIMIT"),
        (wire.KernelDescriptor("k", parameters={"a\0b": 1}), "UTF8"),
        (wire.KernelDescriptor("k" * 300), "LIMIT"),
    ):
        for version in (1, 2):
            with pytest.raises(WireError) as refused:
                wire.encode(value, "rust", version)
            assert refused.value.code == code
    twice = bytearray(wire.encode(wire.KernelDescriptor("k", parameters={"one": 1, "two": 2}), "rust", 1))
    at = twice.index(b"two")
    twice[at : at + 3] = b"one"
    with pytest.raises(WireError, match="DUPLICATE"):
        wire.decode(bytes(twice), "rust", 1)


@pytest.mark.parametrize("name", sorted(INDEX))
def test_no_beginning_of_a_frame_is_one(name: str) -> None:
    frame, dialect = (GOLDEN / f"{name}.bin").read_bytes(), INDEX[name]["dialect"]
    for length in range(len(frame)):
        with pytest.raises(WireError) as refused:
            wire.decode_nodes(frame[:length], dialect, INDEX[name]["version"], LIVE)
        assert refused.value.code in {"SHORT", "LENGTH"}


@given(data=st.binary(max_size=300), dialect=dialects)
def test_any_bytes_are_a_value_or_refused(data: bytes, dialect: str) -> None:
    for frame in (data, b"\1" + data, wire.encode(np.ones(2))[:24] + data):
        with contextlib.suppress(WireError):  # and nothing else
            wire.decode(frame, dialect, None, LIVE)
        shown = wire.inspect(frame, dialect)
        assert shown.error is None or -1 <= shown.error.offset <= len(frame)
        assert sum(it.length for it in shown.fields) == len(frame)


def test_decoding_allocates_little() -> None:
    for claimed in (2**20, 2**30):
        frame = F64 + claimed.to_bytes(8, "little") + bytes(100)
        tracemalloc.start()
        with pytest.raises(WireError, match="LENGTH"):
            wire.decode(frame, "julia", 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < len(frame) + 65536


@pytest.mark.parametrize("name", sorted(INDEX))
def test_the_inspector_names_every_byte_once(name: str) -> None:
    frame, entry = (GOLDEN / f"{name}.bin").read_bytes(), INDEX[name]
    shown = wire.inspect(frame, entry["dialect"], entry["version"], LIVE)
    assert shown.valid
    at = 0
    for part in shown.fields:
        assert (part.offset, part.bytes) == (at, frame[at : at + part.length])
        assert part.meaning
        at += part.length
    assert at == len(frame)
    assert entry["marker"] in repr(shown)
    html = shown._repr_html_()
    assert entry["marker"] in html
    assert "<script" not in html
    assert "http" not in html


def test_only_little_endian_is_offered() -> None:
    with pytest.raises(WireError, match="frames are little-endian, 'big' is not offered"):
        wire.encode(1.5, endianness="big")


def test_values_without_a_type_are_refused_with_a_cure() -> None:
    with pytest.raises(WireError, match="version 2 has"):
        wire.encode(np.ones(3, "u2"), "rust", 1)
    for value in (np.ones((1,) * 5), "text", None, object()):
        with pytest.raises((WireError, TypeError)):
            wire.encode(value)
