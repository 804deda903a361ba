"""What a backend is: find its toolchain, build its library, open it.

One file in this folder describes one language, by one subclass of `Backend`; the folder's listing is the list of
languages. Nothing here imports numpy or the compiled core before a library is opened, so that the same recipes can
build the wheel.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from .. import arguments
from ..errors import ArgumentValueError, BackendError, Message, ToolchainMissing
from ..folders import private
from ..programs import ask, find_program, run

if TYPE_CHECKING:
    from .._core import Library, Memory, Telemetry, Workers

__all__ = [
    "DEFAULTS",
    "GLIBC",
    "HOST",
    "WORKER",
    "Backend",
    "Compiler",
    "Job",
    "Options",
    "Other",
    "ask",
    "existing",
    "find_program",
    "publish",
    "run",
    "source_root",
    "zig_cc",
    "zig_environment",
]

PACKAGE = Path(__file__).resolve().parent.parent
#: This machine's processor, as rustc and zig name it too.
HOST: Final = platform.machine()
#: The oldest C library that the wheel's libraries run with, as zig names it: that of manylinux2014.
GLIBC: Final = "linux-gnu.2.17"
#: What a cell declares, in any language; a word too many costs time alone.
DECLARED: Final = re.compile(
    r"\b(?:fn|struct|enum|union|trait|type|const|static|var|let|proc|func|template|macro|iterator)\s+`?(\w+)|^\s*(\w+)\*",
    re.MULTILINE,
)
WORD: Final = re.compile(r"\w+")
#: The program that runs a backend's functions in the isolated lane.
WORKER = "nif_worker"


@dataclass(frozen=True, slots=True)
class Compiler:
    """A toolchain that was found: how to run it and what it says it is."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True, slots=True)
class Options:
    """How a cell is compiled.

    Attributes
    ----------
    release
        Optimised, with the language's run-time checks; without it the cell is compiled sooner and runs slower.
    flags
        More flags for the compiler.
    deps
        What a cell needs beside its text, as its language names that: crates, modules, folders.
    folder
        The folder of the file that a cell is, whose neighbours it may use; that of the notebook unless given.
    """

    release: bool = True
    flags: tuple[str, ...] = ()
    deps: tuple[str, ...] = ()
    folder: str = ""

    @classmethod
    def of(cls, release: bool, flags: str | Iterable[str], deps: str | Iterable[str] = ()) -> Options:
        """Return options as people write them: flags in a list, or in one string as for a shell."""
        arguments.expect("release", release, bool, "True or False")
        needed = arguments.names("dep", [deps] if isinstance(deps, str) else deps)
        if not isinstance(flags, str):
            return cls(release, arguments.names("flags", flags), needed)
        try:
            return cls(release, tuple(shlex.split(flags)), needed)
        except ValueError as error:
            raise ArgumentValueError("flags", f"{str(error).lower()} in {flags!r}") from None


#: How a cell is compiled unless somebody says otherwise.
DEFAULTS: Final = Options()


@dataclass(frozen=True, slots=True)
class Other:
    """Another cell of the same language, whose functions a cell may call.

    Attributes
    ----------
    code, deps
        Its text, and what it needs beside that.
    functions
        The names of its functions that are its own still: another cell may have taken one.
    """

    code: str
    functions: tuple[str, ...]
    deps: tuple[str, ...] = ()

    def is_named_in(self, code: str) -> bool:
        """Whether a text has a word that this cell declares."""
        declared = {*self.functions, *(it for pair in DECLARED.findall(self.code) for it in pair)} - {""}
        return not declared.isdisjoint(WORD.findall(code))


def _silent(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Job:
    """A cell that is to be compiled.

    Attributes
    ----------
    code
        Its text.
    work
        An empty folder, for this job alone.
    shared
        A folder that jobs of one language share and keep; nobody else can write to it.
    options
        How.
    others
        The other cells, in the order in which they were compiled; none unless the cell names them.
    say
        Is told what is being done, where that takes a while.
    """

    code: str
    work: Path
    shared: Path
    options: Options
    others: tuple[Other, ...] = ()
    say: Callable[[str], None] = _silent

    @property
    def library(self) -> Path:
        """Where the library is expected."""
        return self.work / "cell.so"


def source_root() -> Path | None:
    """Return the checkout this package runs from, or None for an installed wheel."""
    root = PACKAGE.parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "rust").is_dir() else None


