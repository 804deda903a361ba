"""Build a peer when it is first wanted, and keep it in the user's cache folder under the hash of what it is made of."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Final

from ...backends.base import run
from ...errors import BackendError
from ...machine import compiler, has_avx2

__all__ = ["HERE", "Workshop"]

HERE: Final = Path(__file__).resolve().parent
SUFFIX: Final[str] = sysconfig.get_config_var("EXT_SUFFIX")


class Workshop:
    """Where peers are built and kept.

    Parameters
    ----------
    folder
        The cache; the user's own unless given.
    offline
        Build nothing but what the bound needs: a peer that isn't in the cache is unavailable.
    """

    def __init__(self, folder: Path | None = None, *, offline: bool = False) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = folder or base / "nif_lab" / "bench"
        self.offline = offline

    def made(
        self, name: str, sources: list[str], make: Callable[[Path], Path], *salt: str, always: bool = False
    ) -> Path:
        """Return a built file, from the cache if these very sources were built before.

        Parameters
        ----------
        name
            What the file's name begins with.
        sources
            Files of this folder that it is made of.
        make
            Builds it in the folder that it is given, and returns where.
        salt
            Whatever else changes the result: versions, flags.
        always
            Build it offline too.
        """
        facts = (SUFFIX, sys.version, has_avx2(), salt)
        digest = hashlib.sha256(repr(facts).encode())
        for source in sources:
            digest.update((HERE / source).read_bytes())
        target = self.folder / f"{name}-{digest.hexdigest()[:16]}{SUFFIX}"
        if target.is_file():
            return target
        if self.offline and not always:
            raise BackendError("not built yet", "nif-lab bench dispatch")
        self.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.folder) as scratch:
            os.replace(make(Path(scratch)), target)
        return target

    @staticmethod
    def compile(target: Path, sources: Sequence[Path], *flags: str) -> Path:
        """Compile C or C++ into a library that Python can load, as fast as the backends are compiled."""
        plus = str(sources[0]).endswith(".cpp")
        command = [
            compiler("CXX" if plus else "CC"), "-O3", "-DNDEBUG", "-fPIC", "-shared", "-fvisibility=hidden",
            "-ffp-contract=off", *(["-mavx2"] if has_avx2() else []), *(["-std=c++17"] if plus else []),
            f"-I{HERE}", f"-I{sysconfig.get_path('include')}", *flags, *map(str, sources), "-o", str(target),
        ]  # fmt: skip
        run(command)
        return target

    @staticmethod
    def load(name: str, path: Path) -> ModuleType:
        """Import the extension module ``name`` from a file of any name."""
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
