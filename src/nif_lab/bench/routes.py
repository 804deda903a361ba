"""Ways to a function in another process and back: what ``nif-lab bench lane`` compares.

Each is a context manager that starts its server, yields a `Route` and ends the server. The operands of ``dot`` lie in
memory that all servers map, so what travels is which function to call, and its answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import mmap
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from itertools import repeat
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from struct import Struct
from types import FunctionType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .contender import Contender, operands
from .peers import Workshop
from .peers.workshop import HERE

__all__ = ["KERNELS", "ROUTES", "SPAWN", "Route", "Way", "end_with_parent", "shared_operands"]

#: What is called; the servers number it so.
KERNELS: Final = ("noop", "dot")

#: A fresh process knows nothing of this one's threads and descriptors.
SPAWN: Final = multiprocessing.get_context("spawn")

#: How an answer travels.
ANSWER: Final = Struct("=d")

#: How long an answer may take before its server counts as lost.
LOST_S: Final = 10.0

Vector = NDArray[np.float64]
Call = Callable[..., Any]
#: Makes so many calls and returns the nanoseconds of each: int64, shape (count,).
Times = Callable[[int], NDArray[np.int64]]


def _stamps0(count: int, call: Call) -> list[int]:
    clock = time.perf_counter_ns
    stamps = [clock()]
    note = stamps.append
    for _ in repeat(None, count):
        call()
        note(clock())
    return stamps


def _stamps2(count: int, call: Call, x: Any, y: Any) -> list[int]:
    clock = time.perf_counter_ns
    stamps = [clock()]
    note = stamps.append
    for _ in repeat(None, count):
        call(x, y)
        note(clock())
    return stamps


def _timed(call: Call, arguments: tuple[Any, ...]) -> Times:
    stamps: Any = _stamps2 if arguments else _stamps0
    # Code of its own, as each `measure.Loop` has.
    loop = FunctionType(stamps.__code__.replace(), stamps.__globals__)
    return lambda count: np.diff(loop(count, call, *arguments))


@dataclass(frozen=True, slots=True)
class Route:
    """One way to a function in another process.

    Attributes
    ----------
    contender
        How a single call of ``noop`` and of ``dot`` is made.
    times
        What makes many calls of either, and times each.
    poller
        The server's process id if it polls, and so has to be stopped while others have their turn.
    """

    contender: Contender
    times: Mapping[str, Times]
    poller: int | None = None

    @classmethod
    def of(cls, name: str, title: str, noop: Call, dot: Call, *arguments: Any, poller: int | None = None) -> Route:
        """Take two functions of Python, and what ``dot`` is called with."""
        calls = {"noop": (noop, ()), "dot": (dot, arguments)}
        return cls(Contender(name, title, calls), {it: _timed(*calls[it]) for it in calls}, poller)

    def turn(self, kernel: str, count: int, warm: int) -> NDArray[np.int64]:
        """Make some calls that don't count, then those that do; return the nanoseconds of each of these."""
        with self.awake():
            self.times[kernel](warm)
            return self.times[kernel](count)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let a server that polls run for a while."""
        if self.poller:
            os.kill(self.poller, signal.SIGCONT)
        try:
            yield
        finally:
            if self.poller:
                os.kill(self.poller, signal.SIGSTOP)


#: Yields a route for operands in shared memory: the two vectors, and the path by which another process opens them.
Way = Callable[[Vector, str], contextlib.AbstractContextManager[Route]]


@contextmanager
def shared_operands() -> Iterator[tuple[Vector, str]]:
    """Yield the operands of ``dot`` in shared memory: float64, shape (2, 100), and their path for other processes."""
    descriptor = os.memfd_create("nif_lab bench lane")
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        both = _mapped(path)
        both[...] = operands()
        yield both, path
    finally:
        os.close(descriptor)


def _mapped(path: str) -> Vector:
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), mmap.PAGESIZE), count=200).reshape(2, 100)


#: For servers, which see one path in their lives.
_opened = cache(_mapped)


def _noop() -> None:
    pass


def _dot(path: str) -> float:
    x, y = _opened(path)
    return float(x @ y)


def end_with_parent() -> None:
    """Let this process of `SPAWN` be killed when its parent ends, however that happens."""
    death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
    ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent and parent.pid != os.getppid():
        os._exit(1)  # it ended before


@contextmanager
def _server(serve: Callable[..., None], *arguments: Any) -> Iterator[BaseProcess]:
    """Run a server in a Python of its own, from when it says that it is ready."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=serve, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield process
    finally:
        ours.close()
        process.kill()
        process.join()


