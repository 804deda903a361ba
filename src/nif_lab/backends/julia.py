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

from ..errors import BackendError, ToolchainMissing
from .base import PACKAGE, Backend, Compiler, source_root

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


def package() -> Path:
    """Return the folder of the NifLab package: the checkout's, else the wheel's copy."""
    root = source_root()
    return (root if root else PACKAGE / "_native") / "julia"


#: Gives the table's address as text, or says why there is none. Loaded as a package its compiled form is kept in a
#: folder of ours, which makes later starts 4 s quicker; where that can't be written, the sources are compiled anew.
CODE: Final = """
try
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
    string(Base.invokelatest(Main.NifLab.table_address, UInt({host})))
catch e
    "error: " * sprint(showerror, e)
end
"""


def _code(host: int | str) -> str:
    def text(path: Path) -> str:
        return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nif_lab" / "julia"
    return CODE.format(cache=text(cache), package=text(package()), host=host)


def _start_through_juliacall(owner: Owner, found: Installation, code: str) -> str:
    """Start the runtime that a user's own ``from juliacall import Main`` shares.

    Untested where no Julia >= 1.10 can be had; everything around it is shared with the tested path.
    """
    os.environ.setdefault("PYTHON_JULIACALL_EXE", found.program)
    os.environ.setdefault("PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION", "no")
    os.environ.setdefault("PYTHON_JULIACALL_HANDLE_SIGNALS", "no")
    os.environ.setdefault("PYTHON_JULIACALL_THREADS", "1")

    def start() -> str:
        # For the same reason as in rust/core/src/julia.rs.
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)
        import juliacall

        return str(juliacall.Main.seval(code))

    return owner.run(start)


@cache
def _runtime() -> tuple[Owner, int]:
    """Start Julia, once in a process; return its thread and the address of the table."""
    from .. import _core

    found = find_julia()
    owner = _core.Owner("nif_lab julia")
    code = _code(_core.host_address())
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

    def is_built(self) -> bool:
        return (package() / "src" / "NifLab.jl").is_file()

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

        owner, address = _runtime()
        return _core.open_table(address, self.name, owner, telemetry, memory)

    def source(self) -> list[str]:
        found = find_julia()
        return ["julia", found.library, found.bindir, found.image, _code("{host}")]
