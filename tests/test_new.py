"""Projects that `lab.new` writes: each is built, loaded and passes its own test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

import nif_lab.backends
from nif_lab.cli import main
from nif_lab.lab import Lab

pytestmark = pytest.mark.slow

LANGUAGES = nif_lab.backends.names()
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(Path(nif_lab.__file__).parent.parent),
}


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-6000:]}", pytrace=False)
    return done.stdout


#: What a user of the wheel does, with nif_lab and without.
USE = """
import numpy as np
import {name}
mine = {name}.load()
assert mine.mean(np.arange(4.0)) == 1.5
assert {name}.LIBRARY.parent.parent.name == "installed"
if {name}.LIBRARY.suffix == ".so":
    import tvm_ffi
    assert tvm_ffi.load_module(str({name}.LIBRARY))["mean"](np.arange(4.0)) == 1.5
"""


def wheel_of(project: Path, folder: Path, *options: str) -> Path:
    """Build a project's wheel as pip does."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    run([*command, *options, str(project)], project)
    (wheel,) = folder.glob("*.whl")
    return wheel


def packed(project: Path, name: str, folder: Path) -> None:
    """The project is a package that needs no checkout."""
    installed = folder / "installed"
    with zipfile.ZipFile(wheel_of(project, folder / "wheel")) as wheel:
        assert wheel.testzip() is None
        wheel.extractall(installed)
    script = f"import sys; sys.path.insert(0, {str(installed)!r})\n" + USE.format(name=name)
    run([sys.executable, "-c", script], folder)


@pytest.mark.parametrize("language", ["zig", "nim"])
def test_a_wheel_for_another_processor(lab: Lab, language: str, tmp_path: Path) -> None:
    project = lab.new(language, "far", tmp_path)
    wheel = wheel_of(project, tmp_path / "wheel", "-C", "target=aarch64-linux")
    assert wheel.name == "far-0.1.0-py3-none-manylinux_2_17_aarch64.whl"
    assert zipfile.ZipFile(wheel).read("far/libfar.so")[18:20] == b"\xb7\x00"  # EM_AARCH64
    assert not (project / "libfar.so").exists()


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(backends=[])


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_project_builds_loads_and_passes_its_test(lab: Lab, language: str, tmp_path: Path) -> None:
    name = f"wave_{language}"
    project = lab.new(language, name, tmp_path)
    assert project == tmp_path / name
    if (project / "Makefile").exists():
        run(["make", f"PYTHON={sys.executable}"], project)
        assert "up to date" in run(["make"], project)
    library = project / (f"lib{name}.so" if (project / "Makefile").exists() else f"{name}.jl")
    loaded = lab.load(library)
    assert loaded is getattr(lab, name)
    assert {"mean", "scale"} <= set(loaded.kernels)
    assert loaded.functions["mean"].signature == "mean(x: f64[n]) -> f64"
    assert loaded.functions["mean"].doc == "the arithmetic mean."
    assert "3 passed" in run([sys.executable, "-m", "pytest", "-q", "--rootdir=."], project)
    packed(project, name, tmp_path)
    code = "".join(
        "".join(cell["source"]) + "\n"
        for cell in json.loads((project / f"{name}.ipynb").read_text())["cells"]
        if cell["cell_type"] == "code" and not "".join(cell["source"]).startswith("!")
    )
    run([sys.executable, "-c", code], project)


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_of_the_model_is_left(lab: Lab, language: str, tmp_path: Path) -> None:
    project = lab.new(language, "wave", tmp_path)
    for file in (it for it in project.rglob("*") if it.is_file() and "sdk" not in it.parts):
        assert "my_kernels" not in file.name
        assert "my_kernels" not in file.read_text()
        assert not re.search("@[A-Z]+@", file.read_text()), file
    nbformat.validate(nbformat.read(project / "wave.ipynb", as_version=4))


def test_nothing_is_overwritten(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(FileExistsError, match="nothing was written"):
            lab.new("zig", name, tmp_path)
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("name", ["", "two words", "9", "class", "_x", "größe", "nif", "lib", "../up", "a/b"])
def test_odd_names_are_refused(lab: Lab, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't be a project's name"):
        lab.new("zig", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_such_language(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no language 'cobol'"):
        lab.new("cobol", "wave", tmp_path)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["new", "zig", "wave", "--folder", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "project": str(tmp_path / "wave")}
    assert (tmp_path / "wave" / "src" / "wave.zig").is_file()
    assert main(command) == 1
    assert "nothing was written" in capsys.readouterr().err
