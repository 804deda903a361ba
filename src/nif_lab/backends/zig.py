"""Zig: one `zig build-lib`, by the compiler that PyPI's ziglang brings or by the same release on PATH."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ArgumentValueError, BuildError, Message, ToolchainMissing
from ..folders import private
from .base import GLIBC, HOST, Backend, Compiler, Job, ask, existing, find_program, publish, run, zig_environment

if TYPE_CHECKING:
    from ..arguments import Form

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

#: A module whose functions use AVX2: they are called where the machine has it.
WIDE: Final = {"x86_64": ("-target", f"x86_64-{GLIBC}", "-mcpu=x86_64_v3")}
CELL_FLAGS: Final = ("-mcpu=native",)  # a cell runs where it was compiled
#: Zig's own code generator has the same checks, takes less than half of LLVM's time, and its loops are 4 times slower.
DEBUG: Final = ("-fno-llvm",) if HOST == "x86_64" else ("-O", "Debug")
ROOT: Final = """\
const nif = @import("nif");
pub const panic = nif.panic;
comptime {
    nif.exportLibrary("0.1.0", &.{.{ .functions = @import("cell.zig"), .source = "\\n" ++ @embedFile("cell.zig") }});
}
"""
#: What a cell needn't write itself; in Zig the order of declarations doesn't matter.
IMPORTS: Final = ("nif", "std")
VERSION: Final = re.compile(r"^\d+\.\d+\.\d+\S*$", re.M)
#: Where a cell takes C's declarations from, or a file whose name it computes, Zig alone knows.
FOREIGN: Final = re.compile(r'@c(Import|Include)\b|@embedFile\((?!")')
#: A file that is imported or embedded.
FILE: Final = re.compile(r'@(?:import|embedFile)\("([^"]+)"\)')
#: What a cell declares for others.
DECLARED: Final = re.compile(r'^pub (?:inline |noinline )?(?:fn|const|var) (\w+|@"[^"]+")', re.M)
SAID: Final = re.compile(r"^(?P<file>.+?):(?P<line>\d+):(?P<column>\d+): (?P<level>error|note): (?P<text>.*)$")


def _programs() -> list[str]:
    """Every zig that may be the right one; the running interpreter's own (`python -m ziglang`) comes first."""
    package = importlib.util.find_spec("ziglang")
    beside = Path(package.origin).parent / "zig" if package and package.origin else None
    candidates = (str(beside) if beside and beside.is_file() else None, find_program("zig"))
    return [program for program in candidates if program]


