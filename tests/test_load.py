"""Libraries of anybody's: what is loaded, what is refused, and TVM FFI in both directions."""

from __future__ import annotations

import functools
import inspect
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_ffi

import nif_lab
from nif_lab.arguments import LANES
from nif_lab.backends.base import WORKER, find_program
from nif_lab.errors import (
    AbiError,
    BackendError,
    NifError,
    NifMemoryError,
    NifTypeError,
    NifValueError,
    WorkerCrashed,
)
from nif_lab.lab import Lab, LoadedBackend
from nif_lab.recovery import RecoveryPolicy

SOURCES = Path(__file__).parent / "loading"
TVM = Path(tvm_ffi.__file__).parent


def compile_c(source: str, to: Path, *flags: str) -> Path:
    compiler = find_program("cc")
    assert compiler, "no C compiler: install gcc, or clang"
    include = f"-I{nif_lab.get_include()}"
    # The libraries come after what needs them.
    subprocess.run([compiler, "-shared", "-fPIC", include, str(SOURCES / source), *flags, "-o", str(to)], check=True)
    return to


@functools.cache
def struct_hash() -> str:
    """This version's, as the Zig library computes it."""
    import abi_client

    return f"{abi_client.Client(Path(nif_lab.library_path('zig'))).library.struct_hash}u"


def table(folder: Path, **what: str) -> Path:
    defines = {"EMPTY": "0", "FUNCTION": '"f"', **what}
    return compile_c("table.c", folder / "libtable.so", *(f"-D{name}={value}" for name, value in defines.items()))


@pytest.fixture
def mine() -> Lab:
    return Lab(backends=[], policy=RecoveryPolicy(retries=0, failover=False, crashes=None))


@pytest.fixture(scope="module")
def tvm_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("tvm") / "libtvm-made.so"
    return compile_c("tvm.c", to, f"-I{TVM / 'include'}", f"-L{TVM / 'lib'}", "-ltvm_ffi")


@pytest.fixture(scope="module", params=LANES)
def tvm(request: pytest.FixtureRequest, tvm_library: Path) -> LoadedBackend:
    lab = Lab(backends=[], policy=RecoveryPolicy(retries=0, failover=False, crashes=None))
    loaded = lab.load(tvm_library, lane=request.param)
    loaded.lab = lab  # it lives as long
    return loaded


@pytest.mark.parametrize("lane", LANES)
def test_a_library_is_a_backend(mine: Lab, lane: str, tmp_path: Path) -> None:
    file = shutil.copy(nif_lab.library_path("zig"), tmp_path / "libother-one.so.1")
    other = mine.load(file, lane=lane)
    x = np.arange(10.0)
    assert other is mine.other_one
    assert other.lane == lane
    assert mine.other_one.dot(x, x) == x @ x
    assert mine.call("other_one", "dot", x, x) == x @ x
    assert getattr(mine, {"direct": "isolated", "isolated": "direct"}[lane]).other_one.dot(x, x) == x @ x
    assert ("other_one", "dot") in {(it.backend, it.function) for it in mine.snapshot().functions if it.calls}
    assert "other_one" in repr(mine)
    assert "other_one" in mine._repr_html_()
    assert "other_one" in mine.dashboard().text()
    assert "dot" in dir(other)
    with pytest.raises(NifTypeError, match=r"^other_one.dot\(\): argument 'y': expected f64\[n\], got str$"):
        other.dot(x, "y")


def test_its_workers_are_its_own_and_recover(tmp_path: Path) -> None:
    lab = Lab(backends=["zig"], lane="isolated")
    mine = lab.load(shutil.copy(nif_lab.library_path("zig"), tmp_path / "libmine.so"))
    theirs = lab.zig.workers.pids
    assert not set(mine.workers.pids) & set(theirs)
    with pytest.raises(WorkerCrashed, match="mine"):
        mine.fault("null_store", np.array([1, int.from_bytes(b"zig".ljust(8, b"\0"), "little"), 0]), np.ones(1))
    assert mine.add(1, 2) == 3
    assert set(theirs) <= set(lab.zig.workers.pids)


