"""Julia: nothing to build, a runtime to start.

A Julia is looked for in ``$NIF_LAB_JULIA``, on PATH, and where ``make julia`` unpacks one for this environment. From
1.10 on juliacall starts it, so that a user's own ``from juliacall import Main`` shares the runtime; an older one is
embedded by the core. Either way it starts on a thread of its own and is asked for the table of the NifLab package; from
there on nothing differs.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import BackendError, CellError, Message, ToolchainMissing
from .base import Backend, Compiler, Job, run

if TYPE_CHECKING:
    from .._core import Library, Memory, Owner, Telemetry

__all__ = ["Julia"]

OLDEST: Final = (1, 5)
OLDEST_FOR_JULIACALL: Final = (1, 10)
CURE: Final = "install Julia >= 1.10, or point $NIF_LAB_JULIA at a julia, or (in a checkout, on Debian) run: make julia"

#: What one start of a julia tells about itself: version, folder, library, image.
PROBE: Final = (
    'using Libdl; p = filter(p -> occursin(r"^libjulia\\.(so|\\d|dylib)", basename(p)), Libdl.dllist());'
    " foreach(println, (VERSION, Sys.BINDIR, realpath(first(p)), unsafe_string(Base.JLOptions().image_file)))"
)


@dataclass(frozen=True, slots=True)
class Installation:
    """A julia that was found and asked."""

    program: str
    version: str
    bindir: str
    library: str
    image: str

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(n) for n in re.findall(r"\d+", self.version)[:2])


@cache
def probe(program: str) -> Installation:
    """Start a julia once and ask what it is.

    Raises
    ------
    ToolchainMissing
        When it doesn't start or is too old.
    """
    try:
        done = subprocess.run(
            [program, "--startup-file=no", "-e", PROBE],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        version, bindir, library, image = done.stdout.split("\n")[:4]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ToolchainMissing(f"{program} doesn't start", CURE, str(error)) from None
    found = Installation(program, version, bindir, library, image)
    if found.number < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ToolchainMissing(f"Julia {version} ({program}) is too old: {oldest} is the oldest that works", CURE)
    return found


def find_julia() -> Installation:
    """Find the Julia to use; see the module's text for the order."""
    named = os.environ.get("NIF_LAB_JULIA")
    if named:
        if not shutil.which(named):
            raise ToolchainMissing(f"$NIF_LAB_JULIA is {named}, which isn't a program", CURE)
        return probe(named)
    unpacked = Path(sys.prefix) / "lib" / "nif_lab-julia" / "bin" / "julia"
    for program in (shutil.which("julia"), str(unpacked) if unpacked.is_file() else None):
        if program:
            return probe(program)
    raise ToolchainMissing("no Julia on this machine", CURE)


#: Loaded as a package its compiled form is kept in a folder of ours, which makes later starts 4 s quicker; where that
#: can't be written, the sources are compiled anew.
LOAD: Final = """
if !isdefined(Main, :NifLab)
    pushfirst!(DEPOT_PATH, {cache})
    push!(LOAD_PATH, {package})
    try
        @eval Main using NifLab
    catch
        @eval Main include(joinpath({package}, "src", "NifLab.jl"))
    finally
        popfirst!(DEPOT_PATH)
    end
end
"""
#: Gives the table's address as text, or says why there is none.
CODE: Final = """
try
    {load}
    string(Base.invokelatest(Main.NifLab.table_address, UInt({host})))
catch e
    "error: " * sprint(showerror, e)
end
"""
#: The same of a cell: the NifLab package is loaded already.
CELL_CODE: Final = "Base.invokelatest(Main.NifLab.Cells.open_cell, UInt({host}), {code})"
#: Writes what the compiler makes of a cell.
SHOW_CODE: Final = "{load}\nprint(Base.invokelatest(Main.NifLab.Cells.show_cell, {form}, {code}))"


