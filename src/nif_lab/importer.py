"""``import my_kernels`` compiles my_kernels.rs, .zig, .nim or .jl: after ``import nif_lab.importer``.

>>> import nif_lab.importer
>>> import my_kernels                      # my_kernels.zig, on sys.path or in a package
>>> my_kernels.mean(x)

A file is compiled as a cell is: the same cache, the same checks, the same errors, in lines of the file. Its functions
are the Lab's, so that they are counted, and run in the Lab's workers. A module of Python's of the same name goes first.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import arguments
from . import backends as languages
from .backends.base import DEFAULTS, Options
from .cells.cell import Request
from .errors import CellError, Message, ToolchainMissing
from .lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from .backends.base import Backend

__all__ = ["Finder", "Loader", "lab", "use"]


@dataclass(slots=True)
class _Settings:
    """How files are compiled from now on, and the Lab whose functions they have."""

    lab: Lab | None = None
    lane: arguments.Lane = "isolated"
    options: dict[str, Options] = field(default_factory=dict)


_settings: Final = _Settings()


def use(
    lab: Lab | None = None,
    *,
    lane: arguments.Lane = "isolated",
    release: bool = True,
    flags: Mapping[str, str | Iterable[str]] | None = None,
    dep: Mapping[str, str | Iterable[str]] | None = None,
) -> None:
    """Say how files are compiled and where their functions run; files that are imported already stay as they are.

    Parameters
    ----------
    lab : Lab, optional
        The Lab whose functions they are. Unless given, the notebook's ``lab``, else one that is made when it is needed.
    lane : {"isolated", "direct"}
        The lane of their functions.
    release : bool
        Whether they are optimised.
    flags, dep : dict of str to str or list of str, optional
        Compiler flags, and what the files need beside themselves, for each language, as `Lab.cell` takes them:
        ``dep={"nim": "vendor/nimpy"}``.

    Examples
    --------
    >>> nif_lab.importer.use(lab, lane="direct", dep={"rust": "rayon@1"})
    """
    if lab is not None:
        arguments.expect("lab", lab, Lab, "a Lab")
    arguments.one_of("lane", lane, arguments.LANES)
    given = (flags or {}), (dep or {})
    for name in {*given[0], *given[1]}:
        languages.find(name)
    _settings.lab, _settings.lane = lab, lane
    _settings.options = {name: Options.of(release, *(it.get(name, ()) for it in given)) for name in languages.names()}


def lab(language: str) -> Lab:
    """Return the Lab whose functions the imported files of a language are."""
    if _settings.lab is None:
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        space = shell.user_ns if shell is not None else {}
        named = [it for name, it in space.items() if isinstance(it, Lab) and not name.startswith("_")]
        mine = space.get("lab")
        _settings.lab = mine if isinstance(mine, Lab) else named[0] if named else Lab.for_cells(language)
    return _settings.lab


def options_of(language: str) -> Options:
    """Return how files of a language are compiled."""
    return _settings.options.get(language, DEFAULTS)


class Loader(importlib.abc.InspectLoader):
    """Makes a module of a file.

    Parameters
    ----------
    backend
        The file's language.
    path
        The file.
    """

    def __init__(self, backend: Backend, path: str) -> None:
        self.backend = backend
        self.path = path

    def is_package(self, fullname: str) -> bool:
        return False

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_source(self, fullname: str) -> str:
        """Return the file's text; tracebacks and IPython's ``??`` show it."""
        try:
            return Path(self.path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            reason = f"{self.path} isn't UTF-8 text"
            raise CellError(reason, (Message(str(error), line),), "save the file as UTF-8") from None

    def get_code(self, fullname: str) -> None:
        """Return None: there is no Python code."""

    def exec_module(self, module: ModuleType) -> None:
        """Compile the file, or find it compiled, and give its functions to the module."""
        text = self.get_source(module.__name__)
        options = options_of(self.backend.name)
        request = Request(
            language=self.backend.name,
            code=text,
            name=self.path,
            key=self.path,
            lane=_settings.lane,
            options=replace(options, folder=str(Path(self.path).parent)),
        )
        mine = lab(self.backend.name)
        getattr(mine, self.backend.name)  # raises, with the cure, where the Lab was made without it
        made = mine.cells.module(request)
        self.fill(module, made.functions)

    def fill(self, module: ModuleType, functions: Mapping[str, Any]) -> None:
        """Give a module its functions and what it says of itself; those of an earlier import go."""
        for name in getattr(module, "__all__", ()):
            vars(module).pop(name, None)
        vars(module).update(functions)
        module.__all__ = sorted(functions)  # type: ignore[attr-defined]  # modules have what is set
        module.__doc__ = _doc(self.get_source(module.__name__), self.backend.heading)


def _doc(text: str, heading: str) -> str | None:
    """Return the comment at the head of a file."""
    lines = []
    for line in text.removeprefix("\ufeff").splitlines():
        if not line.startswith(heading):
            break
        lines.append(line.removeprefix(heading).removeprefix(" "))
    return "\n".join(lines).strip() or None


class Finder(importlib.abc.MetaPathFinder):
    """Finds files of one language on ``sys.path``, and in packages.

    Parameters
    ----------
    backend
        The language.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a module is made of a file; None if there is no file of that name."""
        for folder in sys.path if path is None else path:
            file = os.path.join(folder or os.getcwd(), fullname.rpartition(".")[2] + self.backend.suffix)
            if os.path.isfile(file):
                return self.spec(fullname, os.path.abspath(file))
        return None

    def spec(self, fullname: str, file: str) -> ModuleSpec | None:
        """Return how a module is made of this file."""
        if self.backend.name == "nim":
            try:
                from .nim_importer import NimModImporter
            except ModuleNotFoundError as error:
                reason = f"{file} can't be imported: there is no {error.name}"
                raise ToolchainMissing(reason, "pip install nimporter setuptools") from None
            return NimModImporter.find_spec(fullname, [os.path.dirname(file)])
        return importlib.util.spec_from_file_location(fullname, file, loader=Loader(self.backend, file))


def _follow(*_: Any) -> None:
    """Have IPython's autoreload see the files; by itself it follows .py files alone."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    magics = getattr(shell, "magics_manager", None)
    reloader = getattr(magics and magics.registry.get("AutoreloadMagics"), "_reloader", None)
    original = getattr(reloader, "filename_and_mtime", None)
    if original is None or hasattr(original, "nif_lab"):
        return

    def filename_and_mtime(module: ModuleType) -> Any:
        loader = getattr(module, "__loader__", None)
        file = getattr(loader, "path", None)
        if not isinstance(file, str) or not isinstance(loader, Loader):
            return original(module)
        try:
            return file, os.stat(file).st_mtime
        except OSError:
            return None, None

    filename_and_mtime.nif_lab = True  # type: ignore[attr-defined]  # a mark
    reloader.filename_and_mtime = filename_and_mtime  # type: ignore[union-attr]


def _install() -> None:
    """Add a finder for each language, behind Python's own."""
    for name in languages.names():
        backend = languages.find(name)
        if backend.suffix and not any(isinstance(it, Finder) and it.backend.name == name for it in sys.meta_path):
            sys.meta_path.append(Finder(backend))
    if "nimporter" in sys.modules:
        from . import nim_importer  # noqa: F401  # it takes the place of nimporter's own finder
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        _follow()
        shell.events.register("pre_run_cell", _follow)


_install()
