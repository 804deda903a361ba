"""Zig: one `zig build-lib`, by the compiler that PyPI's ziglang brings or by the same release on PATH."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

from ..errors import ToolchainMissing
from .base import Backend, Compiler, run

__all__ = ["Zig"]

#: Zig changes between releases: another one doesn't compile these sources.
RELEASE: Final = "0.17"
CURE: Final = "pip install ziglang==0.17.0"

FLAGS: Final = (
    "-dynamic",
    "-O", "ReleaseSafe",  # optimised; what goes out of bounds or overflows panics
    "-fstrip",
    "-fno-error-tracing",  # errors are values here; nobody reads their traces
    "-lc",
    "-fno-soname",
    "-Bsymbolic",  # two Zig libraries in a process each call their own functions
)  # fmt: skip


def _programs() -> list[str]:
    """Every zig that may be the right one; the running interpreter's own (`python -m ziglang`) comes first."""
    package = importlib.util.find_spec("ziglang")
    beside = Path(package.origin).parent / "zig" if package and package.origin else None
    candidates = (str(beside) if beside and beside.is_file() else None, shutil.which("zig"))
    return [program for program in candidates if program]


def _cache() -> Path:
    """Return a folder in Zig's global cache for what would else lie in the working directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ZIG_GLOBAL_CACHE_DIR") or Path(base) / "zig") / "nif_lab"


class Zig(Backend):
    """The Zig backend."""

    name = "zig"
    title = "Zig"
    rank = 2

    def compiler(self) -> Compiler:
        problems = []
        for program in _programs():
            asked = subprocess.run(
                [program, "version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            version = asked.stdout.strip()
            if version.startswith(f"{RELEASE}."):
                return Compiler((program,), version)
            problems.append(f"{program} is Zig {version}" if version else f"{program} doesn't start")
        if problems:
            raise ToolchainMissing(f"{' and '.join(problems)}, but Zig {RELEASE} is needed", CURE)
        raise ToolchainMissing("no Zig compiler in this environment or on PATH", CURE)

    def build(self, source: Path, target: Path) -> None:
        self.compile(source / "src", target, str(source / "src" / "lib.zig"))

    def compile(self, sdk: Path, target: Path, *module: str) -> None:
        """Compile a root module, with the SDK's panic guard, into the library ``target``.

        Parameters
        ----------
        sdk
            The folder of ``nif.zig``.
        target
            The library; it appears in one step.
        module
            The root file, or the flags that name it and its imports: ``--dep nif -Mroot=cell.zig -Mnif=...``.
        """
        compiler = self.compiler()
        unfinished = target.absolute().with_name(f".{target.name}.{os.getpid()}")
        command = [
            *compiler.command, "build-lib", *FLAGS,
            # The oldest glibc of the wheel's platform, and no instruction of this machine's own.
            "-target", f"{platform.machine()}-linux-gnu.2.17",
            "--cache-dir", str(_cache()),
            f"-femit-bin={unfinished}",
            str(sdk / "nif" / "guard.c"), *module,  # in this order: it becomes part of the root module
        ]  # fmt: skip
        try:
            run(command)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
