"""``%%rust``, ``%%zig``, ``%%nim``, ``%%julia``, ``%%nif LANGUAGE`` and ``%%cuda``."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from .. import backends as languages
from ..arguments import FORMS, LANES
from ..backends.base import Options
from ..errors import ArgumentValueError, CellError, NifLabError
from ..gpu.cells import EXAMPLE
from ..lab import Lab
from .cell import QUIET, Request, prewarm, show
from .complete import follow
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from IPython.core.interactiveshell import InteractiveShell

    from ..backends.base import Backend

__all__ = ["Magics"]

#: The magics' option for flags of the compiler.
FLAGS: Final = ("-f", "--flags")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentValueError("options", f"{message}\n{self.format_usage().strip()}")


def _parser(magic: str) -> _Parser:
    parser = _Parser(prog=f"%%{magic}", add_help=False)
    if magic == "nif":
        parser.add_argument("language", choices=languages.names(), help="the language of the cell")
    parser.add_argument("--lane", choices=LANES, default="isolated", help="where its functions run (default: isolated)")
    parser.add_argument("--name", default="", help="what errors call the cell")
    for it in map(languages.find, languages.names() if magic == "nif" else [magic]):
        option, value, what = it.dep
        what = f"{it.title}: {what}" if magic == "nif" else what
        parser.add_argument(option, action="append", default=[], dest="deps", metavar=value, help=what)
    parser.add_argument("--replace", action="store_true", help="take names of other functions without a word")
    parser.add_argument("--quiet", action="store_true", help="don't say what there is now")
    parser.add_argument("--time", action="store_true", help="return the cell, with all that is known of it")
    parser.add_argument("--show", choices=FORMS, help="show what the compiler makes of the cell instead")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--release", action="store_true", help="optimised (default)")
    mode.add_argument("--debug", action="store_true", help="compiled sooner, runs slower")
    parser.add_argument(*FLAGS, default="", metavar="FLAGS", help="more flags for the compiler, in quotes")
    return parser


def _cuda_parser() -> _Parser:
    parser = _Parser(prog="%%cuda", add_help=False)
    parser.add_argument("--lane", choices=LANES, default="isolated", help="where its kernels run (default: isolated)")
    parser.add_argument("--device", default="gpu", help="the device that it is compiled for (default: gpu)")
    parser.add_argument("--name", default="", help="what errors call the cell")
    parser.add_argument("--replace", action="store_true", help="take names of other cells' kernels without a word")
    parser.add_argument("--quiet", action="store_true", help="don't say what there is now")
    parser.add_argument(*FLAGS, default="", metavar="FLAGS", help="more flags for the compiler (NVRTC), in quotes")
    return parser


def _cuda_help() -> str:
    """Return what ``%%cuda?`` shows."""
    text = f"""\
Compile this cell's CUDA C++ and add its kernels to `lab.gpu`: lab.gpu.scale(x, 2.0, n, grid=4, block=256).
A kernel is a function that begins with: extern "C" __global__ void.

{_cuda_parser().format_help()}
Example::

    %%cuda
"""
    return text + "".join(f"    {line}\n" for line in EXAMPLE.splitlines())


def _help(magic: str, backend: Backend) -> str:
    """Return what ``%%zig?`` shows."""
    text = f"""\
Compile this cell's {backend.title} and add its public functions to `lab.{backend.name}`.
Public: {backend.public}.

{_parser(magic).format_help()}
Example::

    %%{magic}{" " + backend.name if magic == "nif" else ""}
"""
    return text + "".join(f"    {line}\n" for line in backend.example.splitlines())


def _words(line: str) -> list[str]:
    """Split a magic's line as a shell would; a flag of the compiler isn't taken for one of the magic's."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ArgumentValueError("options", f"{str(error).lower()} in {line!r}") from None
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in FLAGS:
            joined[-1] = f"{FLAGS[-1]}={word}"
        else:
            joined.append(word)
    return joined


def _shorten(error: NifLabError) -> None:
    """Have IPython show the error alone, with all that a compiler said: where this package noticed it doesn't matter.

    The text is the traceback, so whoever runs the notebook without a page (nbconvert, papermill) has it too.
    """
    text = str(error)
    if isinstance(error, CellError) and isinstance(error.report, Report):
        text = text.replace(str(error.report), error.report.coloured())
    lines = f"{type(error).__name__}: {text}".split("\n")
    error.__dict__["_render_traceback_"] = lambda: lines