@contextmanager
def _child(pid: int) -> Iterator[int]:
    """Kill a server that was forked, in the end."""
    if pid < 0:
        raise OSError("a server can't be forked: no memory, or too many processes")
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@cache
def _library() -> ctypes.CDLL:
    workshop = Workshop()
    path = workshop.made(
        "lane", ["lane.c", "kernel.h"], lambda folder: workshop.compile(folder / "lane", [HERE / "lane.c"]), always=True
    )
    library = ctypes.CDLL(str(path))
    library.serve_lane.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    library.serve_pipes.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    library.call_lane.argtypes = (
        ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_ssize_t, ctypes.c_void_p
    )  # fmt: skip
    library.call_lane.restype = ctypes.c_double
    return library


@contextmanager
def _c(both: Vector, _: str, *, spins: bool) -> Iterator[Route]:
    """Two processes in C, and a word of shared memory for each direction."""
    library = _library()
    page = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.uint8)
    lane = page.ctypes.data
    with _child(library.serve_lane(lane, spins, both.ctypes.data)) as pid:

        def times(number: int, count: int) -> NDArray[np.int64]:
            stamps = np.empty(count + 1, np.int64)
            library.call_lane(lane, spins, number, count, stamps.ctypes.data)
            return np.diff(stamps)

        def ask(number: int) -> float | None:
            stamps = np.empty(2, np.int64)
            answer: float = library.call_lane(lane, spins, number, 1, stamps.ctypes.data)
            return answer if number else None

        name, title = ("spin", "C, shared memory, spinning") if spins else ("futex", "C, shared memory, futex")
        yield Route(
            Contender(name, title, {kernel: (ask, (number,)) for number, kernel in enumerate(KERNELS)}),
            {kernel: partial(times, number) for number, kernel in enumerate(KERNELS)},
            poller=pid if spins else None,
        )


@contextmanager
def _pipes(both: Vector, _: str) -> Iterator[Route]:
    """Two pipes from Python to a server in C."""
    from_us, to_it = os.pipe()
    from_it, to_us = os.pipe()
    with contextlib.ExitStack() as stack:
        for descriptor in (from_us, to_it, from_it, to_us):
            stack.callback(os.close, descriptor)
        stack.enter_context(_child(_library().serve_pipes(from_us, to_us, both.ctypes.data)))

        def noop() -> None:
            os.write(to_it, b"\0")
            os.read(from_it, 8)

        def dot() -> float:
            os.write(to_it, b"\1")
            answer: float = ANSWER.unpack(os.read(from_it, 8))[0]
            return answer

        yield Route.of("pipe", "os.pipe, Python to a server in C", noop, dot)


def _serve_zmq(ready: Connection, address: str, path: str) -> None:
    end_with_parent()
    zmq = importlib.import_module("zmq")
    socket = zmq.Context().socket(zmq.REP)
    socket.bind(address)
    ready.send(None)
    while True:
        socket.send(ANSWER.pack(_dot(path)) if socket.recv() == b"\1" else b"")