def _text(value: object) -> str:
    """Return a string literal of Julia."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'


def _load(package: Path) -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nif_lab" / "julia"
    return LOAD.format(cache=_text(cache), package=_text(package))


def _code(package: Path, host: int | str) -> str:
    return CODE.format(load=_load(package), host=host)


def _cell_code(code: str, host: int | str) -> str:
    # Braces mean something to who puts the host in; in a literal they can be written otherwise.
    literal = _text(code).replace("{", "\\x7b").replace("}", "\\x7d")
    return CELL_CODE.format(code=literal, host=host)


def _evaluate(library: str, code: str) -> str:
    """Evaluate code in the Julia that runs here, on its own thread; return the string that it gives."""
    julia = ctypes.CDLL(library)
    julia.jl_eval_string.restype = ctypes.c_void_p
    julia.jl_string_ptr.restype, julia.jl_string_ptr.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    value = julia.jl_eval_string(code.encode())
    return julia.jl_string_ptr(value).decode() if value else "error:0:it could not be evaluated"


def _start_through_juliacall(owner: Owner, found: Installation, code: str) -> str:
    """Start the runtime that a user's own ``from juliacall import Main`` shares.

    Untested where no Julia >= 1.10 can be had; everything around it is shared with the tested path.
    """
    os.environ.setdefault("PYTHON_JULIACALL_EXE", found.program)
    os.environ.setdefault("PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION", "no")
    os.environ.setdefault("PYTHON_JULIACALL_HANDLE_SIGNALS", "no")
    os.environ.setdefault("PYTHON_JULIACALL_THREADS", "1")

    def start() -> str:
        # For the same reason as in rust/core/src/face/julia.rs.
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)
        import juliacall

        return str(juliacall.Main.seval(code))

    return owner.run(start)


@cache
def _runtime(package: Path) -> tuple[Owner, int]:
    """Start Julia, once in a process; return its thread and the address of the table."""
    from .. import _core

    found = find_julia()
    owner = _core.Owner("nif_lab julia")
    code = _code(package, _core.host_address())
    if found.number >= OLDEST_FOR_JULIACALL:
        answer = _start_through_juliacall(owner, found, code)
    else:
        answer = _core.start_julia(owner, found.library, found.bindir, found.image, code)
    if not answer.isdigit():
        raise BackendError(f"Julia {found.version} can't load the NifLab package", "please report it", answer)
    return owner, int(answer)


class Julia(Backend):
    """The Julia backend."""

    name = "julia"
    title = "Julia"
    rank = 4
    compiled = False
    # A runtime with signal handlers and a garbage collector of its own is best kept out of the notebook's process.
    lane = "isolated"
    forms = ("asm", "llvm")
    public = "what `export` names, else all without a leading underscore"
    comment = "#"
    example = """\
"`mean(x[n])`: the arithmetic mean."
function mean(x::Vec{Float64})::Float64
    return sum(x) / length(x)
end
"""

    def is_built(self) -> bool:
        return (self.sources / "src" / "NifLab.jl").is_file()

    def compiler(self) -> Compiler:
        found = find_julia()
        return Compiler((found.program,), found.version)

    def build(self, source: Path, target: Path) -> None:
        """Put the package's sources beside the libraries; Julia compiles when it loads them."""
        copy = target.parent / "julia"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source / "src", copy / "src")
        shutil.copy(source / "Project.toml", copy)

    def open(self, telemetry: Telemetry | None = None, memory: Memory | None = None) -> Library:
        from .. import _core

        owner, address = _runtime(self.sources)
        return _core.open_table(address, self.name, owner, telemetry, memory)

    def source(self) -> list[str]:
        found = find_julia()
        return ["julia", found.library, found.bindir, found.image, _code(self.sources, "{host}")]

    def compile_cell(self, job: Job) -> list[Message]:
        """Do nothing: the Julia that runs the cell compiles it."""
        return []

    def show_cell(self, job: Job, form: str) -> str:
        # In a Julia of its own: the one that runs is busy with calls.
        code = SHOW_CODE.format(load=_load(self.sources), form=_text(form), code=_text(job.code))
        shown = run([find_julia().program, "--startup-file=no", "-e", code])
        messages = self.cell_messages(shown) if shown.startswith("error:") else []
        if messages:
            raise CellError("the cell doesn't compile", tuple(messages))
        return shown

    def cell_source(self, code: str, library: Path) -> list[str]:
        return ["julia code", _cell_code(code, "{host}")]

    def open_cell(
        self, code: str, library: Path, telemetry: Telemetry | None = None, memory: Memory | None = None
    ) -> Library:
        from .. import _core

        owner, _ = _runtime(self.sources)
        found = find_julia()
        answer = owner.run(lambda: _evaluate(found.library, _cell_code(code, _core.host_address())))
        if not answer.isdigit():
            raise BackendError(answer)
        return _core.open_table(int(answer), self.name, owner, telemetry, memory)

    def cell_messages(self, said: str) -> list[Message]:
        found = re.search(r"error:(\d+):(.*)", said, re.S)
        return [Message(found[2].strip(), int(found[1]), 0)] if found else []