def zig_environment() -> dict[str, str]:
    """Return what zig is told, and nim, whose package runs a zig by a script that it keeps: where their caches are."""
    return {"ZIG_GLOBAL_CACHE_DIR": str(private("zig")), "XDG_CACHE_HOME": str(private("programs"))}


def zig_cc(zig: str | Path, *flags: str) -> Path:
    """Return a script that is `zig cc`, for compilers that take one program as a C compiler or linker."""
    text = f'#!/bin/sh\nexec {shlex.join([str(zig), "cc", *flags])} "$@"\n'
    script = private("programs") / f"zigcc-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if not script.is_file() or script.read_text() != text:
        unfinished = script.with_name(f".{script.name}.{os.getpid()}")
        unfinished.write_text(text)
        publish(unfinished, script, 0o700)
    return script


def existing(dep: str, *, folder: bool) -> str:
    """Return the full path of a file or folder that a cell needs.

    Raises
    ------
    ArgumentValueError
        When it isn't there.
    """
    path = Path(dep).expanduser().absolute()
    if not (path.is_dir() if folder else path.is_file()):
        raise ArgumentValueError("dep", f"there is no {'folder' if folder else 'file'} {path}")
    return str(path)


def publish(made: Path, target: Path, mode: int = 0o755) -> None:
    """Put a file that was built in its place, in one step: a loaded library must never be written in place.

    Compilers make files for this user alone; what a checkout or a wheel holds is for all.
    """
    made.chmod(mode)
    os.replace(made, target)