@contextlib.contextmanager
def _shortened() -> Iterator[None]:
    try:
        yield
    except NifLabError as error:
        _shorten(error)
        raise


def _display(report: object) -> None:
    from IPython.display import display

    display(report)  # type: ignore[no-untyped-call]  # IPython has no types here


def _clear() -> None:
    from IPython.display import clear_output

    clear_output()  # type: ignore[no-untyped-call]


class Magics:
    """The magics of one IPython session.

    The functions are added to the Lab that the session calls ``lab``, else to any other of its Labs. Without one, one
    is made under that name; it loads a language when a cell is written in it.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._cell_id = ""
        self._ours = {name: self._magic(name) for name in (*languages.names(), "nif")}
        self._ours["cuda"] = self._cuda()
        self._register()
        follow(shell)
        shell.events.register("pre_run_cell", self._note)
        shell.events.register("post_run_cell", lambda result: self._register())
        threading.Thread(target=prewarm, args=(languages.names(),), name="nif_lab prewarm", daemon=True).start()

    def _register(self) -> None:
        """Have the magics' names, again after a cell that gave them to others, as ``import juliacall`` does."""
        for name, magic in self._ours.items():
            other = self._shell.magics_manager.magics["cell"].get(name)
            if other is magic:
                continue
            if other is not None and "juliacall" in getattr(other, "__module__", ""):
                self._shell.register_magic_function(other, "cell", "juliacall")
                print("%%julia is nif_lab's; juliacall's is %%juliacall now")
            self._shell.register_magic_function(magic, "cell", name)  # type: ignore[arg-type]  # its decorator hides self

    def _magic(self, name: str) -> Callable[[str, str], Any]:
        def magic(line: str, cell: str) -> Any:
            with _shortened():
                return self._do(name, line, cell)

        magic.__doc__ = _help(name, languages.find(name if name != "nif" else "zig"))
        return magic

    def _cuda(self) -> Callable[[str, str], Any]:
        def magic(line: str, cell: str) -> None:
            with _shortened():
                given = _cuda_parser().parse_args(_words(line))
                name, lab = self._lab("rust")
                options = Options.of(True, given.flags)
                made = lab.gpu.cells.run(self._request("cuda", cell, given, options), given.device)
                if not given.quiet:
                    print(made.listed(name))

        magic.__doc__ = _cuda_help()
        return magic

    def _request(self, language: str, cell: str, given: argparse.Namespace, options: Options) -> Request:
        return Request(
            language=language,
            code=cell,
            name=given.name or f"In [{self._number()}]",
            key=given.name or self._cell_id,
            lane=given.lane,
            replace=given.replace,
            options=options,
            first=2,
        )

    def _note(self, info: Any) -> None:
        self._cell_id = getattr(info, "cell_id", None) or ""

    def _number(self) -> int:
        """Return the number of the cell that runs; `execution_count` may be the next one's already."""
        return len(self._shell.user_ns["In"]) - 1

    def _lab(self, language: str) -> tuple[str, Lab]:
        """Return the session's Lab and its name there."""
        space = self._shell.user_ns
        for name in ("lab", *space):
            if isinstance(lab := space.get(name), Lab) and not name.startswith("_"):
                return name, lab
        if space.get("lab") is not None:
            what = type(space["lab"]).__name__
            reason = f"a cell needs a Lab, and this is of type {what}: make one by another name, mine = nif_lab.Lab()"
            raise ArgumentValueError("lab", reason)
        space["lab"] = Lab.for_cells(language)
        return "lab", space["lab"]

    def _do(self, magic: str, line: str, cell: str) -> Any:
        given = _parser(magic).parse_args(_words(line))
        options = Options.of(not given.debug, given.flags, given.deps)
        request = self._request(given.language if magic == "nif" else magic, cell, given, options)
        if given.show:
            lab = self._shell.user_ns.get("lab")
            print(show(request, given.show, lab.cells.others(request) if isinstance(lab, Lab) else ()))
            return None
        name, lab = self._lab(request.language)
        start = time.monotonic()
        try:
            made = lab.cells.run(request)
        finally:
            if time.monotonic() - start > QUIET and getattr(self._shell, "kernel", None) is not None:
                _clear()  # a page, and a saved notebook, would keep the place of the bar
        if made.warnings:
            _display(made.report)
        if given.time:
            return made
        if not given.quiet:
            print(made.listed(name))
        return None
