"""Julia: nothing to build, a runtime to start.

`julia_home` finds it. From 1.10 on juliacall starts it, so that a user's own ``from juliacall import Main`` shares the
runtime, and calls run in the caller's thread; an older one is embedded by the core, on a thread of its own. Either way
it is asked for the table of the NifLab package; from there on nothing differs.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import fcntl
import functools
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import sys
import sysconfig
import threading
import weakref
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from ..errors import BackendError, CellError, Message, ToolchainMissing
from ..julia_home import cache_folder, compiled_folder, find_julia, install_julia, told
from ..julia_image import make_image, needs_image, with_image
from ..programs import python
from ..progress import Progress
from .base import DEFAULTS, HOST, Backend, Compiler, Job, Options, digest, existing, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .._core import Library, Memory, Owner, Telemetry
    from ..julia_home import Installation

__all__ = ["Julia"]

OLDEST_FOR_JULIACALL: Final = (1, 10)
#: From there on Julia has a thread for input and output, and one more for tasks unless it is told otherwise.
OLDEST_WITH_IO_THREAD: Final = (1, 12)

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
#: The same without such a folder.
FRESH: Final = 'isdefined(Main, :NifLab) || @eval Main include(joinpath({package}, "src", "NifLab.jl"))\n'
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
CELL_CODE: Final = "Base.invokelatest(Main.NifLab.Cells.open_cell, UInt({host}), {code}, String[{deps}], {folder})"
#: Writes what the compiler makes of a cell.
SHOW_CODE: Final = "{load}\nprint(Base.invokelatest(Main.NifLab.Cells.show_cell, {form}, {code}, String[{deps}]))"


def _text(value: object) -> str:
    """Return a string literal of Julia."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'


def _load(package: Path) -> str:
    cache = compiled_folder(package)
    return LOAD.format(cache=_text(cache), package=_text(package)) if cache else FRESH.format(package=_text(package))


def _code(package: Path, host: int | str) -> str:
    return CODE.format(load=_load(package), host=host)


def _cell_code(code: str, host: int | str, options: Options) -> str:
    # Braces mean something to who puts the host in; in a literal they can be written otherwise.
    texts = (code, options.folder, *options.deps)
    literal, folder, *projects = (_text(it).replace("{", "\\x7b").replace("}", "\\x7d") for it in texts)
    return CELL_CODE.format(code=literal, host=host, deps=", ".join(projects), folder=folder)


def _once(what: str, command: list[str], key: str, env: dict[str, str] | None = None) -> None:
    """Run a program unless one with the same key has ended well before, on this machine; say that it runs.

    It fills a cache, so a failure is nobody's business here: what comes after it says what is wrong.
    """
    folder = cache_folder()
    if folder is None:
        return
    stamp = folder / f"done-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    with contextlib.suppress(OSError):
        if stamp.exists() or not os.access(folder, os.W_OK):
            return
        with stamp.with_suffix(".lock").open("w") as turn:
            # Of several that start at once, in this process or others, one does the work; the others wait for it.
            fcntl.flock(turn, fcntl.LOCK_EX)
            if not stamp.exists() and told(command, what, env)[0] == 0:
                stamp.touch()


def precompiled(found: Installation, package: Path) -> Installation:
    """Return that Julia with our image, or else one for which the compiled form of our package is kept by now."""
    state = digest(package / "src")
    imaged = with_image(found, package, state)
    if imaged != found:
        return imaged
    key = f"package {found.program} {found.version} {package} {state}"
    what = f"Julia {found.version}, the first time: compiles its package"
    _once(what, [found.program, "--startup-file=no", "-e", _load(package)], key)
    return found


def ready(package: Path) -> Installation:
    """Return the Julia to use: it is found, or installed, and has compiled our package."""
    try:
        found = find_julia()
    except ToolchainMissing as missing:
        found = install_julia(missing)
    return precompiled(found, package)


