"""C: one call of the system's C compiler."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from ..errors import ToolchainMissing
from .base import PACKAGE, Backend, Compiler, find_program, run

__all__ = ["C"]

FLAGS: Final = (
    "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
    "-O3", "-ffp-contract=off",  # a x + y is rounded twice, in every language
    "-fno-math-errno", "-fno-trapping-math",  # square roots and selections vectorise; no value changes
    "-shared", "-fPIC", "-fvisibility=hidden",
    "-Wl,-Bsymbolic",  # two C libraries in a process each call their own functions
    "-s",
)  # fmt: skip


class C(Backend):
    """The C backend."""

    name = "c"
    title = "C"
    rank = 5
    library_flags = FLAGS

    def compiler(self) -> Compiler:
        program = find_program("cc")
        if program is None:
            raise ToolchainMissing("no C compiler on PATH", "apt install gcc")
        asked = subprocess.run([program, "-dumpfullversion"], capture_output=True, text=True, check=False)
        return Compiler((program,), asked.stdout.strip())

    def build(self, source: Path, target: Path) -> None:
        unfinished = target.absolute().with_name(f".{target.name}.{os.getpid()}")
        files = sorted(str(file) for file in source.rglob("*.c"))
        try:
            command = [*self.compiler().command, *FLAGS, f"-I{PACKAGE / 'include'}", "-o", str(unfinished), *files]
            run([*command, "-lm", "-ldl"])
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
