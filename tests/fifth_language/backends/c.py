"""C: one call of the system's C compiler."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from ..errors import BuildError, CellError, Message, ToolchainMissing
from .base import HOST, PACKAGE, Backend, Compiler, Job, find_program, run

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
    sdk = (".",)
    public = "NIF(...)"

    def compiler(self) -> Compiler:
        program = find_program("cc")
        if program is None:
            raise ToolchainMissing("no C compiler on PATH", "apt install gcc")
        asked = subprocess.run([program, "-dumpfullversion"], capture_output=True, text=True, check=False)
        return Compiler((program,), asked.stdout.strip())

    def build(self, source: Path, target: Path, machine: str = HOST) -> None:
        unfinished = target.absolute().with_name(f".{target.name}.{os.getpid()}")
        try:
            self._compile(unfinished, *sorted(source.rglob("*.c")))
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)

    def compile_cell(self, job: Job) -> list[Message]:
        """Compile a cell, which marks its functions itself, by `NIF` of nif.h."""
        cell = job.work / "cell.c"
        cell.write_text(f'#include "nif.h"\n#line 1\n{job.code}')
        try:
            self._compile(job.library, cell, self.sources / "lib.c", *sorted((self.sources / "nif").glob("*.c")))
        except BuildError as error:
            raise CellError("the cell doesn't compile", detail=error.detail) from None
        return []

    def _compile(self, target: Path, *files: Path) -> None:
        include = (f"-I{PACKAGE / 'include'}", f"-I{self.sources}")
        run([*self.compiler().command, *FLAGS, *include, "-o", str(target), *map(str, files), "-lm", "-ldl"])
