"""Ways of getting an array into another process: what ``nif-lab bench transfer`` compares.

Each is a context manager that starts a receiver and yields a function: it gets an array there, where all of it is read,
and returns the sum that the receiver found. Whatever holds the array on its way is new each time, and gone afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .routes import SPAWN, end_with_parent

if TYPE_CHECKING:
    from ..lab import Lab

__all__ = ["CARRIERS", "Carrier", "Move", "ours"]

Vector = NDArray[np.float64]
#: Gets a float64 array of one axis into the other process and returns its sum.
Move = Callable[[Vector], float]
#: Starts a receiver, and yields what tables call this way and how it is gone.
Carrier = Callable[[], AbstractContextManager[tuple[str, Move]]]
#: How an array leaves: yields what the receiver is told, and keeps for so long what that leads to.
Send = Callable[[Vector], AbstractContextManager[bytes]]

ANSWER: Final = Struct("=d")
#: Room in Ray's store, in bytes: it frees objects some time after their last reference is gone.
STORE: Final = 512 << 20


def _serve(connection: Connection, read: Callable[[bytes], float]) -> None:
    end_with_parent()
    connection.send_bytes(b"ready")
    while True:
        connection.send_bytes(ANSWER.pack(read(connection.recv_bytes())))


@contextmanager
def _through(send: Send, read: Callable[[bytes], float]) -> Iterator[Move]:
    """Tell a receiver in Python of each array through a `multiprocessing.Pipe`."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(theirs, read), daemon=True)
    process.start()
    theirs.close()

    def move(x: Vector) -> float:
        with send(x) as message:
            ours.send_bytes(message)
            answer: float = ANSWER.unpack(ours.recv_bytes())[0]
            return answer

    try:
        ours.recv_bytes()
        yield move
    finally:
        process.kill()  # first, since it would complain of a closed pipe
        process.join()
        ours.close()


def _read_pickle(message: bytes) -> float:
    return float(pickle.loads(message).sum())  # noqa: S301 our own, of a moment ago


@contextmanager
def _pickle() -> Iterator[tuple[str, Move]]:
    with _through(lambda x: contextlib.nullcontext(pickle.dumps(x, 5)), _read_pickle) as move:
        yield "pickle 5 through multiprocessing.Pipe", move


@contextmanager
def _in_segment(x: Vector) -> Iterator[bytes]:
    segment = SharedMemory(create=True, size=x.nbytes)
    try:
        np.ndarray(x.shape, buffer=segment.buf)[...] = x
        yield segment.name.encode()
    finally:
        segment.close()
        segment.unlink()


def _read_segment(name: bytes) -> float:
    segment = SharedMemory(name.decode())
    try:
        return float(np.ndarray(segment.size // 8, buffer=segment.buf).sum())
    finally:
        segment.close()


@contextmanager
def _shared_memory() -> Iterator[tuple[str, Move]]:
    with _through(_in_segment, _read_segment) as move:
        yield "multiprocessing.shared_memory, a new segment each time", move


@contextmanager
def _in_file(pa: Any, x: Vector) -> Iterator[bytes]:
    descriptor = os.memfd_create("nif_lab bench transfer")  # a file of /dev/shm, but for the name
    try:
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        with pa.OSFile(path, "wb") as sink:
            pa.ipc.write_tensor(pa.Tensor.from_numpy(x), sink)
        yield path.encode()
    finally:
        os.close(descriptor)


def _read_file(path: bytes) -> float:
    pa = importlib.import_module("pyarrow")
    with pa.memory_map(path.decode()) as file:
        return float(pa.ipc.read_tensor(file).to_numpy().sum())


@contextmanager
def _pyarrow() -> Iterator[tuple[str, Move]]:
    pa = importlib.import_module("pyarrow")
    with _through(partial(_in_file, pa), _read_file) as move:
        yield f"pyarrow {pa.__version__} IPC, a tensor in a file in memory", move


class _Reader:
    """The receiver in Ray."""

    def read(self, x: Vector) -> float:
        return float(x.sum())


@contextmanager
def _ray() -> Iterator[tuple[str, Move]]:
    """Start a node of its own, whose files are gone with it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = importlib.import_module("ray")
    with tempfile.TemporaryDirectory(prefix="nif_lab", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            object_store_memory=STORE, _temp_dir=folder, _node_ip_address="127.0.0.1",
        )  # fmt: skip
        try:
            reader = ray.remote(_Reader).remote()

            def move(x: Vector) -> float:
                answer: float = ray.get(reader.read.remote(ray.put(x)))
                return answer

            yield f"Ray {ray.__version__}, put and an actor's get", move
        finally:
            ray.shutdown()


#: Other libraries' ways.
CARRIERS: Final[dict[str, Carrier]] = {
    "pickle": _pickle,
    "shared_memory": _shared_memory,
    "pyarrow": _pyarrow,
    "ray": _ray,
}


def ours(lab: Lab, x: Vector) -> dict[str, tuple[str, Callable[[], float]]]:
    """Return nif_lab's ways of having a worker read an array: one that lies in a pool, and one that doesn't."""
    read = lab.isolated.rust.sum
    pooled = lab.memory.empty(x.shape)
    pooled[...] = x
    return {
        "nif_lab": ("nif_lab, isolated lane, an array of lab.memory", partial(read, pooled)),
        "nif_lab_any": ("nif_lab, isolated lane, any array", partial(read, x)),
    }
