"""``import my_kernels`` compiles a native file: found as Python's modules are, compiled as a cell, loaded again."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from labs import ANSWER, IS_FREE_THREADED

import nif_lab.importer
from nif_lab import backends
from nif_lab.errors import CellError, ToolchainMissing
from nif_lab.importer import Finder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nif_lab.lab import Lab

pytestmark = pytest.mark.slow

LANGUAGES = backends.names()
#: A file, and its neighbour that has `half`.
FILES = {
    "rust": (
        "//! Kernels.\nmod NEAR;\npub fn scaled(x: f64) -> f64 { 5.0 * NEAR::half(x) }\n",
        "pub fn half(x: f64) -> f64 { x / 2.0 }",
    ),
    "zig": (
        '//! Kernels.\nconst near = @import("NEAR.zig");\n'
        "pub fn scaled(x: f64) f64 {\n    return 5 * near.half(x);\n}\n",
        "pub fn half(x: f64) f64 {\n    return x / 2;\n}\n",
    ),
    "nim": (
        "## Kernels.\nimport NEAR\nfunc scaled*(x: float): float = 5 * half(x)\n",
        "func half*(x: float): float = x / 2",
    ),
    "julia": ('# Kernels.\ninclude("NEAR.jl")\nscaled(x::Float64)::Float64 = 5 * _half(x)\n', "_half(x) = x / 2"),
}


@pytest.fixture
def folder(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path; its files belong to the suite's Lab."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    nif_lab.importer.use(lab)
    yield tmp_path
    nif_lab.importer.use()
    for name in [it for it, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def write(folder: Path, name: str, language: str) -> Path:
    suffix = backends.find(language).suffix
    text, near = FILES[language]
    (folder / f"near_{name}{suffix}").write_text(near)
    file = folder / f"{name}{suffix}"
    file.write_text(text.replace("NEAR", f"near_{name}"))
    return file


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_file_is_a_module(folder: Path, lab: Lab, language: str) -> None:
    name = f"imported_{language}"
    file = write(folder, name, language)
    module = importlib.import_module(name)
    assert module.scaled(3.0) == 7.5
    assert (module.__file__, module.__doc__, module.__all__) == (str(file), "Kernels.", ["scaled"])
    assert "scaled" not in getattr(lab, language).kernels
    held = module.scaled
    file.write_text(file.read_text().replace("5", "9"))
    importlib.reload(module)
    assert module.scaled(3.0) == held(3.0) == 13.5
    file.write_text(file.read_text().replace("9", "@9"))
    with pytest.raises(CellError, match=rf"(?s){language} file {file}: .*line \d") as caught:
        importlib.reload(module)
    wrong = [number for number, line in enumerate(file.read_text().split("\n"), 1) if "@9" in line]
    assert {*wrong} <= {it.line for it in caught.value.messages}
    assert module.scaled(3.0) == 13.5


def test_a_neighbour_that_changed_is_compiled_again(folder: Path) -> None:
    write(folder, "whole", "zig")
    module = importlib.import_module("whole")
    near = folder / "near_whole.zig"
    near.write_text(near.read_text().replace("x / 2", "x / 4"))
    importlib.reload(module)
    assert module.scaled(4.0) == 5.0


def test_files_in_packages_and_pythons_own_first(folder: Path) -> None:
    package = folder / "package_of_files"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import inner_answer\n")
    (package / "inner.zig").write_text(ANSWER["zig"].format("inner_answer", 7))
    assert importlib.import_module("package_of_files").inner_answer() == 7
    (folder / "both.zig").write_text("not Zig")
    (folder / "both.py").write_text("kind = 'python'\n")
    assert importlib.import_module("both").kind == "python"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("package_of_files.absent")


def test_two_files_may_have_functions_of_one_name(folder: Path, lab: Lab) -> None:
    for name, value in (("first_of_two", 1), ("second_of_two", 2)):
        (folder / f"{name}.zig").write_text(ANSWER["zig"].format("answer_of_two", value))
    modules = [importlib.import_module(it) for it in ("first_of_two", "second_of_two")]
    assert [it.answer_of_two() for it in modules] == [1, 2]
    calls = {it.function: it.calls for it in lab.snapshot().functions if it.backend == "zig"}
    assert calls["answer_of_two"] == 2


def test_a_crash_is_told_with_the_file(folder: Path, lab: Lab) -> None:
    file = folder / "crashing.zig"
    file.write_text("pub fn crash_of_file() void {\n    @as(*allowzero volatile u8, @ptrFromInt(0)).* = 1;\n}\n")
    module = importlib.import_module("crashing")
    with pytest.raises(nif_lab.errors.WorkerCrashed, match=f"the function is from {file}"):
        module.crash_of_file()
    with pytest.raises(nif_lab.errors.WorkerCrashed):
        module.crash_of_file()  # the new worker has the file too


def test_autoreload_follows_files(folder: Path) -> None:
    """In a process of its own: IPython has one shell in each."""
    (folder / "followed.zig").write_text(ANSWER["zig"].format("followed_answer", 1))
    script = f"""
