"""Nim's part of `nif_lab.importer`: nimporter's finder and compiler, with a key that knows what a module is made of.

A file of plain functions is compiled as a cell is. One that uses nimpy becomes an extension module, as nimporter makes
it; but nimporter's own key is a hash of the file alone, and it compiles into ``__pycache__`` without a lock. Here the
key has the flags, the compiler and its version, and the files that the module imports, and what was compiled lies with
the cells.

Importing nimporter puts its finders on ``sys.meta_path``. They are taken off again: what is here stands in their place.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import nimporter

from . import backends as languages
from .backends.base import Job
from .backends.nim import TELL, TOLD, Nim, read_messages, waiting_parts
from .cells.cache import Cache
from .cells.report import Report
from .errors import CellError, ToolchainMissing
from .folders import home
from .importer import Loader, options_of
from .programs import ask, find_program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["NimCompiler", "NimModImporter", "NimModule", "Nimporter"]

#: Where a module takes nimpy from.
NIMPY: Final = re.compile(r"^\s*(?:import|from|include)\b[^#\n]*\bnimpy\b", re.M)
CURE: Final = "nimble install nimpy, or name its folder: nif_lab.importer.use(dep={'nim': 'path/to/nimpy'})"
FREE_CURE: Final = "export plain functions, without nimpy, or use a Python with a GIL"


class NimCompiler(nimporter.NimCompiler):  # type: ignore[misc]  # nimporter has no types
    """nimporter's compiler: run as this package runs compilers, and with nimpy from where it is found."""

    #: nimporter's own for a module, but for the memory management: Nim's threads know nothing of Python's.
    NIM_CLI_ARGS: Final = [
        *("--app:lib", "--skipUserCfg", "--skipParentCfg", "--hints:off", "-d:release", "-d:strip", "--threads:on"),
        *("--mm:orc", "-d:useMalloc", "-d:noSignalHandler", "--panics:off", "--warning[ProveInit]:off"),
        "--passC:-fno-sanitize=all",  # as in nif_lab.backends.nim
    ]

    #: Where nim keeps what it has compiled; set for each run.
    cache: ClassVar[Path] = Path()

    @classmethod
    def flags(cls) -> list[str]:
        """Return the flags beside nimporter's own: where modules are, and what was asked for by `importer.use`."""
        given = options_of("nim")
        nimpy = cls.find_nimpy()
        paths = [*given.deps, *([str(nimpy)] if nimpy else [])]
        return [*(f"--path:{Path(it).expanduser().absolute()}" for it in paths), *given.flags]

    @classmethod
    def find_nimpy(cls) -> Path | None:
        """Return nimpy's folder: one that `importer.use` names, or where nimble keeps it."""
        named = [Path(it).expanduser().absolute() for it in options_of("nim").deps]
        own = home()
        kept = sorted(own.glob(".nimble/pkgs2/nimpy-*"), reverse=True) if own else []
        return next((it for it in (*named, *kept) if (it / "nimpy.nim").is_file()), None)

    @classmethod
    def ensure_nimpy(cls) -> None:
        """Refuse to go on without nimpy; nimporter would install it from the network without a word.

        nimpy has its own notion of how Python lays objects out, and that is the one with a GIL.
        """
        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            raise ToolchainMissing("nimpy doesn't work in a free-threaded Python", FREE_CURE)
        if cls.find_nimpy() is None:
            raise ToolchainMissing("the module uses nimpy, which isn't on this machine", CURE)

    @classmethod
    def construct_cli_args(
        cls, build_dir: Path, library: bool, library_path: Path, module_path: Path, compile_type: str
    ) -> list[str]:
        """Return nimporter's command, by the compiler that this package uses."""
        args = super().construct_cli_args(build_dir, library, library_path, module_path, compile_type)
        start, own = Nim().start()
        return [*start, *args[2:-1], *cls.flags(), *own, TELL, f"--nimcache:{cls.cache}", args[-1]]

    @classmethod
    def invoke_compiler(cls, nim_args: list[str]) -> tuple[str, list[str], list[str], list[str]]:
        """Run nim in a folder and an environment of this package's, as all compilers."""
        done = ask(nim_args)
        lines = done.stdout.splitlines()
        errors = [it for it in lines if "Error:" in it] or ([done.stdout] if done.returncode else [])
        warnings = [it for it in lines if "Warning:" in it]
        return done.stdout, errors, warnings, [it for it in lines if "Hint:" in it]

    @classmethod
    def check_compile_errors(
        cls, errors: list[str], library: bool, nim_args: list[str], output: str, tmp_cwd: Path, warnings: list[str]
    ) -> None:
        """Raise what is wrong under the lines of the file, as of a cell."""
        if not errors:
            return
        file = Path(nim_args[-1])
        messages = tuple(read_messages(output, file))
        count = sum(it.is_error for it in messages)
        what = f"{count} error{'s' if count > 1 else ''}" if count else "it doesn't compile"
        text = file.read_text(encoding="utf-8", errors="replace")
        report = Report(f"nim file {file}: {what}", text, messages, detail="" if messages else output)
        raise CellError(str(report), messages, report=report)


