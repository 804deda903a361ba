"""``nif-lab bench wire``: what a frame costs, to write and to read, beside other ways of turning an array into bytes.

Writing is compared with a bare copy of the bytes into memory that is warm, reading with `Wire.view`. Before anything
is timed every contender has read back what it wrote, and all codecs of one format have written the same bytes.
"""

from __future__ import annotations

import importlib
import io
import pickle
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import _core, wire
from ..flags import Flag
from ..wire.schema import LIVE
from .contender import WrongAnswer
from .measure import Loop, Times, interleave, quartiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..lab import Lab, LoadedBackend

__all__ = ["CASES", "PEERS", "Codec", "compare"]

#: What is written and read: shape and element type.
CASES: Final = {
    "10 x 10 f32": ((10, 10), "f4"),
    "100 x 100 f32": ((100, 100), "f4"),
    "100 x 100 f64": ((100, 100), "f8"),
    "1000 x 1000 f32": ((1000, 1000), "f4"),
    "1000 x 1000 f64": ((1000, 1000), "f8"),
    "64 MiB f64": ((2048, 4096), "f8"),
}

#: What one contender's turn takes, and the reference as long once more: each is to find its own caches.
LOOP_MS: Final = 8.0

NO_HANDLES: Final = np.empty((0, len(LIVE)), np.int64)
HEADER: Final = 64

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Codec:
    """One way of turning an array into bytes and back.

    Attributes
    ----------
    title
        What tables call it.
    format
        Whose bytes it writes; codecs of one format write the same.
    encode
        Takes an array and returns the call that is timed, which returns a frame; None: the format's first codec writes.
    decode
        Takes a frame and the array that is in it, and returns the call that is timed.
    nodes
        Whether what it reads is a node table.
    elsewhere
        Whether calls run on another thread, so that this one's processor time says nothing.
    """

    title: str
    format: str
    encode: Callable[[Array], Call] | None
    decode: Callable[[Any, Array], Call]
    nodes: bool = False
    elsewhere: bool = False

    def loop(self, call: Call) -> Loop:
        """Return a new loop around a call."""
        return Loop(call, clock=time.perf_counter_ns if self.elsewhere else time.thread_time_ns)


def _native(backend: LoadedBackend, checksum: bool) -> Codec:
    """Return a backend's own functions: what `lab.wire` calls, and nothing else."""

    def encode(x: Array) -> Call:
        nodes, data = wire.flatten(x)
        return partial(backend.encode, nodes, data, 0, 2, 8, checksum)

    return Codec(
        f"{backend.title}, {_kind(checksum)}",
        _kind(checksum),
        encode,
        lambda frame, _: partial(backend.decode, frame, 0, 0, NO_HANDLES),
        nodes=True,
        elsewhere=_elsewhere(backend),
    )


def _kind(checksum: bool) -> str:
    return "checksum" if checksum else "no checksum"


def _elsewhere(backend: LoadedBackend) -> bool:
    return bool(backend.functions["encode"].flags & Flag.THREAD_BOUND)


def _ours(lab: Lab) -> tuple[dict[str, Codec], dict[str, str]]:
    """Return the codecs of a Lab, and the backends that have none."""
    able = [it for it in lab.backends.values() if it.loaded and "encode" in it.functions]
    codecs = {  # first: what the natives write is compared with it
        "python": Codec(
            "Python's reference, no checksum",
            _kind(False),
            lambda x: lambda: np.frombuffer(wire.encode(x, checksum=False), np.uint8),
            lambda frame, _: partial(wire.decode, frame),
        )
    }
    for backend in able:
        codecs[backend.name] = _native(backend, checksum=False)
        codecs[f"{backend.name}_checksum"] = _native(backend, checksum=True)
    if able:
        codecs["lab"] = Codec(
            "lab.wire.encode, lab.wire.view; no checksum",
            _kind(False),
            lambda x: partial(lab.wire.encode, x, checksum=False),
            lambda frame, _: partial(lab.wire.view, frame),
        )
        codecs["lab_checksum"] = Codec(
            "lab.wire.encode, lab.wire.decode; checksum",
            _kind(True),
            lambda x: partial(lab.wire.encode, x),
            lambda frame, _: partial(lab.wire.decode, frame),
        )
    codecs["core"] = Codec(
        "the core's view_frame, no checksum", _kind(False), None, lambda frame, _: partial(_core.view_frame, frame)
    )
    codecs["frombuffer"] = Codec(
        "np.frombuffer, nothing checked",
        _kind(False),
        None,
        lambda frame, x: lambda: np.frombuffer(frame, x.dtype, x.size, HEADER).reshape(x.shape),
    )
    reasons = {it.name: it.reason or "it has no function 'encode'" for it in lab.backends.values() if it not in able}
    return codecs, reasons


