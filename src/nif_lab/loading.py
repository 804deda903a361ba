"""Libraries of anybody's: what they are, and a backend for each.

Three kinds: one with the entry table of docs/abi.md, one of TVM-FFI functions, and a file of Julia functions.
"""

from __future__ import annotations

import importlib.util
import keyword
import mmap
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import backends as languages
from .arguments import expect, path_of
from .backends.base import HOST, Backend, Compiler
from .errors import AbiError, ArgumentValueError, BackendError, ToolchainMissing

if TYPE_CHECKING:
    from collections.abc import Container

    from ._core import Library, Memory, Telemetry

__all__ = ["JuliaFile", "LibraryFile", "TvmFfiFile", "library_file", "library_path"]

ENTRY: Final = "nif_init"
TVM_PREFIX: Final = "__tvm_ffi_"
#: What a TVM-FFI library says about itself by the same prefix.
TVM_OWN: Final = ("_", "main")
PREFIXES: Final = (ENTRY.encode() + b"\0", TVM_PREFIX.encode())
#: Of a symbol: where its name is among the names, and the section it is defined in.
SYMBOL: Final = struct.Struct("<I2xH16x")
#: Symbols that are looked at, and bytes of a name: some libraries have ten thousands.
SYMBOLS, NAME_BYTES = 1 << 20, 1024
SEE: Final = "see docs/abi.md for what a library exports, or start from lab.new('zig', 'my_kernels')"


class LibraryFile(Backend):
    """A library that is there already.

    Parameters
    ----------
    path
        The file, absolute.
    name
        What the Lab calls it.
    """

    lane = "isolated"
    compiled = False

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = self.title = name

    @property
    def library(self) -> Path:
        return self.path

    def refusal(self, reason: str, cure: str, detail: str) -> AbiError:
        """Return what to raise where it can't be opened."""
        return AbiError(reason, cure, detail)

    def compiler(self) -> Compiler:
        raise ToolchainMissing(f"{self.path} was built elsewhere", "build it there again, and load it in a new Lab")

    def build(self, source: Path, target: Path, machine: str = HOST) -> None:
        self.compiler()


class TvmFfiFile(LibraryFile):
    """A library of TVM-FFI functions; their signatures aren't known."""

    def __init__(self, path: Path, name: str, functions: list[str]) -> None:
        super().__init__(path, name)
        self._functions = functions

    def open(self, telemetry: Telemetry | None = None, memory: Memory | None = None) -> Library:
        from . import _core

        return _core.open_tvm_ffi(str(self.path), _tvm_runtime(), self._functions, self.name, telemetry, memory)

    def source(self) -> list[str]:
        return ["tvm ffi", str(self.path), _tvm_runtime(), *self._functions]


class JuliaFile(LibraryFile):
    """A file of Julia functions, as a cell would hold them; each worker has a Julia for it alone."""

    def open(self, telemetry: Telemetry | None = None, memory: Memory | None = None) -> Library:
        julia = languages.find("julia")
        julia.open()  # the process's one Julia
        return julia.open_cell(self.path.read_text(encoding="utf-8"), self.path, telemetry, memory)

    def source(self) -> list[str]:
        julia = languages.find("julia")
        code = julia.cell_source(self.path.read_text(encoding="utf-8"), self.path)[-1]
        *start, package = julia.source()
        return [*start, f"{package}\n{code}"]

    def refusal(self, reason: str, cure: str, detail: str) -> AbiError:
        for it in languages.find("julia").cell_messages(reason):
            return AbiError(f"{self.path}:{it.line}: {it.text}", "fix the function, and load the file again")
        return super().refusal(reason, cure, detail)


def library_path(language: str) -> str:
    """Return the file of a language's own library, for other hosts: ``tvm_ffi.load_module(library_path("zig"))``.

    Raises
    ------
    BackendError
        When it isn't built, or the language has none.
    """
    backend = languages.find(language)
    if not backend.compiled:
        able = ", ".join(it for it in languages.names() if languages.find(it).compiled)
        raise BackendError(
            f"{backend.title} has no library file: its functions live in a session", f"use one of {able}"
        )
    backend.require_built()
    return str(backend.library)


