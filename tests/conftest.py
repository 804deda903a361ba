"""Fixtures of the whole suite.

A backend that isn't loaded fails its tests, with the reason and the cure: a machine without a compiler doesn't pass. A
random test can be repeated with the seed in its report: NIF_LAB_SEED=1234 pytest ...
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import signal
from pathlib import Path

import hypothesis
import numpy as np
import pytest

import nif_lab.backends
from nif_lab.lab import Lab, LoadedBackend
from nif_lab.recovery import RecoveryPolicy
from nif_lab.segment import LANES

# A shell starts its background jobs with SIGINT ignored, and every child of ours would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline (a shared machine is slow now and then); a failure prints the line that repeats it.
hypothesis.settings.register_profile("default", deadline=None, max_examples=40, print_blob=True)
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("default"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@functools.cache
def the_lab() -> Lab:
    """Return one Lab for the whole run: the fixtures and the list of library files come from it.

    What a function answers is tested here, so nobody else answers in its place.
    """
    return Lab(policy=RecoveryPolicy(retries=0, failover=False, crashes=None))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``library`` once for each backend that has a library file."""
    if "library" in metafunc.fixturenames:
        files = [name for name, backend in the_lab().backends.items() if backend.path]
        metafunc.parametrize("library", files, indirect=True, scope="module")


@pytest.fixture(scope="session")
def lab() -> Lab:
    return the_lab()


def in_lane(lab: Lab, name: str, lane: str) -> LoadedBackend:
    backend = getattr(lab, lane)[name]
    assert isinstance(backend, LoadedBackend)
    if not backend.loaded:
        why = f"{backend.name} is not loaded: {backend.reason}\nto mend it: {backend.cure}\n{backend.detail}"
        pytest.fail(why, pytrace=False)
    return backend


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


@pytest.fixture(scope="module")
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy each library file: the loader takes the copy for another library, which knows no host but the test's."""
    original = the_lab().backends[request.param].path
    assert original
    return Path(shutil.copy(original, tmp_path_factory.mktemp(request.param)))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers; the report of a failure has the seed."""
    seed = int(os.environ.get("NIF_LAB_SEED") or secrets.randbits(32))
    request.node.add_report_section("setup", "seed", f"NIF_LAB_SEED={seed}")
    return np.random.default_rng(seed)
