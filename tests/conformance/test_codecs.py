"""One protocol, five codecs: the natives against the Python reference, on good frames and bad ones."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import reference
from golden import frames as golden

from nif_lab import Lab, _core, wire
from nif_lab.errors import NifValueError
from nif_lab.wire.examples import LIVE as HANDLES
from nif_lab.wire.schema import ACTIVATIONS, COLUMNS, DIALECTS, DTYPES, LIVE

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RECORDS = [
    wire.NeuralNetwork(
        (
            wire.Layer(np.arange(6.0).reshape(2, 3), np.array([0.5, -1.0]), "relu"),
            wire.Layer(np.ones((1, 2), "f4"), np.zeros(1, "f4"), "sigmoid"),
        ),
        "net",
    ),
    wire.TensorOperation("matmul", (wire.Operand((3, 4), "float32"), wire.Operand((4, 0), "float64"))),
    wire.KernelDescriptor("dot", (1, 2, 3), (32, 1, 1), {"µ": 1.5, "n": 7, "x": np.arange(5.0), "flag": True}),
]
VALUES = [
    1.5, -3, True, np.float32(2.5), np.int32(-7), np.nan, -0.0,
    *(np.arange(n, dtype=t) for n in (0, 1, 7, 100) for t in ("f4", "f8", "i4", "i8", "c8", "c16")),
    *(np.arange(24, dtype=t).reshape(shape) for shape in ((4, 6), (2, 3, 4)) for t in ("f4", "f8")),
    np.zeros((0, 5)), np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    *RECORDS,
]  # fmt: skip
LAYOUTS = [*((dialect, 1, alignment) for dialect in DIALECTS for alignment in (1, 8, 64)), ("rust", 2, 8)]
NO_HANDLES = np.empty((0, len(LIVE)), np.int64)


def answer(function: Any, *arguments: Any) -> Any:
    """Return what a codec says: the bytes or numbers, or the refusal's text."""
    try:
        return np.asarray(function(*arguments))
    except Exception as error:  # both sides' refusals are compared as text
        text = getattr(error, "reason", None) or str(error)
        detail = getattr(error, "detail", "")
        return text.removesuffix(f": {detail}") if isinstance(error, wire.WireError) else text


@functools.cache
def by_reference(frame: bytes, dialect: str, version: int, live: bytes) -> Any:
    """Return what the reference reads: once for all languages, since it is the slowest of them."""
    rows = np.frombuffer(live, np.int64).reshape(-1, len(LIVE)).tolist()
    return answer(wire.decode_nodes, np.frombuffer(frame, np.uint8), dialect, version, rows)


@functools.cache
def written_by_reference(nodes: bytes, data: bytes, *options: Any) -> Any:
    """Return what the reference writes; also once."""
    table = np.frombuffer(nodes, np.int64).reshape(-1, len(COLUMNS))
    *given, checksum = options

    def encode() -> np.ndarray:
        frame = wire.encode_nodes(table, np.frombuffer(data, np.uint8), *given, checksum=checksum)
        return np.frombuffer(frame, np.uint8)

    return answer(encode)


def check_decode(backend: LoadedBackend, frame: np.ndarray, dialect: str, version: int, live: np.ndarray) -> None:
    """Fail unless a native codec and the reference say the same of a frame."""
    native = answer(backend.decode, frame, DIALECTS[dialect].code, version, live)
    expected = by_reference(frame.tobytes(), dialect, version, live.tobytes())
    if isinstance(native, str) or isinstance(expected, str):
        assert native is expected or str(native) == str(expected), (frame.tobytes().hex(), dialect, version)
    else:
        assert np.array_equal(native, expected), (frame.tobytes().hex(), dialect, version)


@functools.cache
def frames() -> list[tuple[np.ndarray, str, int]]:
    """Make a frame of every value in every layout that has it."""
    made = []
    for value in VALUES:
        for dialect, version, alignment in LAYOUTS:
            for checksum in (True, False) if version == 2 else (True,):
                try:
                    frame = wire.encode(value, dialect, version, alignment, checksum=checksum)
                except wire.WireError:
                    continue  # version 1 has no such type
                made.append((np.frombuffer(frame, np.uint8), dialect, version))
    return made