#: What was opened in the Julia of this process. A child of fork doesn't have it, and a call there would wait for ever.
_OPENED: Final[weakref.WeakSet[Library]] = weakref.WeakSet()


def _look_again() -> None:
    for library in list(_OPENED):
        library.look_again()


os.register_at_fork(after_in_child=_look_again)


def _end() -> None:
    """Let no daemon thread call Julia any more: at its exit, Julia stops each thread that comes in, GIL or not."""
    from .. import _core

    _core.end_runtimes()
    _look_again()


#: Threads that must not end before the process does.
_STAYING: Final[list[Owner]] = []


@dataclass(frozen=True, slots=True)
class _Runtime:
    """The Julia of this process.

    Attributes
    ----------
    owner
        The thread that alone may call it; None where every thread may.
    evaluate
        Gives the string that some code evaluates to.
    table
        The address of our package's table.
    process
        The process that it runs in: a child of fork doesn't have its threads.
    """

    owner: Owner | None
    evaluate: Callable[[str], str]
    table: int
    process: int

    def open(self, address: int, telemetry: Telemetry | None, memory: Memory | None) -> Library:
        """Open a table of this Julia's."""
        from .. import _core

        # The kernels that are plain allocate nothing.
        allocates = address != self.table
        opened = _core.open_table(address, Julia.name, self.owner, telemetry, memory, allocates)
        _OPENED.add(opened)
        return opened


def _embedded(found: Installation, code: str) -> tuple[Owner | None, Callable[[str], str], str]:
    """Start a Julia before 1.10, on a thread of its own."""
    from .. import _core

    owner = _core.Owner("nif_lab julia")
    _STAYING.append(owner)
    answer = _core.start_julia(owner, found.library, found.bindir, found.image, code)
    _keep_fault_handlers()

    def evaluate(code: str) -> str:
        julia = ctypes.CDLL(found.library)
        julia.jl_eval_string.restype = ctypes.c_void_p
        julia.jl_string_ptr.restype, julia.jl_string_ptr.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        value = julia.jl_eval_string(code.encode())
        return julia.jl_string_ptr(value).decode() if value else "error:0:it could not be evaluated"

    return owner, lambda code: owner.run(lambda: evaluate(code)), answer


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a while, but for the user's own: no child of this process is to see them."""
    ours = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _options(found: Installation) -> dict[str, str]:
    """Return how juliacall starts that Julia."""
    options = {
        # Its magics would replace ours of the same name.
        "PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION": "no",
        # Several threads in Julia, and a stack overflow that is an exception, need its handlers.
        "PYTHON_JULIACALL_HANDLE_SIGNALS": "yes",
    }
    if not {"PYTHON_JULIACALL_EXE", "PYTHON_JULIACALL_PROJECT"} & os.environ.keys():
        options["PYTHON_JULIAPKG_EXE"] = found.program
    if found.number >= OLDEST_WITH_IO_THREAD and "JULIA_NUM_THREADS" not in os.environ:
        # What `julia` itself does. With a plain 1 a task that is spawned on another thread of Python's would never run.
        options["PYTHON_JULIACALL_THREADS"] = "1,1"
    return options


