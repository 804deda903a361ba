"""A system image of Julia's that has our package in it, for a Julia before 1.9.

Such a Julia keeps no machine code with a package, and compiles all of ours at each start, which takes seconds. An image
is made once (`make_image`, which ``nif-lab build`` calls) and used from then on (`with_image`), while the Julia, the
package and the processor are those that it was made for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import BackendError, ToolchainMissing
from .folders import private
from .programs import find_program, python, run

if TYPE_CHECKING:
    from .julia_home import Installation

__all__ = ["make_image", "needs_image", "with_image"]

#: From there on Julia keeps machine code with each package.
WITH_MACHINE_CODE: Final = (1, 9)
#: Seconds after which whoever was making an image doesn't any more: it was killed.
LEFT: Final = 86400.0

#: What a julia does that writes an image: it hasn't set itself up as one that runs a program has.
SCRIPT: Final = """
Base.reinit_stdio()
@eval Sys BINDIR = ccall(:jl_get_julia_bindir, Any, ())::String
@eval Sys STDLIB = abspath(BINDIR, "..", "share", "julia", "stdlib", string("v", VERSION.major, ".", VERSION.minor))
Base.init_load_path()
Base.init_depot_path()
Base.include(Main, {source})
empty!(LOAD_PATH)
empty!(DEPOT_PATH)
"""


def needs_image(found: Installation) -> bool:
    """Whether that Julia starts so much quicker with an image of its own."""
    return found.number < WITH_MACHINE_CODE


def with_image(found: Installation, package: Path, state: str) -> Installation:
    """Return that Julia as it starts with our image, if there is one of it, the package and this processor.

    Parameters
    ----------
    found
        The Julia.
    package
        The folder of our package.
    state
        A hash of the package's sources.
    """
    image = _place(found, package, state) if needs_image(found) else None
    return replace(found, image=str(image)) if image and image.is_file() else found


def make_image(found: Installation, package: Path, state: str) -> None:
    """Make the image, unless it is there; parameters as `with_image`. It takes minutes, and 1.5 GB of memory.

    Raises
    ------
    BackendError
        When there is no folder for it, no linker, or one of the programs failed.
    """
    image = _place(found, package, state)
    if image is None:
        raise BackendError("no folder for Julia's image", "set $XDG_CACHE_HOME to a folder of your own")
    if image.is_file():
        return
    for left in image.parent.glob("making-*"):
        if time.time() - left.stat().st_mtime > LEFT:
            shutil.rmtree(left, ignore_errors=True)
    # Beside the image, so that it is put in its place in one step, and on a disk: it has 200 MB.
    work = Path(tempfile.mkdtemp(prefix="making-", dir=image.parent))
    try:
        code = work / "image.jl"
        source = str(package / "src" / "NifLab.jl").replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
        code.write_text(SCRIPT.format(source=f'"{source}"'), encoding="utf-8")
        compiled, linked = work / "image.o", work / "image.so"
        run([found.program, "--startup-file=no", "-J", found.image, "--output-o", str(compiled), str(code)])
        # Whatever it is called, it is an archive, of which a linker takes what is asked for: and nobody asks.
        whole = ["-Wl,--whole-archive", str(compiled), "-Wl,--no-whole-archive"]
        run([*_linker(), "-shared", "-o", str(linked), *whole, found.library])
        run([found.program, "--startup-file=no", "-J", str(linked), "-e", "NifLab"])  # or no Julia would start
        for old in image.parent.glob(f"{image.name.split('-', maxsplit=1)[0]}-*.so"):
            # Of the same Julia, package and processor, as they were: whoever has it mapped keeps it.
            old.unlink(missing_ok=True)
        os.replace(linked, image)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _place(found: Installation, package: Path, state: str) -> Path | None:
    """Return where that image is kept; None where nothing can be, or others could change it."""
    try:
        folder = private("julia", "images")
        about = os.stat(found.image)
    except (BackendError, OSError):
        return None
    # A home may be that of several machines.
    whose = f"{os.path.realpath(found.program)}\0{package}\0{_processor()}"
    what = f"{found}\0{about.st_size}\0{about.st_mtime_ns}\0{state}\0{SCRIPT}"
    return folder / f"{_hashed(whose)}-{_hashed(what)}.so"


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor() -> str:
    """Return what this processor is and can do: an image is machine code for it."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(sorted({it for it in lines if it.startswith(("model name", "flags", "Features", "CPU part"))}))
    return ""


def _linker() -> list[str]:
    """Return the command that links as a compiler of C does."""
    for name in ("cc", "gcc", "clang"):
        if found := find_program(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return python("-m", "ziglang", "cc")
    raise ToolchainMissing("no compiler of C, which links Julia's image", "install gcc or clang")