def test_golden_frames_are_read_alike(backend: LoadedBackend) -> None:
    files = sorted(GOLDEN.glob("*.bin"))
    assert files
    index = json.loads((GOLDEN / "index.json").read_text("utf-8"))
    assert len(index) >= len(files)
    for file in files:
        frame = np.fromfile(file, np.uint8)
        for dialect in DIALECTS:
            for version in (0, 1, 2):
                check_decode(backend, frame, dialect, version, NO_HANDLES)


def test_golden_frames_good_and_bad_are_judged_as_the_document_says(backend: LoadedBackend) -> None:
    """The node table, or the error's text, place included."""
    different = []
    for it in [*golden.good(), *golden.bad()]:
        frame = np.frombuffer(it.frame, np.uint8)
        try:
            found = backend.decode(frame, DIALECTS[it.dialect].code, it.version, np.array(HANDLES, np.int64)).tolist()
        except NifValueError as error:
            found = error.reason
        if found != golden.said(it):
            different.append((it.name, found, golden.said(it)))
    assert not different


def test_every_value_is_written_alike(backend: LoadedBackend) -> None:
    for value in VALUES:
        for dialect, version, alignment in LAYOUTS:
            nodes, data = wire.flatten(value, dialect, version)
            data = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data
            for checksum in (True, False):
                native = answer(backend.encode, nodes, data, DIALECTS[dialect].code, version, alignment, checksum)
                expected = written_by_reference(
                    nodes.tobytes(), data.tobytes("A"), dialect, version, alignment, checksum
                )
                if isinstance(expected, str):
                    assert native == expected
                else:
                    lead = len(native) - len(expected)
                    assert 0 <= lead < 64
                    assert not native[:lead].any()
                    assert np.array_equal(native[lead:], expected)


def test_every_frame_is_read_alike(backend: LoadedBackend) -> None:
    for frame, dialect, version in frames():
        for asked in (version, 0):
            check_decode(backend, frame, dialect, asked, NO_HANDLES)
        for other in DIALECTS:
            check_decode(backend, frame, other, version, NO_HANDLES)


def test_every_beginning_of_a_frame_is_refused_alike(backend: LoadedBackend) -> None:
    for frame, dialect, version in frames()[::3]:
        for length in range(min(len(frame), 200)):
            check_decode(backend, frame[:length].copy(), dialect, version, NO_HANDLES)


def test_damaged_frames_are_judged_alike(backend: LoadedBackend, same_rng: np.random.Generator) -> None:
    """Single bytes changed, added, taken away: the codecs agree on code and place."""
    whole, rng = frames(), same_rng
    for _ in range(4000):
        frame, dialect, version = whole[rng.integers(len(whole))]
        damaged = frame.copy()
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(min(len(damaged), 150)) if rng.random() < 0.8 else rng.integers(len(damaged))
            damaged[at] = rng.choice([0, 1, 2, 8, 63, 64, 127, 128, 255, rng.integers(256)])
        if rng.random() < 0.2:
            damaged = np.append(damaged, rng.integers(256, dtype=np.uint8))
        check_decode(backend, damaged, dialect, version, NO_HANDLES)


def test_damaged_tables_are_judged_alike(backend: LoadedBackend, same_rng: np.random.Generator) -> None:
    rng = same_rng
    odd = np.array([-(2**63), -1, 0, 1, 2, 3, 4, 5, 16, 255, 256, 2**31, 2**40, 2**40 + 1, 2**62, 2**63 - 1])
    for _ in range(2000):
        dialect, version, alignment = LAYOUTS[rng.integers(len(LAYOUTS))]
        nodes, data = wire.flatten(VALUES[rng.integers(len(VALUES))], dialect, version)
        data = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data
        nodes = nodes.copy()
        for _ in range(rng.integers(1, 3)):
            nodes[rng.integers(len(nodes)), rng.integers(len(COLUMNS))] = rng.choice(odd)
        native = answer(backend.encode, nodes, data, DIALECTS[dialect].code, version, alignment, False)
        expected = written_by_reference(nodes.tobytes(), data.tobytes("A"), dialect, version, alignment, False)
        if isinstance(expected, str) or isinstance(native, str):
            assert str(native) == str(expected), (nodes.tolist(), dialect, version)
        else:
            assert np.array_equal(native[len(native) - len(expected) :], expected)