def _keep_fault_handlers() -> None:
    """Let Julia's handlers of a bad access stay where faulthandler would put others in their place.

    By such an access Julia's garbage collection stops the other threads, and Julia notices a stack overflow.
    ``faulthandler.enable`` would end the process there, and ``faulthandler.disable``, which pytest calls last, puts
    back what was before Julia started.
    """
    sigaction = ctypes.CDLL(None).sigaction
    kept = {number: ctypes.create_string_buffer(256) for number in (signal.SIGSEGV, signal.SIGBUS)}
    for number, action in kept.items():
        sigaction(number, None, action)

    def keeping(change: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(change)
        def changed(*arguments: object, **options: object) -> object:
            try:
                return change(*arguments, **options)
            finally:
                for number, action in kept.items():
                    sigaction(number, action, None)

        return changed

    for name in ("enable", "disable"):
        setattr(faulthandler, name, keeping(getattr(faulthandler, name)))


def _import_juliacall(found: Installation) -> None:
    """Import juliacall for the first time in this process: it starts Julia."""
    from .. import _core

    options = _options(found)
    with _environment(**options):
        key = f"juliacall {importlib.metadata.version('juliacall')} {sys.prefix} {found.program} {found.version}"
        _once(
            "juliacall, the first time: installs and compiles its packages",
            python("-c", "import juliacall"),
            key,
        )
        # For the same reason as in rust/loader/src/julia.rs.
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)
        # It replaces signal handlers, and blocks signals in the thread that does it.
        _core.keep_signals(lambda: importlib.import_module("juliacall"))
    # A thread of Python's is in Julia only while it calls something there: no garbage collection waits for one that
    # isn't. Each way into Julia changes that state and puts it back.
    seval = sys.modules["juliacall"].Main.seval
    enter = ctypes.PYFUNCTYPE(ctypes.c_int8)(int(seval("UInt(cglobal(:jl_gc_safe_enter))")))
    leave = ctypes.PYFUNCTYPE(None, ctypes.c_int8)(int(seval("UInt(cglobal(:jl_gc_safe_leave))")))
    state = enter()
    if threading.current_thread() is threading.main_thread():
        # It runs before juliacall's own, which ends Julia.
        atexit.register(leave, state)


#: The first juliacall that knows how a free-threaded Python lays objects out.
FREE_THREADED: Final = (0, 9, 32)


def _check_juliacall() -> None:
    """Refuse a juliacall that would read a free-threaded Python's objects as those of one with a GIL."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return
    version = importlib.metadata.version("juliacall")
    if tuple(int(it) for it in re.findall(r"\d+", version)[:3]) < FREE_THREADED:
        raise BackendError(
            f"juliacall {version} doesn't work in a free-threaded Python",
            f"pip install 'juliacall>={'.'.join(map(str, FREE_THREADED))}', or use lane='isolated'",
        )


def _through_juliacall(found: Installation | None, code: str) -> tuple[Owner | None, Callable[[str], str], str]:
    """Share the runtime of ``from juliacall import Main``; start it unless the user has."""
    from .. import _core

    _check_juliacall()
    is_main = threading.current_thread() is threading.main_thread()
    owner = None
    if found is not None:
        if is_main:
            _import_juliacall(found)
        else:
            # Julia's first thread must stay; this one may end.
            _STAYING.append(_core.Owner("nif_lab julia"))
            _STAYING[-1].run(lambda: _import_juliacall(found))
    # Both juliacall's own, which ends Julia, and the way back into Julia come after it.
    atexit.register(_end)
    juliacall = sys.modules["juliacall"]
    if juliacall.CONFIG.get("opt_handle_signals") != "yes":
        if not is_main:
            raise BackendError(
                "juliacall was imported without Julia's signal handlers: only the thread that did it can call Julia",
                "make the Lab before juliacall is imported, or set PYTHON_JULIACALL_HANDLE_SIGNALS=yes before that",
            )
        owner = _core.Owner.here()
    else:
        _keep_fault_handlers()

    def evaluate(code: str) -> str:
        return str(juliacall.Main.seval(code))

    return owner, evaluate, evaluate(code)


def _is_running() -> bool:
    """Whether juliacall has started a Julia in this process."""
    return bool(getattr(sys.modules.get("juliacall"), "CONFIG", {}).get("inited"))


#: For who starts Julia: threads that want it at once wait for the same one.
_STARTING: Final = threading.RLock()
# A child of fork doesn't have the thread that may hold it.
os.register_at_fork(after_in_child=_STARTING._at_fork_reinit)  # type: ignore[attr-defined]


def _runtime(package: Path) -> _Runtime:
    """Return this process's Julia; the first who asks starts it."""
    with _STARTING:
        runtime = _start(package)
    if runtime.process != os.getpid():
        raise BackendError(
            "Julia runs in the process that this one was forked from",
            'start processes by "spawn" or "forkserver" (multiprocessing.get_context), or use lane="isolated"',
        )
    return runtime