def _pickle() -> Codec:
    return Codec(
        "pickle 5, in band; reading copies",
        "pickle",
        lambda x: partial(pickle.dumps, x, 5),
        lambda frame, _: partial(pickle.loads, frame),
    )


def _pickle_buffers() -> Codec:
    def encode(x: Array) -> Call:
        def dumps() -> tuple[bytes, list[pickle.PickleBuffer]]:
            buffers: list[pickle.PickleBuffer] = []
            return pickle.dumps(x, 5, buffer_callback=buffers.append), buffers

        return dumps

    return Codec(
        "pickle 5, out of band; writing copies nothing",
        "pickle_buffers",
        encode,
        lambda frame, _: lambda: pickle.loads(frame[0], buffers=frame[1]),  # noqa: S301 our own, of a moment ago
    )


def _pyarrow_tensor() -> Codec:
    pa = importlib.import_module("pyarrow")

    def encode(x: Array) -> Call:
        def write() -> Any:
            sink = pa.BufferOutputStream()
            pa.ipc.write_tensor(pa.Tensor.from_numpy(x), sink)
            return sink.getvalue()

        return write

    return Codec(
        "pyarrow, tensor",
        "pyarrow_tensor",
        encode,
        lambda frame, _: lambda: pa.ipc.read_tensor(pa.BufferReader(frame)).to_numpy(),
    )


def _pyarrow_batch() -> Codec:
    pa = importlib.import_module("pyarrow")

    def encode(x: Array) -> Call:
        def write() -> Any:
            batch = pa.record_batch([pa.array(x.ravel())], names=["x"])
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            return sink.getvalue()

        return write

    def decode(frame: Any, x: Array) -> Call:
        return lambda: pa.ipc.open_stream(frame).read_next_batch().column(0).to_numpy().reshape(x.shape)

    return Codec("pyarrow, record batch", "pyarrow_batch", encode, decode)


def _msgpack() -> Codec:
    msgpack = importlib.import_module("msgpack")
    return Codec(
        "msgpack of the bytes; reading copies",
        "msgpack",
        lambda x: lambda: msgpack.packb(x.data.cast("B")),
        lambda frame, x: lambda: np.frombuffer(msgpack.unpackb(frame), x.dtype).reshape(x.shape),
    )


def _safetensors() -> Codec:
    safetensors = importlib.import_module("safetensors.numpy")
    return Codec(
        "safetensors; reading copies",
        "safetensors",
        lambda x: lambda: safetensors.save({"x": x}),
        lambda frame, _: lambda: safetensors.load(frame)["x"],
    )


def _numpy() -> Codec:
    def encode(x: Array) -> Call:
        def save() -> memoryview:
            file = io.BytesIO()
            np.save(file, x)
            return file.getbuffer()

        return save

    return Codec("np.save, np.load; reading copies", "npy", encode, lambda frame, _: lambda: np.load(io.BytesIO(frame)))


#: Other libraries' ways.
PEERS: Final[dict[str, Callable[[], Codec]]] = {
    "pickle": _pickle,
    "pickle_buffers": _pickle_buffers,
    "pyarrow_tensor": _pyarrow_tensor,
    "pyarrow_batch": _pyarrow_batch,
    "msgpack": _msgpack,
    "safetensors": _safetensors,
    "npy": _numpy,
}