def test_handles_are_looked_up_alike(backend: LoadedBackend) -> None:
    live = np.array([[5, 3, 1000, 0], [6, 0, 50, 1], [7, 9, 4096, 2]])
    for slot, generation, size, device in (
        (5, 3, 1000, 0), (5, 3, 1001, 0), (5, 2, 10, 0), (5, 3, 10, 1), (6, 0, 10, 1), (8, 1, 1, 0), (7, 9, 0, 2),
    ):  # fmt: skip
        for version in (1, 2):
            buffer = wire.GpuBuffer(slot | generation << 32, size, device)
            frame = np.frombuffer(wire.encode(buffer, "rust", version), np.uint8)
            check_decode(backend, frame, "rust", version, live)


def test_the_same_at_every_address(backend: LoadedBackend) -> None:
    for frame, dialect, version in frames()[::11]:
        room = np.zeros(len(frame) + 64, np.uint8)
        for shift in range(64):
            room[shift : shift + len(frame)] = frame
            check_decode(backend, room[shift : shift + len(frame)], dialect, version, NO_HANDLES)


def test_lab_wire_goes_through_any_codec(lab: Lab, backend: LoadedBackend) -> None:
    for value in VALUES:
        for dialect, version in (("rust", 1), ("zig", 1), ("nim", 1), ("julia", 1), ("rust", 2)):
            try:
                frame = lab.wire.encode(value, dialect, version, by=backend.name)
            except wire.WireError as refused:
                with pytest.raises(wire.WireError, match=refused.code):
                    lab.wire.encode(value, dialect, version, by="python")
                continue
            assert frame.tobytes() == lab.wire.encode(value, dialect, version, by="python").tobytes()
            again = lab.wire.decode(frame, dialect, version, by=backend.name)
            expected = lab.wire.decode(frame, dialect, version, by="python")
            assert repr(again) == repr(expected)
            if isinstance(again, np.ndarray) and again.size:
                assert np.shares_memory(again, frame), "a view, no copy"
                assert again.ctypes.data % 64 == 0
    with pytest.raises(wire.WireError) as wrong:
        lab.wire.decode(np.zeros(100, np.uint8), version=2, by=backend.name)
    assert (wrong.value.code, wrong.value.offset) == ("VERSION", 0)


def test_meaning_survives(lab: Lab, backend: LoadedBackend, rng: np.random.Generator) -> None:
    """A network encoded by one language runs in every other; a descriptor names a kernel that can be called."""
    network = wire.NeuralNetwork(
        (
            wire.Layer(rng.normal(size=(5, 3)), rng.normal(size=5), "relu"),
            wire.Layer(rng.normal(size=(4, 5)), rng.normal(size=4), "tanh"),
            wire.Layer(rng.normal(size=(3, 4)).astype("f4"), rng.normal(size=3).astype("f4"), "softmax"),
        ),
        "classifier",
    )
    x = rng.normal(size=3)
    expected = x
    for layer in network.layers:
        expected = reference.forward(layer.weights, layer.bias, expected, ACTIVATIONS.index(layer.activation))
    vector = rng.normal(size=20)
    descriptor = wire.KernelDescriptor("dot", parameters={"x": vector, "y": vector})
    for dialect, version in (("rust", 1), ("zig", 1), ("nim", 1), ("julia", 1), ("rust", 2)):
        frame = lab.wire.encode(network, dialect, version, by=backend.name)
        launched = lab.wire.encode(descriptor, dialect, version, by=backend.name)
        for other in lab.backends:
            np.testing.assert_allclose(lab.wire.forward(frame, x, other, dialect), expected, rtol=1e-6)
            assert lab.wire.launch(launched, other, dialect) == pytest.approx(vector @ vector)
    with pytest.raises(TypeError, match="expected a neural network"):
        lab.wire.forward(launched, x, backend.name)


def test_payloads_of_any_length_are_summed_while_they_are_written(
    lab: Lab, backend: LoadedBackend, rng: np.random.Generator
) -> None:
    """Around the lengths at which XXH3 changes, and in records, whose pieces begin anywhere in a block."""
    for size in (0, 1, 16, 17, 128, 129, 240, 241, 1023, 1024, 1025, 4096, 4097, 40_000):
        x = rng.integers(0, 256, size, np.uint8)
        frame = lab.wire.encode(x, by=backend.name)
        assert frame.tobytes() == wire.encode(x), size
    for rows in (3, 40, 90):
        layers = (wire.Layer(rng.normal(size=(rows, 60)), rng.normal(size=rows), "relu"),)
        layers += (wire.Layer(rng.normal(size=(7, rows)), rng.normal(size=7)),)
        network = wire.NeuralNetwork(layers, "n" * rows)
        frame = lab.wire.encode(network, by=backend.name)
        assert frame.tobytes() == wire.encode(network), rows
        frame[-1] ^= 1
        with pytest.raises(wire.WireError, match="CHECKSUM"):
            lab.wire.decode(frame, by=backend.name)


