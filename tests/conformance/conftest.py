"""The conformance suite's languages: the four, and C, of which nothing in src/ knows."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fifth_language import language as fifth
from labs import copied, in_lane, new_lab

import nif_lab.backends
from nif_lab.arguments import LANES

if TYPE_CHECKING:
    from nif_lab.lab import Lab, LoadedBackend

LANGUAGES = (*nif_lab.backends.names(), fifth.NAME)
FILES = [it for it in nif_lab.backends.names() if nif_lab.backends.find(it).compiled]


@functools.cache
def with_c() -> Lab:
    """Return one Lab of all five languages."""
    fifth.build()
    with fifth.a_language():
        lab = new_lab()
    lab.strict = True  # what the functions say themselves is compared, so nothing is made to fit
    return lab


# The fixtures of tests/conftest.py, with C.


@pytest.fixture(scope="session")
def lab() -> Lab:
    return with_c()


@pytest.fixture(scope="session", params=[(name, lane) for name in LANGUAGES for lane in LANES], ids="-".join)
def backend(lab: Lab, request: pytest.FixtureRequest) -> LoadedBackend:
    return in_lane(lab, *request.param)


@pytest.fixture(scope="session", params=LANGUAGES)
def direct(lab: Lab, request: pytest.FixtureRequest) -> LoadedBackend:
    return in_lane(lab, request.param, "direct")


@pytest.fixture(scope="module", params=[*FILES, fifth.NAME])
def library(lab: Lab, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(lab, request.param, tmp_path_factory.mktemp(request.param))