class Nimporter(nimporter.Nimporter):  # type: ignore[misc]  # nimporter has no types
    """nimporter's cache, by a key that knows flags, imports and the compiler."""

    @classmethod
    def key_of(cls, module_path: Path) -> str:
        """Return the name of what a module is compiled to."""
        compiler = Nim().compiler()
        text = module_path.read_bytes().decode(errors="replace")
        # nim takes flags from these, and nimporter leaves its own out where they are.
        configured = [
            it.read_text() for it in sorted(module_path.parent.glob("*.nim*")) if it.suffix in {".cfg", ".nims"}
        ]
        flags = [*NimCompiler.NIM_CLI_ARGS, *NimCompiler.flags()]
        python = sys.implementation.cache_tag or ""
        parts = ["nimpy", *compiler.command, compiler.version, *flags, str(module_path), python, *configured, text]
        return Cache.key(parts)

    @classmethod
    def compiled(cls, module_path: Path) -> Path:
        """Return the extension module of a file; it is compiled unless nothing that it is made of has changed."""
        NimCompiler.ensure_nimpy()
        cache, key = Cache(), cls.key_of(module_path)
        kept = cache.find(key)
        if kept is None:
            with cache.work() as work:
                made, started = work / "cell.so", time.time_ns()
                with waiting_parts(Nim().compiler(), [*NimCompiler.NIM_CLI_ARGS, *NimCompiler.flags()]) as parts:
                    NimCompiler.cache = parts
                    NimCompiler.compile_nim_code(module_path, made, library=False)
                    shutil.copy(parts / "cell.json", work / TOLD)
                job = Job("", work, work, options_of("nim"))
                kept = cache.keep(key, made, (), Nim().files_read(job), started)
        return kept.library

    @classmethod
    def import_nim_code(cls, fullname: str, path: Sequence[str] | None, *, library: bool) -> ModuleSpec | None:
        """Return how a module is made of the first file of its name in some folders."""
        files = (Path(folder, f"{fullname.rpartition('.')[2]}.nim") for folder in (sys.path if path is None else path))
        file = next((it.absolute() for it in files if it.is_file()), None)
        if file is None or library:
            return None
        text = file.read_text(encoding="utf-8", errors="replace")
        uses_nimpy = NIMPY.search(text) is not None
        loader = (NimModule if uses_nimpy else Loader)(languages.find("nim"), str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


class NimModule(Loader):
    """Makes a module of a Nim file that uses nimpy: it has what the extension module exports.

    Python can't load an extension module again; this module takes what the new one has.
    """

    def exec_module(self, module: ModuleType) -> None:
        library = str(Nimporter.compiled(Path(self.path)))
        spec = importlib.util.spec_from_file_location(module.__name__, library)
        assert spec is not None, "the library's name ends with .so"
        made = importlib.util.module_from_spec(spec)
        assert spec.loader is not None, "it is an extension module's"
        spec.loader.exec_module(made)
        sys.modules[module.__name__] = module  # nimpy's modules enter themselves there
        self.fill(module, {name: it for name, it in vars(made).items() if not name.startswith("_")})
        module.__doc__ = made.__doc__ or module.__doc__


class NimModImporter(nimporter.NimModImporter):  # type: ignore[misc]  # nimporter has no types
    """nimporter's finder, in the order of the folders that are searched."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a module is made of a Nim file; None if there is no file of that name."""
        return Nimporter.import_nim_code(fullname, path, library=False)


# Importing nimporter has put its finders there. The one for modules is ours; the one for folders with a .nimble file
# needs nimble, and without it could only fail.
_THEIRS: Final = {nimporter.NimModImporter, *(() if find_program("nimble") else (nimporter.NimLibImporter,))}
sys.meta_path[:] = [it for it in sys.meta_path if it not in _THEIRS]