def aligned(frame: bytes) -> np.ndarray:
    """Copy a frame to where the core would take it for a view."""
    room = np.empty(len(frame) + 64, np.uint8)
    octets = room[-room.ctypes.data % 64 :][: len(frame)]
    octets[:] = np.frombuffer(frame, np.uint8)
    return octets


def test_no_bad_frame_is_a_view() -> None:
    """The core's own reader, which takes the frames that are arrays."""
    for name, it in json.loads((GOLDEN / "bad.json").read_text("utf-8")).items():
        frame = aligned(bytes.fromhex(it["frame"]))
        assert _core.view_frame(frame) is None, name


def test_a_shape_that_cannot_be_is_no_view() -> None:
    """Also where a 0 among the dimensions would hide it."""
    frame = bytearray(wire.encode(np.zeros((0, 5, 1, 1), "u1"), version=2, checksum=False))
    for axis, length in enumerate((0, 2**40, 2**40, 1)):
        frame[16 + 8 * axis : 24 + 8 * axis] = length.to_bytes(8, "little")
    octets = aligned(bytes(frame))
    assert _core.view_frame(octets) is None
    with pytest.raises(wire.WireError, match="OVERFLOW"):
        wire.decode(octets, version=2)


#: Codec, dialect, version, alignment, endianness: what `lab.wire.encode` takes unless told.
CHOICES = ("auto", "rust", 2, 8, "little")


def test_the_core_writes_what_the_reference_writes(lab: Lab, rng: np.random.Generator) -> None:
    memory = lab.memory.core
    for dtype in sorted({it.name for it in DTYPES.values()} - {"bool"}):
        for shape in ((), (0,), (1,), (700,), (3, 0), (40, 50), (2, 3, 4), (2, 3, 4, 5)):
            for order in ("C", "F"):
                x = np.asarray(np.abs(rng.normal(size=shape)) * 9, order=order).astype(dtype)
                for summed in (False, True):
                    frame = _core.encode_frame(memory, x, summed, *CHOICES)
                    assert frame is not None
                    assert frame.tobytes() == wire.encode(x, checksum=summed), (dtype, shape, order, summed)
                    view = _core.view_frame(frame)
                    assert view is not None
                    assert (view.dtype, view.shape) == (x.dtype, x.shape)
                    assert view.tobytes() == x.tobytes()
                    assert not x.size or np.shares_memory(view, frame)


def test_what_the_core_does_not_write_is_left_to_the_codecs(lab: Lab) -> None:
    odd = (np.ones(3, bool), np.arange(6.0)[::2], np.ones(3, ">f8"), np.ones((1,) * 5), np.array(["a"]), [1.0], 1.0)
    for value in odd:
        assert _core.encode_frame(lab.memory.core, value, True, *CHOICES) is None, repr(value)
    for place, choice in (
        (0, "rust"),
        (1, "ruby"),
        (1, np.ones(2)),
        (2, 1),
        (2, 2.0),
        (3, 16),
        (3, 2**70),
        (4, "big"),
        (4, None),
    ):
        choices = [*CHOICES[:place], choice, *CHOICES[place + 1 :]]
        assert _core.encode_frame(lab.memory.core, np.ones(3), True, *choices) is None, choices
    for value in odd[:2]:
        np.testing.assert_array_equal(lab.wire.decode(lab.wire.encode(value)), value)


def test_a_damaged_frame_is_no_view(lab: Lab, rng: np.random.Generator) -> None:
    """One bit of it, anywhere: its checksum is computed before anything of it is handed out."""
    frame = lab.wire.encode(rng.normal(size=1000))
    for place in (*range(64), *rng.integers(64, frame.size, 40)):
        damaged = aligned(frame.tobytes())
        damaged[place] ^= 1 << (place % 8)
        assert _core.view_frame(damaged) is None, place
        with pytest.raises(wire.WireError):
            lab.wire.decode(damaged, version=2)
