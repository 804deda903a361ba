"""The wire protocol's contract, by its Python reference. conformance/test_codecs.py holds the natives to it."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from golden import frames
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nif_lab import wire
from nif_lab.errors import NifLabError
from nif_lab.wire import WireError, decode, decode_nodes, document, encode, encode_nodes, flatten, xxh3
from nif_lab.wire.examples import EXAMPLES, LIVE
from nif_lab.wire.rules import COLUMN
from nif_lab.wire.schema import COLUMNS, DIALECTS, DTYPES, ERRORS, LIMITS, MARKERS, body_offset

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "wire.md"
GOOD = list(frames.good())
BAD = list(frames.bad())


def refusal(function: Any, *arguments: Any, **options: Any) -> WireError:
    with pytest.raises(WireError) as caught:
        function(*arguments, **options)
    return caught.value


# What is written down


def test_the_document_is_what_the_schema_says() -> None:
    text = DOCUMENT.read_text()
    assert document.fill(text) == text, "run python -m nif_lab.wire.document docs/wire.md"
    with pytest.raises(ValueError, match="<!-- markers -->"):
        document.fill(text.replace("<!-- markers -->", ""))


def test_the_golden_frames_are_what_the_codec_writes(tmp_path: Path) -> None:
    frames.write(tmp_path)
    kept = {it.name: it.read_bytes() for it in frames.FOLDER.iterdir() if it.suffix in {".bin", ".json"}}
    written = {it.name: it.read_bytes() for it in tmp_path.iterdir()}
    assert written == kept, "run python tests/golden/frames.py, and look at what git says of it"
    assert set(json.loads(written["index.json"])) == {it.name for it in GOOD}


def test_every_marker_has_a_golden_frame_in_every_dialect_it_has() -> None:
    have = {(decode_nodes(it.frame, it.dialect, it.version, LIVE)[0, 0], it.dialect, it.version) for it in GOOD}
    want = {(code, name, 1) for code, it in MARKERS.items() if 1 in it.versions for name in DIALECTS}
    assert have == want | {(code, "rust", 2) for code in MARKERS}


def test_every_code_has_a_bad_frame() -> None:
    assert {it.code for it in BAD} == set(ERRORS)
    assert len({it.name for it in BAD}) == len(BAD)


def test_a_table_stays_below_64_kib() -> None:
    assert LIMITS["nodes"] * len(COLUMNS) * 8 < 64 * 1024


# Good frames


def test_a_golden_frame_is_read_and_written_again() -> None:
    for it in GOOD:
        nodes = decode_nodes(it.frame, it.dialect, None, LIVE)
        summed = it.version == 1 or it.frame[9] == 1
        again = encode_nodes(nodes, it.frame, it.dialect, it.version, it.alignment, checksum=summed)
        assert again == it.frame, it.name
        value = decode(it.frame, it.dialect, it.version, LIVE)
        assert encode(value, it.dialect, it.version, it.alignment, checksum=summed) == it.frame, it.name


def test_any_beginning_of_a_frame_is_refused() -> None:
    for it in GOOD:
        marker = MARKERS[int(decode_nodes(it.frame, it.dialect, it.version, LIVE)[0, 0])]
        body = body_offset(marker, DIALECTS[it.dialect], it.version)
        fixed = it.version == 1 and marker.kind in {"scalar", "device"}
        for length in range(len(it.frame)):
            error = refusal(decode_nodes, it.frame[:length], it.dialect, it.version, LIVE)
            assert error.code == ("SHORT" if length < body or fixed else "LENGTH"), (it.name, length)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("version", [1, 2])
def test_python_numbers_come_back_as_they_were(dialect: str, version: int) -> None:
    for value in (1.5, -0.0, float("inf"), 0, -(2**63), 2**63 - 1, True, False):
        back = decode(encode(value, dialect, version), dialect)
        assert type(back) is type(value)
        assert repr(back) == repr(value)
    for number in (np.float32(0.1), np.int32(-(2**31))):
        back = decode(encode(number, dialect, version), dialect)
        assert (type(back), back) == (type(number), number)
    assert type(decode(encode(np.float64(1), dialect, version), dialect)) is float
    assert type(decode(encode(np.int64(1), dialect, version), dialect)) is int
    assert decode(encode(np.True_, dialect, version), dialect) is True


def arrays(dtypes: list[str], ndims: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=ndims[0], max_dims=ndims[1], min_side=0, max_side=5)
    return st.sampled_from(dtypes).flatmap(lambda it: hnp.arrays(it, shapes, elements={"allow_nan": True}))


V1_ARRAYS = st.one_of(
    arrays(["float32", "float64", "int32", "int64", "complex128"], (1, 1)), arrays(["float32", "float64"], (2, 3))
)
ANY_ARRAY = arrays([it.name for it in DTYPES.values()], (0, 4))
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
SCALARS = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(width=64))


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same to the last bit, shapes and element types included."""
    left, right = np.asarray(left), np.asarray(right)
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


