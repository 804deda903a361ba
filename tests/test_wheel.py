"""The wheel: everything in it, and nothing needed beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

# Runs inside the empty environment, where no compiler can be found.
SCRIPT = """
import json, shutil, sys
import numpy as np
import nif_lab
lab = nif_lab.Lab()
x = np.arange(100.0)
print(json.dumps({
    "home": nif_lab.__file__,
    "compilers": [p for p in ("cc", "cargo", "zig", "nim") if shutil.which(p)],
    "dot": {name: b.dot(x, x) for name, b in lab.backends.items() if b.loaded},
    "isolated": {name: lab.isolated[name].dot(x, x) for name, b in lab.backends.items() if b.loaded},
    "missing": {name: [b.reason, b.cure] for name, b in lab.backends.items() if not b.loaded},
    "header": open(nif_lab.get_include() + "/nif_lab.h").read(3),
}))
"""

CELLS = """
import json
import numpy as np
import nif_lab
from nif_lab import backends
lab = nif_lab.Lab(["rust", "zig", "nim"])
x = np.array([1.0, 2.0, 6.0])
print(json.dumps({name: lab.cell(name, backends.find(name).example).functions["mean"](x) for name in lab.backends}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # maturin
    subprocess.run([*command, str(ROOT)], env={**os.environ, "PATH": beside}, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    return folder / "bin" / "python"


def test_the_wheel_has_every_library(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for expected in (
        "libnif_rust.so",
        "libnif_zig.so",
        "libnif_nim.so",
        "nif_worker",
        "julia/Project.toml",
        "julia/src/NifLab.jl",
        "rust/Cargo.lock",
        "rust/nif/src/lib.rs",
        "zig/src/nif.zig",
        "nim/src/nif.nim",
    ):
        assert f"nif_lab/_native/{expected}" in names
    assert "nif_lab/include/nif_lab.h" in names
    extension = "data/data/share/jupyter/labextensions/nif_lab/"
    assert {"package.json", "static/remoteEntry.js", "schemas/nif_lab/cells.json"} <= {
        name.partition(extension)[2] for name in names if extension in name
    }
    assert any(name.startswith("nif_lab/_core.") for name in names)
    assert [name for name in names if name.startswith("nif_lab/bench/")] == []


def test_the_libraries_name_no_folder_of_this_machine(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        ours = [it for it in files.namelist() if "/_native/" in it or "dist-info/" in it]
        for name in ours:
            text = files.read(name)
            assert not any(str(place).encode() in text for place in (ROOT, Path.home())), name
    assert any("nif_worker" in it for it in ours)


def test_what_only_a_checkout_has_says_so(installed: Path, tmp_path: Path) -> None:
    program = installed.parent / "nif-lab"
    line = [program, "bench", "dispatch", "--rounds", "3"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "in a checkout" in done.stderr) == (1, True), done.stderr
    line = [program, "faults", "--backends", "rust", "--kinds", "panic", "--json"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["ok"], done.stderr


def test_it_works_in_an_empty_environment_without_compilers(installed: Path, tmp_path: Path) -> None:
    env = {"PATH": str(installed.parent), "HOME": str(tmp_path), "PYTHON_JULIAPKG_OFFLINE": "yes"}
    done = subprocess.run([installed, "-c", SCRIPT], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["home"].startswith(str(installed.parents[1]))
    assert answer["compilers"] == []
    assert answer["dot"] == answer["isolated"] == dict.fromkeys(("rust", "zig", "nim"), 328350.0)
    reason, cure = answer["missing"]["julia"]
    assert reason == "no Julia on this machine"
    assert "NIF_LAB_JULIA" in cure
    # The same environment with a Julia loads the sources that came with the wheel.
    from nif_lab.backends.julia import find_julia

    env["NIF_LAB_JULIA"] = shutil.which(find_julia().program) or ""
    done = subprocess.run([installed, "-c", SCRIPT], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["dot"]["julia"] == 328350.0, done.stderr
    assert os.listdir(tmp_path) == [".cache"], "nothing but caches is written"


def test_it_does_what_is_asked_of_it_on_other_processors(installed: Path) -> None:
    done = subprocess.run([installed, ROOT / "tests" / "smoke.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cells_need_no_checkout(installed: Path, tmp_path: Path) -> None:
    """Only the compilers, which are put on PATH here."""
    import ziglang

    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "zig").symlink_to(Path(ziglang.__file__).parent / "zig")
    own = ("HOME", "CARGO_HOME", "RUSTUP_HOME")  # where rustup's cargo looks for its compiler
    env = {name: os.environ[name] for name in own if name in os.environ}
    env["PATH"] = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    done = subprocess.run([installed, "-c", CELLS], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(("rust", "zig", "nim"), 3.0)
