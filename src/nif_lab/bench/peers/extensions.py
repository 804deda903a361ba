"""Peers that are extension modules: the bound, Cython, nanobind and PyO3."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ... import backends
from ...backends.base import run
from ...machine import has_avx2
from ...programs import python
from ..contender import Contender, operands
from .workshop import HERE, Workshop

__all__ = ["bound", "cython", "nanobind", "pyo3"]


def bound(workshop: Workshop) -> Iterator[Contender]:
    """Yield the C extension that everything is compared with."""
    name = "nif_lab_bound"
    path = workshop.made(
        "bound",
        ["bound.c", "kernel.h"],
        lambda folder: workshop.compile(folder / "bound", [HERE / "bound.c"], f"-I{np.get_include()}"),
        np.__version__,
        always=True,
    )
    yield Contender.of("bound", "C extension, NumPy C-API", workshop.load(name, path))


def cython(workshop: Workshop) -> Iterator[Contender]:
    """Yield Cython with typed memoryviews."""
    name = "nif_lab_cython"

    def make(folder: Path) -> Path:
        source = folder / f"{name}.c"
        shutil.copy(HERE / "peer.pyx", folder / f"{name}.pyx")  # Cython names the module after its file
        run(python("-m", "cython", str(folder / f"{name}.pyx"), "-o", str(source)))
        return workshop.compile(folder / "cython", [source], "-fno-strict-aliasing")

    version = importlib.import_module("Cython").__version__
    path = workshop.made("cython", ["peer.pyx", "kernel.h"], make, version)
    yield Contender.of("cython", f"Cython {version}, memoryviews", workshop.load(name, path))


def nanobind(workshop: Workshop) -> Iterator[Contender]:
    """Yield nanobind with nb::ndarray."""
    package = importlib.import_module("nanobind")
    home = Path(package.__file__ or "").parent

    def make(folder: Path) -> Path:
        sources = [HERE / "peer.cpp", home / "src" / "nb_combined.cpp"]
        includes = [f"-I{home / 'include'}", f"-I{home / 'ext' / 'robin_map' / 'include'}"]
        return workshop.compile(folder / "nanobind", sources, *includes, "-fno-strict-aliasing")

    path = workshop.made("nanobind", ["peer.cpp", "kernel.h"], make, package.__version__)
    yield Contender.of(
        "nanobind", f"nanobind {package.__version__}, nb::ndarray", workshop.load("nif_lab_nanobind", path)
    )


def pyo3(workshop: Workshop) -> Iterator[Contender]:
    """Yield PyO3 with arrays through rust-numpy, and through the buffer protocol."""
    sources = ["Cargo.toml", "Cargo.lock", "peer.rs"]

    def make(folder: Path) -> Path:
        cargo = backends.find("rust").compiler().command
        for source in sources:
            shutil.copy(HERE / source, folder)
        environment = {
            "CARGO_TARGET_DIR": str(folder / "target"),
            "CARGO_ENCODED_RUSTFLAGS": "-Ctarget-feature=+avx2" if has_avx2() else "",
            "PYO3_PYTHON": sys.executable,
        }
        run([*cargo, "build", "--release", "--locked", "--quiet"], cwd=folder, env={**os.environ, **environment})
        return folder / "target" / "release" / "libnif_lab_pyo3.so"

    module = workshop.load("nif_lab_pyo3", workshop.made("pyo3", sources, make))
    locked = re.search(r'^name = "pyo3"\nversion = "(.+)"$', (HERE / "Cargo.lock").read_text(), re.M)
    version = locked[1] if locked else ""
    yield Contender.of("pyo3", f"PyO3 {version}, rust-numpy", module)
    yield Contender("pyo3-buffer", f"PyO3 {version}, PyBuffer", {"dot": (module.dot_buffer, operands())})