@contextmanager
def _zmq(_: Vector, path: str) -> Iterator[Route]:
    """REQ and REP; the socket's name is an abstract one, which is no file."""
    zmq = importlib.import_module("zmq")
    address = f"ipc://@nif_lab-bench-{os.getpid()}"
    with _server(_serve_zmq, address, path), zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.set(zmq.RCVTIMEO, round(LOST_S * 1000))
        socket.set(zmq.LINGER, 0)
        socket.connect(address)

        def noop() -> None:
            socket.send(b"\0")
            socket.recv()

        def dot() -> float:
            socket.send(b"\1")
            answer: float = ANSWER.unpack(socket.recv())[0]
            return answer

        yield Route.of("zmq", f"pyzmq {zmq.__version__}, REQ and REP, Python to Python", noop, dot)


def _iceoryx_service(prefix: str, folder: str) -> tuple[Any, Any]:
    """Return a node with files of its own, and its service."""
    iox2 = importlib.import_module("iceoryx2")
    iox2.set_log_level(iox2.LogLevel.Error)
    config = iox2.config.global_config()
    config.global_cfg.prefix = iox2.FileName.new(prefix)
    config.global_cfg.root_path = iox2.Path.new(folder)
    node = iox2.NodeBuilder.new().config(config).create(iox2.ServiceType.Ipc)
    builder = node.service_builder(iox2.ServiceName.new("bench lane"))
    return node, builder.request_response(ctypes.c_uint64, ctypes.c_double).open_or_create()


def _serve_iceoryx(ready: Connection, prefix: str, folder: str, path: str) -> None:
    end_with_parent()
    _node, service = _iceoryx_service(prefix, folder)
    server = service.server_builder().create()
    ready.send(None)
    while True:
        if (request := server.receive()) is not None:
            number = request.payload().contents.value
            request.send_copy(ctypes.c_double(_dot(path) if number else 0.0))
            request.delete()


@contextmanager
def _iceoryx(_: Vector, path: str) -> Iterator[Route]:
    """Request and response, both sides polling."""
    version = metadata.version("iceoryx2")
    prefix = f"nif_lab_{os.getpid()}_"
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.callback(_remove, prefix)
        process = stack.enter_context(_server(_serve_iceoryx, prefix, folder, path))
        _node, service = _iceoryx_service(prefix, folder)
        client = service.client_builder().create()

        def ask(number: int) -> float:
            pending = client.send_copy(ctypes.c_uint64(number))
            while (response := pending.receive()) is None:
                pass
            answer: float = response.payload().contents.value
            response.delete()
            pending.delete()
            return answer

        def noop() -> None:
            ask(0)

        title = f"iceoryx2 {version}, polling, Python to Python"
        yield Route.of("iceoryx2", title, noop, partial(ask, 1), poller=process.pid)


def _remove(prefix: str) -> None:
    """Unlink the shared memory of a server that was killed."""
    for path in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108
        path.unlink()


@contextmanager
def _executor(_: Vector, path: str) -> Iterator[Route]:
    with ProcessPoolExecutor(1, SPAWN, initializer=end_with_parent) as pool:

        def noop() -> None:
            pool.submit(_noop).result(LOST_S)

        def dot() -> float:
            return pool.submit(_dot, path).result(LOST_S)

        yield Route.of("executor", "ProcessPoolExecutor, submit(f).result()", noop, dot)


@contextmanager
def _ours(both: Vector, _: str) -> Iterator[Route]:
    from ..lab import Lab

    lab = Lab(["rust"])
    x, y = lab.memory.empty(100), lab.memory.empty(100)
    x[...], y[...] = both
    rust = lab.isolated.rust
    yield Route.of("nif_lab", "nif_lab rust, isolated lane, monitored", rust.noop, rust.dot, x, y)


#: Everybody. Those in C fork their servers, so they come before the packages that start threads.
ROUTES: Final[dict[str, Way]] = {
    "spin": partial(_c, spins=True),
    "futex": partial(_c, spins=False),
    "pipe": _pipes,
    "nif_lab": _ours,
    "zmq": _zmq,
    "iceoryx2": _iceoryx,
    "executor": _executor,
}