def test_it_never_answers_for_a_language(tmp_path: Path) -> None:
    """A function of the same name and signature may mean something else."""
    lab = Lab(backends=["zig"], lane="isolated", policy=RecoveryPolicy(retries=0, failover=True))
    lab.load(shutil.copy(nif_lab.library_path("rust"), tmp_path / "libmine.so"))
    with pytest.raises(NifError) as caught:
        lab.zig.panic("no")
    assert all(it.backend == "zig" for it in caught.value.tried)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"VERSION": "2u", "HASH": "1u"}, "speaks version 2 of the ABI, this nif_lab 1"),
        ({"HASH": "1u"}, "another struct layout"),
        ({"EMPTY": "1"}, "its nif_init returned nothing"),
        ({"HASH": "", "FUNCTION": '"workers"'}, "'workers' is a reserved attribute name"),
        ({"HASH": "", "FUNCTION": '"no("'}, "signature .* no '\\)'"),
    ],
    ids=["version", "layout", "no table", "a name of ours", "no signature"],
)
def test_wrong_tables_are_refused(mine: Lab, lane: str, what: dict[str, str], says: str, tmp_path: Path) -> None:
    what = {name: value or struct_hash() for name, value in what.items()}
    with pytest.raises(AbiError, match=says):
        mine.load(table(tmp_path, **what), lane=lane)
    assert not mine.libraries
    with pytest.raises(AttributeError):
        _ = mine.table
    good = tmp_path / "good"
    good.mkdir()
    assert mine.load(table(good, HASH=struct_hash()), lane=lane).f() is None


def test_one_that_ends_its_process_is_refused(mine: Lab, tmp_path: Path) -> None:
    with pytest.raises(AbiError, match="SIGABRT"):
        mine.load(table(tmp_path, CRASH="1"))


def test_a_file_that_lost_a_function_is_not_opened_afresh(mine: Lab, tmp_path: Path) -> None:
    """After a failure that skipped clean-up the file is opened again; it may have been built again in between."""
    path = table(tmp_path, HASH=struct_hash(), TAINT="1")
    loaded = mine.load(path, lane="direct")
    with pytest.raises(NifError, match="skipped its clean-up"):
        loaded.f()
    other = tmp_path / "other"
    other.mkdir()
    table(other, HASH=struct_hash(), FUNCTION='"g"').rename(path)
    with pytest.raises(AbiError, match=r"(?s)no longer has 'f\(\) -> None'.*load it again"):
        loaded.f()


@pytest.mark.parametrize("lane", LANES)
def test_files_that_are_no_libraries_are_refused(mine: Lab, lane: str, tmp_path: Path) -> None:
    with pytest.raises(AbiError, match=r"isn't there\nTo fix: build the library first"):
        mine.load(tmp_path / "gone.so", lane=lane)
    with pytest.raises(AbiError, match="is a folder"):
        mine.load(tmp_path, "folder", lane=lane)
    text = tmp_path / "text.so"
    text.write_text("#include <stdio.h>")
    with pytest.raises(AbiError, match="no ELF header"):
        mine.load(text, lane=lane)
    other = shutil.copy(find_program("python3") or "", tmp_path / "program.so")
    with pytest.raises(AbiError, match=r"neither a NIF library \(no nif_init\) nor one of TVM FFI|shared object"):
        mine.load(other, lane=lane)


def test_damaged_files_are_refused(mine: Lab, rng: np.random.Generator, tmp_path: Path) -> None:
    """Never loaded in this process where it is cut: the loader would die of it."""
    whole = Path(nif_lab.library_path("zig")).read_bytes()
    file = tmp_path / "libcut.so"
    for length in [0, 5, 63, 64, 100, *rng.integers(0, len(whole) - 1, 20).tolist()]:
        file.write_bytes(whole[:length])
        with pytest.raises(AbiError):
            mine.load(file, lane="direct")


def test_names(mine: Lab, tmp_path: Path) -> None:
    file = Path(nif_lab.library_path("zig"))
    for taken in ("zig", "load", "memory", "transfer"):
        with pytest.raises(ValueError, match=f"this Lab has a '{taken}' already.*name="):
            mine.load(file, taken)
    for odd in ("two words", "1st", "class", "_hidden", ""):
        with pytest.raises(ValueError, match="can't be a backend's name"):
            mine.load(file, odd)
    with pytest.raises(ValueError, match="no lane 'fast'"):
        mine.load(file, "mine", lane="fast")
    mine.load(file, "mine")
    with pytest.raises(ValueError, match="'mine' already"):
        mine.load(file, "mine")


def test_tvm_functions(tvm: LoadedBackend, rng: np.random.Generator) -> None:
    x = rng.normal(size=100)
    assert set(tvm.functions) == {"total", "double_all", "count", "echo", "table", "tables", "raise", "crash"}
    assert tvm.total(x) == pytest.approx(x.sum())
    assert tvm.total(x[::-3]) == pytest.approx(x[::-3].sum())
    changed = x.copy()
    assert tvm.double_all(changed) is None
    np.testing.assert_array_equal(changed, 2 * x)
    matrix = rng.normal(size=(3, 4))
    tvm.double_all(changed := matrix.copy())
    np.testing.assert_array_equal(changed, 2 * matrix)
    assert tvm.count() == 0
    assert tvm.count(*range(16)) == 16
    assert inspect.signature(tvm.count).parameters["args"].kind is inspect.Parameter.VAR_POSITIONAL
    for value in (None, True, -7, 2.5, "", "short", "longer than seven bytes 🦀"):
        assert tvm.echo(value) == value