@cache
def _start(package: Path) -> _Runtime:
    from .. import _core

    found = None if _is_running() else ready(package)
    code = _code(package, _core.host_address())
    if found is not None and found.number < OLDEST_FOR_JULIACALL:
        start = _embedded(found, code)
    else:
        start = _through_juliacall(found, code)
    owner, evaluate, answer = start
    if not answer.isdigit():
        version = found.version if found else "of juliacall"
        raise BackendError(f"Julia {version} can't load the NifLab package", "please report it", answer)
    return _Runtime(owner, evaluate, int(answer), os.getpid())


class Julia(Backend):
    """The Julia backend."""

    name = "julia"
    title = "Julia"
    rank = 4
    suffix = ".jl"
    heading = "#"
    compiled = False
    # A runtime with signal handlers and a garbage collector of its own is best kept out of the notebook's process.
    lane = "isolated"
    forms = ("asm", "llvm")
    dep = ("--project", "FOLDER", "a project whose packages the cell uses")
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

    def build(self, source: Path, target: Path, machine: str = HOST) -> None:
        """Put the package's sources beside the libraries; Julia compiles when it loads them."""
        copy = target.parent / "julia"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source / "src", copy / "src")
        shutil.copy(source / "Project.toml", copy)

    def open(self, telemetry: Telemetry | None = None, memory: Memory | None = None) -> Library:
        julia = _runtime(self.sources)
        return julia.open(julia.table, telemetry, memory)

    def source(self) -> list[str]:
        found = ready(self.sources)
        return ["julia", found.library, found.bindir, found.image, _code(self.sources, "{host}")]

    def parts(self) -> dict[str, str]:
        found = {}
        for name in ("juliacall", "juliapkg"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
        if _is_running():
            seval = sys.modules["juliacall"].Main.seval
            found["PythonCall"] = str(seval("string(Base.pkgversion(PythonCall))"))
        return found

    def warm(self) -> None:
        precompiled(find_julia(), self.sources)

    def quicken(self) -> None:
        found = find_julia()
        if needs_image(found):
            with Progress() as show:
                show(f"Julia {found.version}: makes an image with its package, for quick starts; this takes minutes")
                make_image(found, self.sources, digest(self.sources / "src"))

    def compile_cell(self, job: Job) -> list[Message]:
        """Do nothing: the Julia that runs the cell compiles it."""
        return []

    def show_cell(self, job: Job, form: str) -> str:
        deps = ", ".join(map(_text, job.options.deps))
        # In a Julia of its own: the one that runs is busy with calls.
        code = SHOW_CODE.format(load=_load(self.sources), form=_text(form), code=_text(job.code), deps=deps)
        shown = run([find_julia().program, "--startup-file=no", "-e", code])
        messages = self.cell_messages(shown) if shown.startswith("error:") else []
        if messages:
            raise CellError("the cell doesn't compile", tuple(messages))
        return shown

    def needed(self, dep: str) -> str:
        return existing(dep, folder=True)

    def cell_source(self, code: str, library: Path, options: Options = DEFAULTS) -> list[str]:
        return ["julia code", _cell_code(code, "{host}", options)]

    def open_cell(
        self,
        code: str,
        library: Path,
        telemetry: Telemetry | None = None,
        memory: Memory | None = None,
        options: Options = DEFAULTS,
    ) -> Library:
        from .. import _core

        julia = _runtime(self.sources)
        answer = julia.evaluate(_cell_code(code, _core.host_address(), options))
        if not answer.isdigit():
            raise BackendError(answer)
        return julia.open(int(answer), telemetry, memory)

    def cell_messages(self, said: str) -> list[Message]:
        found = re.search(r"error:(\d+):(.*)", said, re.S)
        return [Message(found[2].strip(), int(found[1]), 0)] if found else []