import os, sys
sys.path.insert(0, {str(folder)!r})
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("import nif_lab.importer\\n%load_ext autoreload\\n%autoreload 2")
shell.run_cell("import followed\\nfrom followed import followed_answer")
file = {str(folder / "followed.zig")!r}
text = open(file).read().replace("1", "2")
open(file, "w").write(text)
os.utime(file, (2e9, 2e9))
shell.run_cell("assert (followed.followed_answer(), followed_answer()) == (2, 2)").raise_error()
print("followed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "followed" in done.stdout.splitlines(), done.stdout + done.stderr


#: What nimpy does, in short: an extension module with one function.
NIMPY = """
type
  Method {.bycopy.} = object
    name: cstring
    call: proc (self, args: pointer): pointer {.cdecl.}
    flags: cint
    doc: cstring
  Definition {.bycopy.} = object
    base: array[5, int]
    name, doc: cstring
    size: int
    methods: ptr Method
    slots: array[4, pointer]
proc PyLong_FromLong*(x: int): pointer {.cdecl, importc.}
proc PyModule_Create2(it: ptr Definition, version: cint): pointer {.cdecl, importc.}
template exported*(init: untyped, title: string, value: int) =
  proc answer(self, args: pointer): pointer {.cdecl.} = PyLong_FromLong(value)
  var methods = [Method(name: "answer", call: answer, flags: 4), Method()]
  var definition = Definition(name: title, methods: addr methods[0], size: -1)
  definition.base[0] = 1
  proc init(): pointer {.exportc, dynlib, cdecl.} = PyModule_Create2(addr definition, 1013)
"""


def test_a_nim_file_of_nimpy_is_an_extension_module(folder: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """nimpy itself is on no package index; a stand-in exports a module as nimpy does."""
    import nimporter

    file = folder / "by_nimpy.nim"
    file.write_text('import nimpy\nexported(PyInit_by_nimpy, "by_nimpy", 41)\n')
    monkeypatch.setenv("HOME", str(folder))
    with pytest.raises(ToolchainMissing, match="a Python with a GIL" if IS_FREE_THREADED else "nimble install nimpy"):
        importlib.import_module("by_nimpy")
    if IS_FREE_THREADED:
        return  # nimpy's own notion of how objects are laid out is the one with a GIL
    (folder / "vendor").mkdir()
    (folder / "vendor" / "nimpy.nim").write_text(NIMPY)
    nif_lab.importer.use(lab, dep={"nim": str(folder / "vendor")})
    module = importlib.import_module("by_nimpy")
    assert sys.modules["by_nimpy"] is module
    assert (module.answer(), module.__file__, module.__all__) == (41, str(file), ["answer"])
    # The key knows what the module imports; nimporter's own doesn't.
    vendor = folder / "vendor" / "nimpy.nim"
    vendor.write_text(vendor.read_text().replace("PyLong_FromLong(value)", "PyLong_FromLong(value + 1)"))
    importlib.reload(module)
    assert module.answer() == 42
    assert lab.register(module) is module
    assert module.answer() == 42
    (counted,) = [it for it in lab.snapshot().functions if it.function == "by_nimpy.answer"]
    assert (counted.backend, counted.calls) == ("python", 1)
    theirs = {nimporter.NimModImporter, nimporter.NimLibImporter}
    assert not theirs & {*filter(lambda it: isinstance(it, type), sys.meta_path)}


def test_finders_are_added_once_and_last() -> None:
    nif_lab.importer._install()
    mine = [it.backend.name for it in sys.meta_path if type(it).__name__ == Finder.__name__]
    assert mine == list(LANGUAGES)


def test_a_warm_import_is_quick(folder: Path) -> None:
    """A cell's own steps, but for the compiler: measured without the load of a machine that does other things."""
    write(folder, "warm", "zig")
    module = importlib.import_module("warm")
    times = []
    for _ in range(5):
        del sys.modules["warm"]
        start = time.perf_counter()
        module = importlib.import_module("warm")
        times.append(time.perf_counter() - start)
    assert isinstance(module, ModuleType)
    assert min(times) < 0.5


def test_what_use_refuses(lab: Lab) -> None:
    for wrong in ({"lab": 3}, {"lane": "sideways"}, {"flags": {"cobol": "-O"}}, {"dep": {"zig": 3}}):
        with pytest.raises((TypeError, ValueError)):
            nif_lab.importer.use(**wrong)
    assert np.isfinite(lab.zig.add(1.0, 2.0))