@given(V1_ARRAYS, st.sampled_from(list(DIALECTS)), st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.booleans())
def test_version_1_keeps_arrays(array: np.ndarray, dialect: str, alignment: int, column_major: bool) -> None:
    given_ = np.asarray(array, order="F" if column_major else "C")
    frame = encode(given_, dialect, 1, alignment)
    assert same(decode(frame, dialect), array)
    if dialect == "zig":
        assert (len(frame) - (6 + 1 + 4 * (array.ndim - 1))) % alignment == 0


@given(ANY_ARRAY, st.booleans(), st.booleans())
def test_version_2_keeps_arrays_and_their_order(array: np.ndarray, column_major: bool, checksum: bool) -> None:
    given_ = np.asarray(array, order="F" if column_major else "C")
    back = decode(encode(given_, checksum=checksum))
    assert same(back, array)
    assert back.flags.c_contiguous or given_.flags.f_contiguous


def test_odd_floats_keep_their_bits() -> None:
    bits = np.array([0x7FF0000000000001, 0xFFF8DEADBEEF0000, 1, 1 << 63, 0x7FF << 52], np.uint64)
    for dialect in DIALECTS:
        for version in (1, 2):
            back = decode(encode(bits.view(np.float64), dialect, version), dialect)
            assert np.array_equal(back.view(np.uint64), bits)


@settings(max_examples=20)
@given(
    st.recursive(
        st.one_of(SCALARS, V1_ARRAYS),
        lambda inner: st.builds(
            wire.KernelDescriptor,
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
            parameters=st.dictionaries(NAMES.filter(lambda it: it not in {"grid", "block"}), inner, max_size=3),
        ),
        max_leaves=8,
    ),
    st.sampled_from(list(DIALECTS)),
    st.sampled_from([1, 2]),
)
def test_records_keep_names_and_values(value: Any, dialect: str, version: int) -> None:
    frame = encode(value, dialect, version)
    assert encode(decode(frame, dialect), dialect, version) == frame

    def check(left: Any, right: Any) -> None:
        if not isinstance(left, wire.KernelDescriptor):
            assert same(left, right)
            return
        assert (left.name, left.grid, left.block) == (right.name, right.grid, right.block)
        assert list(left.parameters) == list(right.parameters)
        for name, it in left.parameters.items():
            check(it, right.parameters[name])

    check(value, decode(frame, dialect))


def test_the_examples_survive_as_values() -> None:
    for version in (1, 2):
        network = decode(encode(EXAMPLES["neural_network"], "julia", version), "julia")
        (layer,) = network.layers
        assert (network.name, layer.activation) == ("unit", "relu")
        assert same(layer.weights, np.array([[1, -1]], np.float32))
        for name in ("tensor_operation", "gpu_buffer", "gpu_texture"):
            assert decode(encode(EXAMPLES[name], "nim", version), "nim", live=LIVE) == EXAMPLES[name]


def test_arrays_are_views() -> None:
    frame = np.frombuffer(encode(np.arange(6.0)), np.uint8).copy()
    array = decode(frame)
    assert np.shares_memory(array, frame)
    assert array.flags.writeable
    assert not decode(frame.tobytes()).flags.writeable


def test_a_lone_array_is_not_copied_before_it_is_encoded() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert np.shares_memory(flatten(array, "rust", 1)[1], array)
    assert np.shares_memory(flatten(array.T, "julia", 1)[1], array)
    assert np.shares_memory(flatten(array.T)[1], array)
    assert not np.shares_memory(flatten(array, "julia", 1)[1], array)


def test_complex64_is_widened_in_version_1_and_kept_in_version_2() -> None:
    value = np.array([1 + 2j], np.complex64)
    assert same(decode(encode(value, "julia", 1), "julia"), value.astype(np.complex128))
    assert same(decode(encode(value)), value)


# Bad frames


def test_a_bad_frame_is_refused() -> None:
    for it in BAD:
        error = refusal(decode, it.frame, it.dialect, it.version, LIVE)
        assert error.code == it.code, (it.name, str(error))
        assert 0 <= error.offset <= len(it.frame), it.name


def test_the_answer_is_the_same_at_every_address() -> None:
    for it in [*GOOD, *BAD]:
        expected = frames.said(it)
        room = np.empty(64 + len(it.frame) + 64, np.uint8)
        first = -room.ctypes.data % 64
        for base in (first + shift for shift in (0, 1, 2, 4, 8, 16, 32, 63)):
            room[base : base + len(it.frame)] = np.frombuffer(it.frame, np.uint8)
            placed = frames.Bad(it.name, it.dialect, it.version, room[base : base + len(it.frame)], "")
            assert frames.said(placed) == expected, (it.name, base)