def compare(
    lab: Lab, rounds: int, seed: int, *, cases: Mapping[str, tuple[Any, str]] = CASES, loop_ms: float = LOOP_MS
) -> dict[str, Any]:
    """Time writing and reading by every codec, interleaved.

    Parameters
    ----------
    lab
        The backends that take part.
    rounds
        How often each contender has its turn.
    seed
        Of the order within the rounds, and of the numbers.
    cases
        Shapes and element types by name.
    loop_ms
        Milliseconds of one turn.

    Returns
    -------
    dict
        For each case ``encode`` and ``decode``, each with ``ns`` (median of a call), ``q1_ns``, ``q3_ns``, ``ratio``,
        ``ratio_q1`` and ``ratio_q3`` of every contender. Ratios are to ``memcpy`` (``np.copyto`` into a warm array,
        whose own ratio is the control) and to `Wire.view`. Besides ``titles`` and ``unavailable`` (who, and why).

    Raises
    ------
    WrongAnswer
        If a contender doesn't read what it wrote, or two codecs of one format write different bytes.
    """
    codecs, unavailable = _ours(lab)
    for name, make in PEERS.items():
        try:
            codecs[name] = make()
        except ImportError as error:
            unavailable[name] = str(error)
    order = random.Random(seed)  # noqa: S311 an order that can be repeated, no secret
    numbers = np.random.default_rng(seed)
    result: dict[str, Any] = {}
    for case, (shape, dtype) in cases.items():
        x = numbers.standard_normal(shape).astype(dtype)
        frames = _frames(codecs, x)
        warm = x.copy()
        writing = {it: codecs[it].loop(encode(x)) for it in codecs if (encode := codecs[it].encode)}
        writing["memcpy"] = Loop(np.copyto, warm, x)
        reading = {it: codecs[it].loop(codecs[it].decode(frames[codecs[it].format], x)) for it in codecs}
        view = Loop(lab.wire.view, frames[_kind(False)])
        result[case] = {
            "encode": _table(writing, Loop(np.copyto, warm, x), rounds, order, loop_ms),
            "decode": _table(reading, view, rounds, order, loop_ms),
        }
    result["titles"] = {"memcpy": "np.copyto into a warm array", **{name: it.title for name, it in codecs.items()}}
    result["unavailable"] = unavailable
    return result


def _frames(codecs: Mapping[str, Codec], x: Array) -> dict[str, Any]:
    """Check every codec; return a frame of each format."""
    frames: dict[str, Any] = {}
    for codec in codecs.values():
        frame = codec.encode(x)() if codec.encode else frames[codec.format]
        frames.setdefault(codec.format, frame)
        if isinstance(frame, np.ndarray) and not np.array_equal(frame, frames[codec.format]):
            raise WrongAnswer(f"{codec.title}: other bytes than those of the codecs before it")
        answer = codec.decode(frame, x)()
        if codec.nodes:
            answer = wire.build(answer, frame)
        if not isinstance(answer, np.ndarray) or answer.dtype != x.dtype or not np.array_equal(answer, x):
            raise WrongAnswer(f"{codec.title}: what it reads is not what it wrote")
    return frames


def _table(
    loops: Mapping[str, Loop], reference: Loop, rounds: int, order: random.Random, loop_ms: float
) -> dict[str, dict[str, float]]:
    aimed = {name: it.aim(loop_ms) for name, it in loops.items()}
    return {name: _row(it) for name, it in interleave(aimed, reference, rounds, order, loop_ms).items()}


def _row(times: Times) -> dict[str, float]:
    (low, median, high), (least, ratio, most) = quartiles(times.own), quartiles(times.own / times.reference)
    return {"ns": median, "q1_ns": low, "q3_ns": high, "ratio": ratio, "ratio_q1": least, "ratio_q3": most}
