"""CUDA C++ to code for a device, by NVIDIA's run-time compiler (NVRTC), with a cache by content.

The compiler is a library that is opened when something has to be compiled. What was compiled once is read from the
folder ``gpu`` of the cache from then on, on machines without the compiler too.
"""

from __future__ import annotations

import ctypes as c
import glob
import hashlib
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final

from .. import folders
from ..errors import BackendError, BuildError, GpuUnavailable

__all__ = ["compiled", "compiler_version"]

#: The variable that names another library.
VARIABLE: Final = "NIF_LAB_NVRTC"
NAMES: Final = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so")
#: Where Python packages and NVIDIA's installer put it.
PLACES: Final = ("nvidia/*/lib/libnvrtc.so.*", "nvidia/*/*/lib/libnvrtc.so.*")
INSTALLED: Final = "/usr/local/cuda*/lib64/libnvrtc.so.*"
CURE: Final = "pip install nvidia-cuda-nvrtc (or -cu12), or set $NIF_LAB_NVRTC to libnvrtc.so of a CUDA toolkit"
#: Part of each cache key: raise it when what is kept changes.
FORMAT: Final = "1"


def _candidates() -> list[str]:
    if named := os.environ.get(VARIABLE, ""):
        return [named]
    found = list(NAMES)
    for folder in sys.path:
        for place in PLACES if folder else ():
            found += sorted(it for it in glob.glob(os.path.join(folder, place)) if "builtins" not in it)
    return found + sorted(glob.glob(INSTALLED), reverse=True)


@lru_cache(maxsize=1)
def _opened(_named: str) -> c.CDLL:
    for name in _candidates():
        try:
            return c.CDLL(name)
        except OSError:
            continue
    raise GpuUnavailable("the compiler of GPU kernels (NVRTC) isn't there", CURE)


def _library() -> c.CDLL:
    return _opened(os.environ.get(VARIABLE, ""))


def _said(library: c.CDLL, status: int) -> str:
    library.nvrtcGetErrorString.restype = c.c_char_p
    return (library.nvrtcGetErrorString(status) or b"").decode()


def compiler_version() -> str:
    """Return the compiler's version, ``"13.0"``.

    Raises
    ------
    GpuUnavailable
        When there is none.
    """
    library, major, minor = _library(), c.c_int(), c.c_int()
    library.nvrtcVersion(c.byref(major), c.byref(minor))
    return f"{major.value}.{minor.value}"


def _architectures(library: c.CDLL) -> list[int]:
    """Return the capabilities that it compiles for; 90 is 9.0."""
    count = c.c_int()
    if library.nvrtcGetNumSupportedArchs(c.byref(count)) or count.value < 1:
        return []
    found = (c.c_int * count.value)()
    return [] if library.nvrtcGetSupportedArchs(found) else sorted(found)


def compiled(source: str, capability: int, options: tuple[str, ...] = (), name: str = "kernels.cu") -> bytes:
    """Return code for devices of a capability.

    Parameters
    ----------
    source
        CUDA C++, without includes of files.
    capability
        Of the device: 90 for 9.0.
    options
        More of the compiler's.
    name
        What its messages call the source.

    Raises
    ------
    BuildError
        With the compiler's messages.
    GpuUnavailable
        When it isn't compiled yet, and there is no compiler.
    """
    words = (FORMAT, str(capability), *options, name, source)
    key = hashlib.sha256("\0".join(words).encode()).hexdigest()
    try:
        kept: Path | None = folders.private("gpu") / f"{key}.bin"
        if kept is not None and kept.is_file():
            return kept.read_bytes()
    except (BackendError, OSError):
        kept = None  # no folder for caches: compile each time
    code = _compile(source, capability, options, name)
    if kept is not None:
        part = kept.with_suffix(f".{os.getpid()}")
        try:
            part.write_bytes(code)
            part.replace(kept)
        except OSError:  # a full disk costs the cache alone
            part.unlink(missing_ok=True)
    return code


def _compile(source: str, capability: int, options: tuple[str, ...], name: str) -> bytes:
    library = _library()
    known = _architectures(library)
    # Code for a device is read by that kind alone; for a newer one the driver compiles what is between.
    is_known = not known or capability in known
    target = (
        f"sm_{capability}" if is_known else f"compute_{max((it for it in known if it < capability), default=known[-1])}"
    )
    program = c.c_void_p()
    status = library.nvrtcCreateProgram(c.byref(program), source.encode(), name.encode(), 0, None, None)
    if status:
        raise BuildError(f"NVRTC can't begin: {_said(library, status)}", CURE)
    try:
        words = [f"--gpu-architecture={target}", *options]
        given = (c.c_char_p * len(words))(*(it.encode() for it in words))
        status = library.nvrtcCompileProgram(program, len(words), given)
        if status:
            size = c.c_size_t()
            library.nvrtcGetProgramLogSize(program, c.byref(size))
            log = c.create_string_buffer(max(size.value, 1))
            library.nvrtcGetProgramLog(program, log)
            detail = log.value.decode(errors="replace").strip()
            raise BuildError(f"{name} doesn't compile: {_said(library, status)}", "correct the source", detail)
        what = "CUBIN" if is_known else "PTX"
        size = c.c_size_t()
        getattr(library, f"nvrtcGet{what}Size")(program, c.byref(size))
        code = c.create_string_buffer(max(size.value, 1))
        getattr(library, f"nvrtcGet{what}")(program, code)
        return code.raw[: size.value]
    finally:
        library.nvrtcDestroyProgram(c.byref(program))