def test_damage_never_gives_anything_but_a_value_or_a_wire_error(rng: np.random.Generator) -> None:
    for it in GOOD:
        for _ in range(20):
            frame = bytearray(it.frame)
            for at in rng.integers(0, len(frame), rng.integers(1, 4)):
                frame[at] = rng.choice([0, 1, 2, 127, 128, 255, rng.integers(256)])
            for dialect in (it.dialect, rng.choice(list(DIALECTS))):
                with contextlib.suppress(WireError):
                    nodes = decode_nodes(frame, dialect, None, LIVE)
                    # What decode accepts makes a value, and encode accepts it.
                    value = decode(frame, dialect, None, LIVE)
                    encoded = encode_nodes(nodes, frame, dialect, 1 if frame[0] == 1 else 2)
                    assert repr(decode(encoded, dialect, None, LIVE)) == repr(value)


def test_decoding_allocates_nothing_that_a_frame_claims() -> None:
    for it in BAD:
        tracemalloc.start()
        refusal(decode, it.frame, it.dialect, it.version, LIVE)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20, it.name
    frame = encode(np.zeros(1 << 20, np.uint8), checksum=False)
    tracemalloc.start()
    decode(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 16


# What the encoder refuses


def edited(value: Any, row: int, column: str, number: int, version: int = 1) -> tuple[np.ndarray, Any]:
    nodes, data = flatten(value, "rust", version)
    nodes[row, COLUMN[column]] = number
    return nodes, data


MATRIX, KERNEL, NETWORK = (EXAMPLES[it] for it in ("matrix_2d_f64", "kernel_descriptor", "neural_network"))


@pytest.mark.parametrize(
    ("value", "row", "column", "number", "code", "place"),
    [
        (MATRIX, 0, "marker", 0x60, "MARKER", 0),
        (MATRIX, 0, "marker", -1, "MARKER", 0),
        (MATRIX, 0, "marker", 0x20, "VALUE", 0),
        (MATRIX, 0, "dtype", 1, "VALUE", 0),
        (MATRIX, 0, "ndim", 1, "VALUE", 0),
        (MATRIX, 0, "order", 1, "VALUE", 0),
        (MATRIX, 0, "shape0", 3, "LENGTH", 0),
        (MATRIX, 0, "shape0", -1, "DIM", 0),
        (MATRIX, 0, "shape1", 2**31, "DIM", 0),
        (MATRIX, 0, "shape1", 2**31 - 1, "OVERFLOW", 0),
        (MATRIX, 0, "shape2", 1, "VALUE", 0),
        (MATRIX, 0, "data_offset", 1, "LENGTH", 0),
        (MATRIX, 0, "data_offset", -1, "LENGTH", 0),
        (MATRIX, 0, "data_length", 2**63 - 1, "LENGTH", 0),
        (MATRIX, 0, "name_length", 1, "VALUE", 0),
        (MATRIX, 0, "parent", 0, "VALUE", 0),
        (MATRIX, 0, "count", 1, "VALUE", 0),
        (KERNEL, 0, "count", 5, "LENGTH", 0),
        (KERNEL, 0, "data_length", 256, "LENGTH", 0),
        (KERNEL, 1, "marker", 0x13, "MARKER", 1),
        (KERNEL, 1, "name_length", 3, "VALUE", 1),
        (KERNEL, 2, "parent", 1, "LENGTH", 0),
        (KERNEL, 3, "name_length", 0, "LIMIT", 3),
        (KERNEL, 3, "name_length", 256, "LIMIT", 3),
        (KERNEL, 3, "name_offset", 2**62, "LENGTH", 3),
        (NETWORK, 3, "data_offset", 0, "VALUE", 3),
    ],
)
def test_a_bad_table_is_refused(value: Any, row: int, column: str, number: int, code: str, place: int) -> None:
    error = refusal(encode_nodes, *edited(value, row, column, number), "rust", 1)
    assert (error.code, error.offset) == (code, place), str(error)
    assert f"(node {place})" in str(error)


def test_a_table_as_a_whole() -> None:
    nodes, data = flatten(KERNEL, "rust", 1)
    assert refusal(encode_nodes, nodes[:0], data).code == "SHORT"
    assert refusal(encode_nodes, np.repeat(nodes, 200, 0), data).code == "LIMIT"
    later = np.vstack([nodes, nodes[-1:]])
    later[-1, COLUMN["parent"]] = 99
    assert (refusal(encode_nodes, later, data).code, refusal(encode_nodes, later, data).offset) == ("TRAILING", 5)
    swapped = nodes[[0, 1, 3, 2, 4]]
    assert refusal(encode_nodes, swapped, data).code == "VALUE"
    orphan = np.insert(nodes, 1, later[-1], 0)
    assert (refusal(encode_nodes, orphan, data).code, refusal(encode_nodes, orphan, data).offset) == ("VALUE", 2)
    assert refusal(encode_nodes, nodes, data, version=3).code == "VERSION"
    assert refusal(encode_nodes, nodes, data, version=0).code == "VERSION"
    assert refusal(encode_nodes, nodes, data, dialect=4).code == "VALUE"
    for alignment in (0, 3, 128, -8):
        assert refusal(encode_nodes, nodes, data, alignment=alignment).code == "ALIGN"


@pytest.mark.parametrize(
    ("value", "version", "code", "words"),
    [
        (2**63, 2, "VALUE", "is not an int64"),
        ("text", 2, "MARKER", "no type for a str"),
        (None, 2, "MARKER", "no type for a NoneType"),
        (np.array(["a"]), 2, "VALUE", "got ndarray of text"),
        (np.zeros((1,) * 5), 2, "MARKER", "no type for float64[1, 1, 1, 1, 1]"),
        (np.zeros(2, np.uint8), 1, "MARKER", "no type for uint8[2]; version 2 has"),
        (np.zeros((2, 2), int), 1, "MARKER", "version 2 has"),
        (np.zeros(2, ">f8"), 2, "VALUE", "newbyteorder"),
        (wire.KernelDescriptor("k", parameters={"grid": 1}), 2, "DUPLICATE", ""),
        (wire.KernelDescriptor("k", parameters={"": 1}), 2, "LIMIT", ""),
        (wire.KernelDescriptor("k", parameters={"n" * 256: 1}), 2, "LIMIT", ""),
        (wire.KernelDescriptor("k" * 256), 2, "LIMIT", ""),
        (wire.KernelDescriptor("a\0"), 2, "UTF8", ""),
        (wire.KernelDescriptor("\udc80"), 2, "UTF8", "udc80"),
        (wire.KernelDescriptor("k", (1, 2)), 2, "VALUE", "grid has 3 elements"),
        (wire.KernelDescriptor("k", parameters={str(i): i for i in range(510)}), 2, "LIMIT", "513 values"),
        (wire.NeuralNetwork((wire.Layer(np.ones((1, 1)), np.ones(1), "magic"),)), 2, "VALUE", "there are identity"),
        (wire.NeuralNetwork((wire.Layer(np.ones(1), np.ones(1)),)), 2, "MARKER", ""),
        (wire.TensorOperation("o", (wire.Operand((1,), "float99"),)), 2, "VALUE", "no element type 'float99'"),
        (wire.GpuBuffer(-1, 1), 2, "VALUE", "handle is -1"),
        (wire.GpuTexture(1, 1, 1, dtype="float99"), 2, "VALUE", "no element type"),
        (frames.nested(65), 2, "DEPTH", ""),
    ],
    ids=lambda it: None,
)
def test_a_value_that_has_no_frame(value: Any, version: int, code: str, words: str) -> None:
    error = refusal(encode, value, version=version)
    assert error.code == code, str(error)
    assert words in str(error)
    assert isinstance(error, NifLabError)
    assert isinstance(error, ValueError)


def test_a_record_that_contains_itself_is_refused() -> None:
    parameters: dict[str, Any] = {}
    parameters["self"] = wire.KernelDescriptor("k", parameters=parameters)
    assert refusal(encode, parameters["self"]).code == "DEPTH"


def test_there_is_no_big_endian() -> None:
    assert encode(1.0, endianness="little") == encode(1.0)
    assert "'big' is not offered" in str(refusal(encode, 1.0, endianness="big"))


def test_unknown_dialects_and_versions_are_named() -> None:
    assert "rust, zig, nim, julia" in str(refusal(encode, 1.0, "cobol"))
    assert "rust, zig, nim, julia" in str(refusal(decode, b"", "cobol"))
    assert refusal(decode, b"", version=3).code == "VERSION"
    assert "copy them" in str(refusal(decode, np.zeros(8, np.uint8)[::2]))


# XXH3


def test_xxh3_is_what_others_compute(rng: np.random.Generator) -> None:
    for n in [*range(260), 512, 1023, 1024, 1025, 1088, 2049, 16 * 1024, 262_145, 300_001]:
        data = rng.bytes(n)
        assert xxh3.xxh3_64(memoryview(data)) == xxhash.xxh3_64_intdigest(data), n


def test_another_xxh3_can_take_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encode(np.arange(100.0))
    seen = []

    def other(data: memoryview) -> int:
        seen.append(len(data))
        return xxhash.xxh3_64_intdigest(data)

    monkeypatch.setattr(xxh3, "implementation", other)
    assert encode(np.arange(100.0)) == expected
    assert sorted(seen) == [56, 800]
