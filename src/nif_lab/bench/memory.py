"""``nif-lab bench memory``: what an array of the pools costs, in time and in bytes.

Times are of an allocation together with its release, beside NumPy's own and the two ways in which Python gets memory
that processes can share. Bytes are counted at the peak of a trace: which sizes live for how long, in which order. One
trace is of log-normal sizes; the other was recorded from the project's demo and notebooks by `record`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gzip
import importlib
import io
import json
import math
import mmap
import random
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import numpy as np

from ..memory import MemoryManager
from .contender import WrongAnswer
from .measure import Loop, interleave, quartiles

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

__all__ = ["CONTENDERS", "SIZES", "Trace", "compare", "lognormal", "overhead", "record", "recorded", "replay"]

#: What is allocated, in bytes.
SIZES: Final = {"1KiB": 1 << 10, "64KiB": 64 << 10, "1MiB": 1 << 20, "64MiB": 64 << 20}

#: Who takes part, and how tables call them.
CONTENDERS: Final = {
    "pool": "lab.memory.empty",
    "numpy": "np.empty",
    "shared_memory": "SharedMemory, unlinked",
    "mmap": "mmap.mmap(-1, n)",
}

#: What one contender's turn takes, and the reference as long once more. Large arrays sweep the processor's caches: a
#: shorter turn would show what the one before it left behind.
LOOP_MS: Final = 8.0

#: Elements of float64 from one page to the next.
STEP: Final = mmap.PAGESIZE // 8

#: Blocks from this size on are also counted by themselves.
LARGE: Final = 64 << 10

RECORDED: Final = Path(__file__).with_name("trace_notebooks.csv.gz")

#: Where NumPy's table of C functions has ``PyDataMem_SetHandler``, since 1.22.
SET_HANDLER: Final = 304

Vector = np.ndarray[Any, np.dtype[np.float64]]
Make = Callable[[int], Vector]
Use = Callable[[Vector], None]


def _numpy(count: int, use: Use) -> None:
    use(np.empty(count))


def _mapped(count: int, use: Use) -> None:
    use(np.frombuffer(mmap.mmap(-1, 8 * count)))


def _shared(count: int, use: Use | None = None) -> None:
    memory = SharedMemory(create=True, size=8 * count)
    memory.unlink()
    if use:
        use(np.ndarray(count, buffer=memory.buf))
    memory.close()


def _touch(values: Vector) -> None:
    values[::STEP] = 1.0


def _verify(values: Vector, count: int, name: str) -> None:
    """Write every element and read it back."""
    numbers = np.arange(count, dtype=np.float64)
    values[...] = numbers
    if not np.array_equal(values, numbers):
        raise WrongAnswer(f"{CONTENDERS[name]}: {8 * count} bytes don't read back as they were written")


def compare(make: Make, rounds: int, seed: int, loop_ms: float = LOOP_MS) -> dict[str, Any]:
    """Compare the time of an allocation and its release.

    Parameters
    ----------
    make
        ``lab.memory.empty``.
    rounds
        How many, the contenders interleaved, each framed by ``np.empty``.
    seed
        Of their order.
    loop_ms
        Milliseconds of processor time of one loop.

    Returns
    -------
    dict
        For each of `SIZES`: ``untouched`` and ``touched`` (one element of each page is written), each with ``ns``
        (median), ``q1_ns`` and ``q3_ns`` of every contender; and ``ratio_to_numpy``, the same two with ``ratio``,
        ``q1`` and ``q3``. ``shared_memory`` and ``mmap`` make no array of what they don't touch.

    Raises
    ------
    WrongAnswer
        If memory doesn't keep what is written into it.
    """

    def pool(count: int, use: Use) -> None:  # with code of its own: see `Loop`
        use(make(count))

    using: dict[str, Callable[[int, Use], None]] = {
        "pool": pool,
        "numpy": _numpy,
        "shared_memory": _shared,
        "mmap": _mapped,
    }
    order = random.Random(seed)  # noqa: S311
    result: dict[str, Any] = {}
    for size, nbytes in SIZES.items():
        count = nbytes // 8
        for name, use in using.items():
            use(count, functools.partial(_verify, count=count, name=name))
        untouched = {
            "pool": Loop(make, count),
            "numpy": Loop(np.empty, count),
            "shared_memory": Loop(_shared, count),
            "mmap": Loop(mmap.mmap, -1, nbytes),
        }
        touched = {name: Loop(use, count, _touch) for name, use in using.items()}
        references = Loop(np.empty, count), Loop(_numpy, count, _touch)
        result[size] = {"ratio_to_numpy": {}}
        for how, loops, reference in zip(("untouched", "touched"), (untouched, touched), references, strict=True):
            times = interleave({name: it.aim(loop_ms) for name, it in loops.items()}, reference, rounds, order, loop_ms)
            result[size][how] = {name: _spread(it.own, "ns", "_ns") for name, it in times.items()}
            ratios = {name: _spread(it.own / it.reference, "ratio") for name, it in times.items()}
            result[size]["ratio_to_numpy"][how] = ratios
    return result


def _spread(values: NDArray[np.float64], name: str, unit: str = "") -> dict[str, float]:
    low, median, high = quartiles(values)
    return {name: median, f"q1{unit}": low, f"q3{unit}": high}


@dataclass(frozen=True, slots=True)
class Trace:
    """Allocations in their order.

    Attributes
    ----------
    sizes
        In bytes: int64, shape (n,).
    ends
        The number of the allocation before which each is released; n or more for what is never released: int64,
        shape (n,).
    """

    sizes: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, sizes: NDArray[np.int64], lifetimes: NDArray[np.int64]) -> Trace:
        """Count each lifetime in allocations that are made meanwhile; 0 is released before the next."""
        return cls(sizes, np.arange(1, len(sizes) + 1) + lifetimes)

    def at_least(self, nbytes: int) -> Trace:
        """Return the allocations of this size or more, as if the others had never been."""
        kept = self.sizes >= nbytes
        before = np.concatenate([[0], np.cumsum(kept)])
        return Trace(self.sizes[kept], before[np.minimum(self.ends, len(kept))][kept])

    def live(self) -> NDArray[np.int64]:
        """Return the bytes that are live just after each allocation: int64, shape (n,)."""
        change = self.sizes.copy()
        ended = self.ends < len(self.sizes)
        np.subtract.at(change, self.ends[ended], self.sizes[ended])
        return np.cumsum(change)


def lognormal(seed: int, count: int = 6000, alive: int = 2000) -> Trace:
    """Return sizes around 16 KiB, up to 64 MiB, that live for ``alive`` allocations on average."""
    draw = np.random.default_rng(seed)
    sizes = np.clip(draw.lognormal(math.log(16 << 10), 2.0, count), 1, 64 << 20)
    return Trace.of(sizes.astype(np.int64), draw.exponential(alive, count).astype(np.int64))


def recorded() -> Trace:
    """Return what `record` wrote: every NumPy array of the demo and of the notebooks."""
    sizes, lifetimes = np.loadtxt(RECORDED, dtype=np.int64, delimiter=",", unpack=True)
    return Trace.of(sizes, lifetimes)


def overhead(seed: int) -> dict[str, Any]:
    """Count what the pools take beyond what was asked for.

    Returns
    -------
    dict
        ``overhead``: for each trace what `replay` returns, of ``all`` blocks and of ``large`` ones, 64 KiB and up.
    """
    traces = {"recorded": recorded(), "lognormal": lognormal(seed)}
    counted = {name: {"all": replay(it), "large": replay(it.at_least(LARGE))} for name, it in traces.items()}
    return {"overhead": counted}


def replay(trace: Trace) -> dict[str, Any]:
    """Make all arrays of a trace up to its peak, write all their bytes, and count.

    Returns
    -------
    dict
        ``allocations`` so far; ``blocks`` alive, their ``requested`` bytes, and ``metadata_per_block`` in bytes;
        ``percent``, (committed - cached + metadata - requested) / requested; the same with what is cached in free
        blocks, ``untrimmed_percent``, and once that was given back, ``trimmed_percent``.

    Raises
    ------
    WrongAnswer
        If a block doesn't keep its bytes, or the metrics count other blocks than there are.
    """
    memory = MemoryManager()
    peak = int(trace.live().argmax())
    ending = iter(np.argsort(trace.ends, kind="stable").tolist())
    sizes, ends = trace.sizes.tolist(), trace.ends.tolist()
    live: dict[int, NDArray[np.uint8]] = {}
    first = next(ending)
    for i in range(peak + 1):
        while ends[first] <= i:
            del live[first]
            first = next(ending)
        live[i] = memory.empty(sizes[i], np.uint8)
        live[i].fill(i & 255)
    if not all((block == i & 255).all() for i, block in live.items()):
        raise WrongAnswer("a block of the pools was written through another")
    requested = sum(it.nbytes for it in live.values())
    before = memory.metrics()
    memory.trim()
    after = memory.metrics()
    if (before.active, before.blocks) != (requested, len(live)):
        raise WrongAnswer(f"{before.active} bytes in {before.blocks} blocks, not {requested} in {len(live)}")
    metadata = sum(it.metadata for it in before.pools)

    def percent(taken: int) -> float:
        return 100 * (taken + metadata - requested) / requested

    return {
        "allocations": peak + 1,
        "blocks": len(live),
        "requested": requested,
        "metadata_per_block": metadata / len(live),
        "percent": percent(before.committed - before.cached),
        "untrimmed_percent": percent(before.committed),
        "trimmed_percent": percent(after.committed),
    }


class _Recorder:
    """Sizes and lifetimes of arrays as they come and go; a key is the address of the elements."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.lifetimes: list[int | None] = []
        self._live: dict[int, int] = {}

    def born(self, key: int, nbytes: int) -> None:
        self._live[key] = len(self.sizes)
        self.sizes.append(nbytes)
        self.lifetimes.append(None)

    def gone(self, key: int) -> None:
        if (number := self._live.pop(key, None)) is not None:
            self.lifetimes[number] = len(self.sizes) - number - 1

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a backend's function: its arrays are of the pools, of which NumPy's allocator knows nothing."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            value = function(*arguments, **options)
            if isinstance(value, np.ndarray) and value.flags.owndata and value.ctypes.data not in self._live:
                self.born(value.ctypes.data, max(value.nbytes, 1))
                weakref.finalize(value, self.gone, value.ctypes.data).atexit = False
            return value

        return call

    def as_csv(self) -> str:
        total = len(self.sizes)
        rows = zip(self.sizes, self.lifetimes, strict=True)
        return "".join(f"{size},{total if life is None else life}\n" for size, life in rows)


