"""Build the native libraries: ``python -m nif_lab.build --out DIR [--machine NAME] [LANGUAGE ...]``.

The same code serves the wheel (rust/core/build.rs runs it before the package exists), ``nif-lab build`` and ``make
build``. So it needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import backends
from .backends.base import HOST, Backend, source_root
from .errors import BackendError

__all__ = ["Built", "build"]


@dataclass(frozen=True, slots=True)
class Built:
    """What became of one language's library."""

    name: str
    built: bool
    seconds: float
    compiler: str = ""
    reason: str = ""
    cure: str = ""
    detail: str = ""

    def __str__(self) -> str:
        if self.built:
            return f"{self.name}: built in {self.seconds:.1f} s ({self.compiler})"
        cure = self.cure and f"  to fix: {self.cure}"
        return "\n".join(part for part in (f"{self.name}: NOT built: {self.reason}", cure, self.detail) if part)


def build(name: str, folder: Path | None = None, machine: str = HOST) -> Built:
    """Build one language's library from the checkout's sources.

    Parameters
    ----------
    name
        The language.
    folder
        Where the library goes; the package's own ``_native`` unless given.
    machine
        The processor that it is for, ``"aarch64"`` say; this machine's unless given.

    Returns
    -------
    Built
        A language that can't be built is a result with a reason, not an exception: the others go on.
    """
    backend = backends.find(name)
    target = (folder / backend.library.name) if folder else backend.library
    start = time.perf_counter()
    try:
        root = source_root()
        if root is None:
            raise BackendError("an installed wheel has no sources", "use the libraries it came with, or a checkout")
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = backend.compiler().version if backend.compiled else "sources only"
        backend.build(root / name, target, machine)
        if folder:  # a wheel's: cells are compiled where there is no checkout
            _copy_sdk(root / name, target.parent / name, backend)
    except BackendError as error:
        seconds = time.perf_counter() - start
        return Built(name, False, seconds, reason=error.reason, cure=error.cure, detail=error.detail)
    return Built(name, True, time.perf_counter() - start, compiler)


def _copy_sdk(source: Path, target: Path, backend: Backend) -> None:
    """Put what cells are compiled with beside the libraries."""
    for it in backend.sdk:
        shutil.rmtree(target / it, ignore_errors=True)
        shutil.copytree(source / it, target / it, ignore=shutil.ignore_patterns("target", "tests"))
    for it in backend.sdk_files:
        shutil.copy(source / it, target)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m nif_lab.build", description="Build the native libraries.")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the libraries")
    parser.add_argument("--machine", default=HOST, metavar="NAME", help="the processor they are for: aarch64, say")
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", default=backends.names())
    arguments = parser.parse_args()
    for name in arguments.languages:
        print(build(name, arguments.out, arguments.machine))
    return 0


if __name__ == "__main__":
    sys.exit(main())
