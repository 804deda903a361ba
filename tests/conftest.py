"""Fixtures of the whole suite.

A backend that isn't loaded fails its tests, with the reason and the cure: a machine without a compiler doesn't pass. A
random test can be repeated with the seed in its report: NIF_LAB_SEED=1234 pytest ...
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import standin
from labs import NEED_A_GPU, copied, in_lane, new_seed, the_lab

import nif_lab.backends
from nif_lab.arguments import LANES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nif_lab.lab import Lab, LoadedBackend

# Where a test finds no Julia, none is to be downloaded.
os.environ.setdefault("PYTHON_JULIAPKG_OFFLINE", "yes")

# A shell starts its background jobs with SIGINT ignored, and every child of ours would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline (a shared machine is slow now and then); a failure prints the line that repeats it.
hypothesis.settings.register_profile("default", deadline=None, max_examples=40, print_blob=True)
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("default"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@functools.cache
def no_device() -> str:
    """Return why this machine has no GPU; empty where it has one. This process may have a stand-in, so another asks."""
    code = "from nif_lab.gpu import describe\nprint(describe()['reason'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first: of two processes, none then waits long for the other's last file.

    Tests of a real device, and notebooks that need one, are skipped where there is none, with the reason.
    """
    items.sort(key=lambda it: it.path.suffix != ".ipynb" and it.get_closest_marker("slow") is None)
    for item in items:
        if item.path.name in NEED_A_GPU:
            item.add_marker(pytest.mark.gpu)
        if item.get_closest_marker("gpu") and no_device():
            item.add_marker(pytest.mark.skip(reason=no_device()))


@pytest.fixture(scope="session")
def lab() -> Lab:
    return the_lab()


@pytest.fixture(
    scope="session", params=[(name, lane) for name in nif_lab.backends.names() for lane in LANES], ids="-".join
)
def backend(lab: Lab, request: pytest.FixtureRequest) -> LoadedBackend:
    """Each backend in turn, in either lane."""
    return in_lane(lab, *request.param)


@pytest.fixture(scope="session", params=nif_lab.backends.names())
def direct(lab: Lab, request: pytest.FixtureRequest) -> LoadedBackend:
    """Each backend in turn, in this process: for what a worker has of its own, as addresses."""
    return in_lane(lab, request.param, "direct")


@pytest.fixture(scope="module", params=[it for it in nif_lab.backends.names() if nif_lab.backends.find(it).compiled])
def library(lab: Lab, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each library file in turn, as a copy."""
    return copied(lab, request.param, tmp_path_factory.mktemp(request.param))


def generator(request: pytest.FixtureRequest, seed: int) -> np.random.Generator:
    request.node.add_report_section("setup", "seed", f"NIF_LAB_SEED={seed}")
    return np.random.default_rng(seed)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers; the report of a failure has the seed."""
    return generator(request, new_seed())


@pytest.fixture(scope="session")
def one_seed() -> int:
    return new_seed()


@pytest.fixture
def same_rng(request: pytest.FixtureRequest, one_seed: int) -> np.random.Generator:
    """The same random numbers for every test of the run, so that what is expected can be kept from one to the next."""
    return generator(request, one_seed)


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give this process the stand-in for a GPU's driver, with two devices."""
    with standin.here(tmp_path_factory.mktemp("cache"), devices=2):
        yield
