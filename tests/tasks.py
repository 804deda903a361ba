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
