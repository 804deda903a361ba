"""Functions that tests have other processes call; imports little, as each process imports it."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "attribute",
    "call",
    "crash_once",
    "described",
    "double",
    "failing_at",
    "fuse",
    "isolated_sum",
    "noted_sleep",
    "segfault",
    "shade",
    "toolchainless",
    "where",
    "write",
]


def call(function: Any, *args: Any) -> Any:
    return function(*args)


def where() -> int:
    return os.getpid()


def double(x: Any) -> Any:
    return 2 * x


def attribute(lab: Any, *names: str) -> str:
    """Return what an attribute of a Lab is in this process, as text."""
    for name in names:
        lab = getattr(lab, name)
    return repr(lab)


def isolated_sum(lab: Any, buffer: Any) -> tuple[float, int, int]:
    """Sum a buffer in a worker of Zig: the sum, the copies that made, and this process."""
    mark = lab.ledger.mark()
    return lab.isolated.zig.sum(buffer), len(lab.ledger.since(mark)), os.getpid()


def described(lab: Any) -> tuple[Any, ...]:
    return lab.recovery.policy("zig", "dot"), lab.memory.pools, lab.strict, sorted(lab.libraries)


def write(buffer: Any, number: float) -> str:
    buffer[0] = number
    return type(buffer).__name__


def toolchainless(function: Any) -> Any:
    """Call a function where no compiler is found."""
    from nif_lab.backends.rust import Rust
    from nif_lab.errors import ToolchainMissing

    def compiler(_: object) -> Any:
        raise ToolchainMissing("rustc isn't here", "install it")

    Rust.compiler = compiler  # type: ignore[method-assign]
    return function()


def shade(lab: Any, heights: Any, number: int, flag: str) -> Any:
    """Shade a tile: every tenth one with a segmentation fault on the way, and one ends this process, once."""
    if number == 37 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 10 == 0:
        burns = lab.memory.zeros(3, "i8")
        burns[:] = 1, int.from_bytes(b"zig", "little"), 0
        assert lab.isolated.zig.fault("null_store", burns, np.arange(4.0)) == 6.0
    return lab.isolated.zig.hillshade(heights, 90.0, 90.0, 315.0, 45.0)


def segfault() -> None:
    ctypes.string_at(0)


def crash_once(path: str) -> str:
    """Crash if this is the first call with that path."""
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return "done"


def fuse(language: str) -> Any:
    """Return what a language's ``fault`` takes to fail always."""
    return np.array([9, int.from_bytes(language.encode(), "little"), 0])


def noted_sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(1000)


def failing_at(x: Any, every: int, mark: str = "") -> Any:
    """Crash at each block whose first element is a multiple; if there is a file ``mark``, don't."""
    if x[0] % every == 0 and not (mark and Path(mark).exists()):
        segfault()
    return np.asarray(x) * 2