def library_file(path: str | Path, name: str | None = None, taken: Container[str] = ()) -> LibraryFile:
    """Return the backend for a file, by what is in it.

    Parameters
    ----------
    path
        Where.
    name
        What it is called; the file's own name unless given, without ``lib`` and what follows a dot.
    taken
        Names that it can't have.

    Raises
    ------
    AbiError
        When it isn't a library that can be loaded.
    ArgumentValueError
        When its name is taken or can't be one.
    """
    file = Path(path_of("path", path)).expanduser().absolute()
    if name is not None:
        expect("name", name, str, "a name")
    name = re.sub(r"\W", "_", re.sub(r"^lib|\..*$", "", file.name)) if name is None else name
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        reason = f"'{name}' can't be a backend's name; give it one: lab.load(..., name='mine')"
        raise ArgumentValueError("name", reason)
    if name in taken:
        raise ArgumentValueError(
            "name", f"this Lab has a '{name}' already; give this another name: lab.load(..., name='mine')"
        )
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "isn't there"
        raise AbiError(f"{file} {what}", "build the library first, and give the path of its file")
    if file.suffix == ".jl":
        return JuliaFile(file, name)
    symbols = _exported(file)
    functions = [it.removeprefix(TVM_PREFIX) for it in sorted(symbols) if it.startswith(TVM_PREFIX)]
    functions = [it for it in functions if not it.startswith(TVM_OWN[0]) and it != TVM_OWN[1]]
    if ENTRY in symbols:
        return LibraryFile(file, name)
    if functions:
        return TvmFfiFile(file, name, functions)
    raise AbiError(f"{file} is neither a NIF library (no {ENTRY}) nor one of TVM FFI (no {TVM_PREFIX}...)", SEE)


def _tvm_runtime() -> str:
    """Return where apache-tvm-ffi has its runtime; empty without the package, for who finds it by itself."""
    package = importlib.util.find_spec("tvm_ffi")
    runtime = Path(package.origin).parent / "lib" / "libtvm_ffi.so" if package and package.origin else None
    return str(runtime) if runtime and runtime.is_file() else ""


def _exported(file: Path) -> set[str]:
    """Read which of the names that matter here a shared library defines, without loading it."""
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:6] != b"\x7fELF\x02\x01":
                raise AbiError(f"{file}: not a shared library of 64 bits (it has no ELF header)", SEE)
            return _dynamic_symbols(data)
    except OSError as error:
        raise AbiError(f"{file} can't be read: {error.strerror}", "check its permissions") from None
    except (struct.error, IndexError, ValueError):
        raise AbiError(f"{file}: not a whole shared library: its symbols can't be read", "build it again") from None


def _dynamic_symbols(data: mmap.mmap) -> set[str]:
    """Return the names, which cost as much as the file is long: of a symbol that can't matter no name is read."""
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    # Of each section: kind, where, how large, and which section has its names.
    sections = [struct.unpack_from("<4xI16xQQI", data, start + i * size) for i in range(count)]
    names: set[str] = set()
    dynamic = (it[1:] for it in sections if it[0] == 11)  # SHT_DYNSYM, of which there is one at most
    offset, length, link = next(dynamic, (0, 0, 0))
    if not length:
        return names
    if length // SYMBOL.size > SYMBOLS:
        raise ValueError("too many symbols")
    texts = sections[link][1]
    for text, section in SYMBOL.iter_unpack(data[offset : offset + length]):
        begin = texts + text
        if section and data[begin : begin + len(TVM_PREFIX)].startswith(PREFIXES):  # defined here
            if (end := data.find(b"\0", begin, begin + NAME_BYTES)) < 0:
                raise ValueError("a name without an end")
            names.add(data[begin:end].decode())
    return names