class Zig(Backend):
    """The Zig backend."""

    name = "zig"
    title = "Zig"
    rank = 2
    build_requires = ("ziglang==0.17.0",)
    suffix = ".zig"
    heading = "//!"
    library_flags = FLAGS
    sdk = ("src",)
    public = "pub fn"
    forms = ("asm", "llvm")
    dep = ("--module", "NAME=FILE", "a module that the cell imports by that name: util=src/util.zig")
    cells = re.compile(r'@import\("cells"\)')
    example = """\
/// `mean(x[n])`: the arithmetic mean.
pub fn mean(x: []const f64) f64 {
    var total: f64 = 0;
    for (x) |value| total += value;
    return total / @as(f64, @floatFromInt(x.len));
}
"""

    def compiler(self) -> Compiler:
        problems = []
        for program in _programs():
            try:
                found = VERSION.search(ask([program, "version"]).stdout)
            except ToolchainMissing as missing:
                problems.append(missing.reason)
                continue
            version = found[0] if found else ""
            if version.startswith(f"{RELEASE}."):
                return Compiler((program,), version)
            problems.append(f"{program} is Zig {version}" if version else f"{program} doesn't start")
        if problems:
            raise ToolchainMissing(f"{' and '.join(problems)}, but Zig {RELEASE} is needed", CURE)
        raise ToolchainMissing("no Zig compiler in this environment or on PATH", CURE)

    def build(self, source: Path, target: Path, machine: str = HOST) -> None:
        root = source / "src"
        modules = (f"-Mroot={root / 'lib.zig'}", *WIDE.get(machine, ()), f"-Mblocks={root / 'xxh3' / 'blocks.zig'}")
        self.compile(root, target, "--dep", "blocks", *modules, machine=machine)

    def compile(self, sdk: Path, target: Path, *module: str, machine: str = HOST) -> None:
        """Compile a root module, with the SDK's panic guard, into the library ``target``.

        Parameters
        ----------
        sdk
            The folder of ``nif.zig``.
        target
            The library; it appears in one step.
        module
            The root file, or the flags that name it and its imports: ``--dep nif -Mroot=cell.zig -Mnif=...``.
        machine
            The processor that it is for.
        """
        unfinished = target.absolute().with_name(f".{target.name}.{os.getpid()}")
        try:
            self._build_lib(sdk, f"-femit-bin={unfinished}", *module, machine=machine)
            publish(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)

    def _build_lib(self, sdk: Path, *arguments: str, machine: str = HOST) -> None:
        command = [
            *self.compiler().command, "build-lib", *FLAGS,
            "-target", f"{machine}-{GLIBC}",  # no instruction of this machine's own
            "--cache-dir", str(private("zig", "local")),
            str(sdk / "nif" / "guard.c"), *arguments,  # in this order: it becomes part of the root module
        ]  # fmt: skip
        run(command, env=zig_environment())

    def compile_cell(self, job: Job) -> list[Message]:
        self._compile(job, f"-femit-bin={job.library}")
        return []

    def taken_here(self, code: str, folder: str = "") -> tuple[str, ...]:
        return tuple(f"{name}={file}" for name, file in _beside(code, folder).items())

    def needed(self, dep: str) -> str:
        name, is_given, file = dep.partition("=")
        if not is_given or not re.fullmatch(r"\w+", name):
            raise ArgumentValueError("dep", f"expected a module as in util=src/util.zig, got {dep!r}")
        return f"{name}={existing(file, folder=False)}"

    def files_read(self, job: Job) -> tuple[Path, ...] | None:
        # Zig code can't import a file from outside the folders of its modules.
        read: dict[Path, str] = {}
        waiting = [Path(it) for it in self._modules(job).values()]
        while waiting:
            file = waiting.pop().resolve()
            if file not in read and not file.is_relative_to(job.work):
                read[file] = file.read_text(errors="replace") if file.suffix == ".zig" else ""
                waiting += [file.parent / it for it in FILE.findall(read[file]) if (file.parent / it).is_file()]
        texts = [job.code, *(it.code for it in job.others), *read.values()]
        return None if any(map(FOREIGN.search, texts)) else tuple(sorted(read))

    def _modules(self, job: Job) -> dict[str, str]:
        """Return the modules that the cell and those of its kind import, and the file of each."""
        texts = (job.code, *(it.code for it in job.others))
        deps = [*job.options.deps, *(dep for it in job.others for dep in it.deps)]
        beside = {name: file for it in texts for name, file in _beside(it, job.options.folder).items()}
        return beside | dict(it.split("=", 1) for it in deps)

    def show_cell(self, job: Job, form: Form) -> str:
        shown = job.work / f"cell.{form}"
        self._compile(job, "-fno-emit-bin", f"-femit-{'asm' if form == 'asm' else 'llvm-ir'}={shown}")
        return shown.read_text()

    def _compile(self, job: Job, *output: str) -> None:
        (sdk,) = self.sdk_folders()
        job.say("zig compiles")
        (job.work / "cell.zig").write_text(_complete(job.code))
        (job.work / "root.zig").write_text(ROOT)
        own = self._modules(job)
        if job.others:
            own["cells"] = _others(job)
        # A file belongs to one module, which may have several names.
        modules_of = {file: name for name, file in reversed(own.items())}
        deps = ["--dep", "nif"]
        for name, file in own.items():
            deps += ["--dep", f"{name}={modules_of[file]}"]
        given = job.options.flags
        # A module of one's own comes after the cell, which needs it: -f "--dep mine -Mmine=/path/to/mine.zig".
        first = next((place for place, it in enumerate(given) if it.startswith("-M")), len(given))
        flags = (*CELL_FLAGS, *(() if job.options.release else DEBUG), *given[:first])
        # What a module imports stands before it; those of one's own may import each other.
        named = [word for file, name in modules_of.items() for word in (*deps, f"-M{name}={file}")]
        modules = (f"-Mroot={job.work / 'root.zig'}", f"-Mnif={sdk / 'nif.zig'}", *named, *given[first:])
        try:
            self._build_lib(sdk, *flags, *output, *deps, *modules)
        except BuildError as error:
            raise error.in_cell(_read(error.detail, job.code)) from None


def _beside(code: str, folder: str) -> dict[str, str]:
    """Return the files of a cell's folder that it imports by their names, and where they lie."""
    named = {it: Path(folder, it).absolute() for it in FILE.findall(code) if it.endswith(".zig")}
    return {name: str(file) for name, file in named.items() if file.is_file()}


def _complete(code: str) -> str:
    """Return a cell with the imports that it needn't write itself."""
    missing = [it for it in IMPORTS if not re.search(rf"^(pub )?const {it}\b", code, re.M)]
    imports = "".join(f'\nconst {it} = @import("{it}");' for it in missing)
    return f"{code}\n{imports}\n"


def _others(job: Job) -> str:
    """Write the other cells, and the module `cells` that has what they declare; the last of a name is meant."""
    owners: dict[str, int] = {}
    for number, other in enumerate(job.others):
        (job.work / f"other_{number}.zig").write_text(_complete(other.code))
        owners |= dict.fromkeys(DECLARED.findall(other.code), number)
    lines = [f'pub const {name} = @import("other_{number}.zig").{name};\n' for name, number in owners.items()]
    module = job.work / "cells.zig"
    module.write_text("".join(lines))
    return str(module)


def _read(said: str, code: str) -> list[Message]:
    """Read Zig's messages; one that is about the SDK's code is put where the function it names is declared."""
    lines = said.splitlines()
    count = len(code.split("\n"))
    messages = []
    for number, line in enumerate(lines):
        found = SAID.match(line)
        if not found or found["level"] != "error":
            continue
        text, place = found["text"], (int(found["line"]), int(found["column"]))
        carets = lines[number + 2].strip() if number + 2 < len(lines) else ""
        width = len(carets) if re.fullmatch(r"~*\^~*", carets) else 1
        if width > 1:
            place = (place[0], place[1] - carets.index("^"))
        if not (found["file"].endswith("cell.zig") and place[0] <= count):
            named = re.match(r"(?:pub fn )?(\w+)\b", text)
            declared = named and re.search(rf"^pub fn (?={named[1]}\b)", code, re.M)
            place = (code.count("\n", 0, declared.start()) + 1, 8) if declared else (0, 0)
            width = len(named[1]) if named and declared else 1
        messages.append(Message(text, *place, width))
    return messages
