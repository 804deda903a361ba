"""The Labs that the suite's fixtures share, and what they take from them."""

from __future__ import annotations

import functools
import gc
import os
import secrets
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nif_lab.lab import Lab, LoadedBackend
from nif_lab.recovery import RecoveryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "ANSWER",
    "IS_FREE_THREADED",
    "check_that_the_core_reads",
    "copied",
    "in_lane",
    "new_lab",
    "new_seed",
    "one_with_workers",
    "the_lab",
]

#: A function that gives a number, by its name and the number.
ANSWER = {
    "rust": "pub fn {0}() -> i64 {{ {1} }}",
    "zig": "pub fn {0}() i64 {{ return {1}; }}",
    "nim": "proc {0}*(): int64 = {1}",
    "julia": "{0}()::Int64 = {1}",
}

#: A build of Python without a GIL.
IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

#: Notebooks that run only where a GPU is.
NEED_A_GPU = {"08_devices.ipynb"}


def new_seed() -> int:
    """Return the seed that the environment names, else a new one."""
    return int(os.environ.get("NIF_LAB_SEED") or secrets.randbits(32))


def new_lab(languages: Iterable[str] | None = None) -> Lab:
    """Make a Lab for tests. What a function answers is tested, so nobody else answers in its place."""
    return Lab(languages, policy=RecoveryPolicy(retries=0, failover=False, crashes=None))


@functools.cache
def the_lab() -> Lab:
    """Return one Lab for the whole run; with xdist each process has its own."""
    return new_lab()


def in_lane(lab: Lab, name: str, lane: str) -> LoadedBackend:
    """Return a language in a lane; the test fails, with the reason and the cure, if it isn't loaded."""
    backend = getattr(lab, lane)[name]
    assert isinstance(backend, LoadedBackend)
    if not backend.loaded:
        why = f"{backend.name} is not loaded: {backend.reason}\nto fix: {backend.cure}\n{backend.detail}"
        pytest.fail(why, pytrace=False)
    return backend


def copied(lab: Lab, name: str, folder: Path) -> Path:
    """Copy a library file: the loader takes the copy for another library, which knows no host but the test's."""
    original = in_lane(lab, name, "direct").path
    assert original, f"{name} has no library file"
    return Path(shutil.copy(original, folder))


def one_with_workers(languages: Iterable[str]) -> Iterator[Lab]:
    """Yield a Lab whose workers have these languages and may end as often as tests want; it is gone afterwards."""
    lab = Lab(policy=RecoveryPolicy(crashes=None))
    for name in languages:
        assert lab.isolated[name].loaded, f"{name} isn't loaded: {lab.isolated[name].reason}"
    yield lab
    del lab
    gc.collect()


def check_that_the_core_reads(
    functions: Any, make: Callable[[Any], Any], values: Iterable[Any], patch: pytest.MonkeyPatch
) -> None:
    """Check that the core reads `values` (0.5, -1, 3.25, 8) itself, the second time by what it knows of their types.

    `make` makes such an array whose owner goes as soon as it is read.
    """
    x, values = np.array([0.5, -1.0, 3.25, 8.0]), list(values)
    for value in values:
        functions.sum(value)  # its type is looked up

    def refused(*_: object) -> None:
        raise AssertionError("the call was refused before")

    patch.setattr("nif_lab.foreign.adapt", refused)
    for value in values:
        assert (functions.sum(value), functions.dot(value, y=value)) == (x.sum(), x @ x), type(value)
    owners = [make(x + i) for i in range(3)]
    assert [functions.sum(owners.pop()) for _ in range(3)] == [(x + i).sum() for i in (2, 1, 0)]
    written = bytearray(x.tobytes())
    functions.axpy(1.0, make(x), memoryview(written).cast("d"))
    assert np.frombuffer(written).tolist() == (2 * x).tolist()