_Pointer, _Size = ctypes.c_void_p, ctypes.c_size_t


class _Handler(ctypes.Structure):
    """NumPy's ``PyDataMem_Handler``, version 1 (NEP 49)."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", _Pointer),
        ("malloc", ctypes.CFUNCTYPE(_Pointer, _Pointer, _Size)),
        ("calloc", ctypes.CFUNCTYPE(_Pointer, _Pointer, _Size, _Size)),
        ("realloc", ctypes.CFUNCTYPE(_Pointer, _Pointer, _Pointer, _Size)),
        ("free", ctypes.CFUNCTYPE(None, _Pointer, _Pointer, _Size)),
    )

    @classmethod
    def telling(cls, recorder: _Recorder) -> _Handler:
        """Return a handler that tells the recorder what it does; memory is the C library's, as of NumPy's own."""
        c = ctypes.CDLL(None)
        c.malloc.restype = c.calloc.restype = c.realloc.restype = _Pointer

        def malloc(_: int, nbytes: int) -> int:
            return calloc(_, 1, nbytes)

        def calloc(_: int, count: int, nbytes: int) -> int:
            address: int = c.calloc(_Size(count), _Size(nbytes))
            recorder.born(address, count * nbytes)
            return address

        def realloc(_: int, old: int, nbytes: int) -> int:
            address: int = c.realloc(_Pointer(old), _Size(nbytes))
            recorder.gone(old)
            recorder.born(address, nbytes)
            return address

        def free(_: int, address: int, _nbytes: int) -> None:
            recorder.gone(address)
            c.free(_Pointer(address))

        types = dict(cls._fields_[3:])
        calls = (types[it.__name__](it) for it in (malloc, calloc, realloc, free))
        return cls(b"mem_handler", 1, None, *calls)


@contextlib.contextmanager
def _allocations(recorder: _Recorder) -> Iterator[None]:
    """Record what NumPy allocates in this thread."""
    python = ctypes.PyDLL(None)
    python.PyCapsule_New.restype = ctypes.py_object
    python.PyCapsule_GetPointer.restype = _Pointer
    api = ctypes.py_object(importlib.import_module("numpy._core.multiarray")._ARRAY_API)
    table = ctypes.cast(python.PyCapsule_GetPointer(api, None), ctypes.POINTER(_Pointer))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[SET_HANDLER] or 0)
    handler = _Handler.telling(recorder)
    python.Py_IncRef(ctypes.py_object(handler))  # arrays that live on need it for their end
    address = _Pointer(ctypes.addressof(handler))
    previous = set_handler(python.PyCapsule_New(address, address, None))  # it begins with its name
    try:
        yield
    finally:
        set_handler(previous)


def record(notebooks: Path, target: Path = RECORDED) -> None:
    """Run the demo and the notebooks here, and write down the size and lifetime of every array.

    That is each that NumPy allocates in this thread, whoever asks for it (plots need most of them), and each that a
    backend returns. One line for each, in order: bytes, and how many others were made before it was gone.

    Parameters
    ----------
    notebooks
        The folder of the notebooks.
    target
        Where the lines go, as compressed CSV.
    """
    import matplotlib

    from .. import demo, lab

    backend = "module://matplotlib_inline.backend_inline"  # Jupyter's: figures are drawn when their cell ends
    recorder = _Recorder()

    class Watched(lab.LoadedBackend):
        def load(self) -> Self:
            super().load()
            for name, nif in self.functions.items():
                setattr(self, name, recorder.watch(nif.function))
            return self

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch.object(lab, "LoadedBackend", Watched))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_allocations(recorder))
        demo.run(lab.Lab(), Path(folder, "report.html"))
        matplotlib.use(backend)
        shell = importlib.import_module("IPython.core.interactiveshell").InteractiveShell.instance()
        importlib.import_module(backend.removeprefix("module://")).configure_inline_support(shell, backend)
        for notebook in sorted(notebooks.glob("*.ipynb")):
            for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
                if cell["cell_type"] == "code":
                    shell.run_cell("".join(cell["source"]))  # some cells fail on purpose
    target.write_bytes(gzip.compress(recorder.as_csv().encode(), mtime=0))