def digest(*folders: Path) -> str:
    """Return a hash of all files in some folders, their names included."""
    total = hashlib.sha256()
    for folder in folders:
        for file in sorted(it for it in folder.rglob("*") if it.is_file() and "target" not in it.parts):
            total.update(f"{file.relative_to(folder)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


class Backend(ABC):
    """One language.

    Attributes
    ----------
    name
        The attribute on the Lab and the folder in the checkout: ``"zig"``.
    title
        How people spell it: ``"Zig"``.
    rank
        Where it stands in lists; 100 unless it matters.
    compiled
        Whether building needs the toolchain; Julia's sources are loaded as they are.
    lane
        Where its calls run unless somebody says otherwise.
    library_flags
        What its compiler is given for a library.
    sdk
        The folders, in the language's own, that a cell is compiled with; empty where cells aren't compiled.
    sdk_files
        Files beside them that this takes too.
    public
        How a cell says that a function is public.
    comment
        How one begins.
    example
        A small cell: it shows the idiom, and compiling it fills the compiler's caches.
    forms
        What a cell can be shown as.
    dep
        The magics' option for what a cell needs beside its text, how that is written, and what it is.
    cells
        How a cell names the other cells of its language.
    build_requires
        The Python packages that a project of its own is built by.
    suffix
        How its files end; empty for what has none.
    heading
        How a line begins that documents a whole file.
    """

    name: str
    title: str
    rank: ClassVar[int] = 100
    compiled: ClassVar[bool] = True
    lane: ClassVar[arguments.Lane] = "direct"
    library_flags: ClassVar[tuple[str, ...]] = ()
    sdk: ClassVar[tuple[str, ...]] = ()
    sdk_files: ClassVar[tuple[str, ...]] = ()
    public: ClassVar[str] = ""
    comment: ClassVar[str] = "//"
    example: ClassVar[str] = ""
    forms: ClassVar[tuple[arguments.Form, ...]] = ()
    dep: ClassVar[tuple[str, str, str]] = ("", "", "")
    cells: ClassVar[re.Pattern[str]] = re.compile("(?!)")
    build_requires: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = ""
    heading: ClassVar[str] = ""

    @property
    def sources(self) -> Path:
        """The language's folder: the checkout's, else the wheel's copy."""
        root = source_root()
        return (root if root else PACKAGE / "_native") / self.name

    def sdk_folders(self) -> tuple[Path, ...]:
        """Return the folders that a cell is compiled with.

        Raises
        ------
        BackendError
            When one isn't there.
        """
        folders = tuple(self.sources / it for it in self.sdk)
        for folder in folders:
            if not folder.is_dir():
                raise BackendError(f"the SDK is missing: {folder}", "reinstall nif_lab, or use a checkout")
        return folders

    @property
    def library(self) -> Path:
        """Where the built library lies."""
        return PACKAGE / "_native" / f"libnif_{self.name}.so"

    def is_built(self) -> bool:
        """Whether there is something to open."""
        return self.library.is_file()

    @abstractmethod
    def compiler(self) -> Compiler:
        """Find the toolchain.

        Raises
        ------
        ToolchainMissing
            With the reason and the command that fixes it.
        """

    @abstractmethod
    def build(self, source: Path, target: Path, machine: str = HOST) -> None:
        """Compile the language's folder ``source`` into the library ``target``, for a ``machine``: ``"aarch64"``, say.

        The library appears under its name in one step: a loaded file must never be written in place.
        """

    def require_built(self) -> None:
        """Raise `BackendError`, with the cure, unless there is something to open."""
        if not self.is_built():
            try:
                self.compiler()
            except ToolchainMissing as missing:
                raise BackendError(f"not built: {missing.reason}", missing.cure) from None
            raise BackendError(f"not built: {self.library} is missing", f"nif-lab build {self.name}")

    def open(self, telemetry: Telemetry | None = None, memory: Memory | None = None) -> Library:
        """Open the built library; its calls are recorded and its results allocated in the Lab's."""
        from .. import _core

        self.require_built()
        return _core.open_library(str(self.library), self.name, telemetry, memory)

    def parts(self) -> dict[str, str]:
        """Return the versions of what stands between this process and the language, by name; once it is open."""
        return {}

    def warm(self) -> None:  # noqa: B027  # most have nothing to do
        """Do ahead what the first start on this machine would take long for.

        Raises
        ------
        BackendError
            As `compiler`. Whoever warms in passing has no use for it.
        """

    def quicken(self) -> None:  # noqa: B027  # most have nothing to do
        """Make what every later start is quicker with, where that takes minutes: ``nif-lab build`` does it.

        Raises
        ------
        BackendError
            When it can't be made; all works without it.
        """

    def cell_key(self, options: Options) -> list[str]:
        """Return what a compiled cell depends on, beside its source and this machine."""
        compiler = self.compiler()
        return [self.name, *compiler.command, compiler.version, digest(*self.sdk_folders()), str(options)]

    def taken_here(self, code: str, folder: str = "") -> tuple[str, ...]:
        """Return what a cell takes from its folder: the working directory, which is the notebook's, unless given."""
        return ()

    def needed(self, dep: str) -> str:
        """Return what a cell needs beside its text as it is wherever the working directory is.

        Raises
        ------
        ArgumentValueError
            When it isn't there, or isn't what this language takes.
        """
        return dep

    def compile_cell(self, job: Job) -> list[Message]:
        """Compile a cell's plain functions into ``job.library``; return the compiler's warnings.

        What is added to the cell doesn't change the numbers of its lines. A language without a compiler does nothing.

        Raises
        ------
        CellError
            With the compiler's messages, in lines of the cell.
        """
        raise NotImplementedError

    def files_read(self, job: Job) -> tuple[Path, ...] | None:
        """Return the files that a cell was compiled with beside its text, the SDK and the compiler's own.

        A cell that was compiled before is used again only while these are as they were; None, if they can't be known,
        has it compiled each time.
        """
        return None

    def show_cell(self, job: Job, form: arguments.Form) -> str:
        """Return what the compiler makes of a cell, as text in one of the `forms`."""
        raise NotImplementedError

    def cell_source(self, code: str, library: Path, options: Options = DEFAULTS) -> list[str]:
        """Return what a worker opens for a cell that was compiled."""
        return ["file", str(library)]

    def open_cell(
        self,
        code: str,
        library: Path,
        telemetry: Telemetry | None = None,
        memory: Memory | None = None,
        options: Options = DEFAULTS,
    ) -> Library:
        """Open a cell that was compiled in this process."""
        from .. import _core

        return _core.open_library(str(library), self.name, telemetry, memory)

    def cell_messages(self, said: str) -> list[Message]:
        """Read what was said by who opened a cell, and refused it; empty unless that is about lines of the cell."""
        return []

    def source(self) -> list[str]:
        """Return what a worker opens: ``["file", path]``, or a runtime."""
        return ["file", str(self.library)]

    def start_workers(self, spares: int = 1) -> Workers:
        """Start a worker, without waiting until it is ready, and have so many spares from then on."""
        from .. import _core

        self.require_built()
        program = PACKAGE / "_native" / WORKER
        if not program.is_file():
            raise BackendError(f"not built: {program} is missing", "nif-lab build rust")
        workers = _core.Workers(str(program), self.name, self.source(), spares)
        workers.prepare()
        return workers