def test_tvm_arrays_come_back(tvm: LoadedBackend) -> None:
    for rows in (0, 1, 5):
        made = tvm.table(rows)
        np.testing.assert_array_equal(made, 10.0 * np.arange(rows)[:, None] + np.arange(3))
    assert tvm.tables() == 0, "each is freed once it is copied"


def test_tvm_errors(tvm: LoadedBackend) -> None:
    kinds = {"TypeError": NifTypeError, "ValueError": NifValueError, "MemoryError": NifMemoryError}
    for kind, raised in kinds.items():
        with pytest.raises(raised, match=rf"^{tvm.name}.raise\(\): no: ünïcödé$"):
            getattr(tvm, "raise")(kind, "no: ünïcödé")
    with pytest.raises(NifError, match=r"raise\(\): IndexError: too far$"):
        getattr(tvm, "raise")("IndexError", "too far")
    with pytest.raises(NifTypeError, match="expected a tensor"):
        tvm.total("x")
    with pytest.raises(NifTypeError, match="takes up to 16 arguments, none by name"):
        tvm.total(x=np.ones(3))
    with pytest.raises(NifTypeError, match="takes up to 16 arguments"):
        tvm.count(*range(17))
    with pytest.raises(NifTypeError, match="expected any, got list"):
        tvm.count([1])
    with pytest.raises(NifTypeError, match="type index 9"):
        tvm.echo(b"bytes")
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(NifValueError, match="is read-only"):
        tvm.total(frozen)


def test_a_crash_in_a_tvm_function_ends_its_worker_alone(mine: Lab, tvm_library: Path) -> None:
    loaded = mine.load(tvm_library)
    with pytest.raises(WorkerCrashed, match="SIGABRT"):
        loaded.crash()
    assert loaded.count(1) == 1


def test_tvm_needs_its_runtime(mine: Lab, tvm_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nif_lab.loading._tvm_runtime", str)
    with pytest.raises(AbiError, match=r"libtvm_ffi.so[\s\S]*pip install apache-tvm-ffi"):
        mine.load(tvm_library)


@pytest.mark.parametrize("language", ["rust", "zig", "nim"])
@pytest.mark.parametrize("convert", [lambda it: it, tvm_ffi.from_dlpack], ids=["NumPy", "DLPack"])
def test_tvm_loads_ours(language: str, convert: Any, rng: np.random.Generator) -> None:
    module = tvm_ffi.load_module(nif_lab.library_path(language))
    x, y = rng.normal(size=(2, 100))
    assert module.dot(convert(x), convert(y)) == pytest.approx(x @ y)
    with pytest.raises(ValueError, match=r"^dot\(\): argument 'y': expected f64\[n\] with n = 100, got f64\[99\]$"):
        module.dot(convert(x), convert(y[:99]))
    with pytest.raises(TypeError, match="takes 2 arguments, 1 given"):
        module.dot(convert(x))


def test_library_path_refuses() -> None:
    with pytest.raises(BackendError, match=r"Julia has no library file[\s\S]*rust, zig, nim"):
        nif_lab.library_path("julia")
    with pytest.raises(ValueError, match="no language 'c'"):
        nif_lab.library_path("c")


@pytest.mark.parametrize("lane", LANES)
def test_a_file_of_julia_functions(mine: Lab, lane: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jl"
    file.write_text('"`twice(x)`: {2 x} \\$x."\ntwice(x::Float64)::Float64 = 2x\n')
    assert mine.load(file, lane=lane).twice(4) == 8
    assert mine.mine.functions["twice"].doc == "{2 x} $x."
    file.write_text("twice(x::Float64)::Float64 = 2x\n\nthrice(x::Float64)::Float64 = 3x +\n")
    with pytest.raises(AbiError, match=r"mine.jl:3: "):
        mine.load(file, "broken", lane=lane)


def test_without_the_worker_it_says_so(mine: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = nif_lab.library_path("zig")
    monkeypatch.setattr("nif_lab.backends.base.WORKER", WORKER + "-gone")
    with pytest.raises(BackendError, match="nif-lab build rust"):
        mine.load(file, "mine")
