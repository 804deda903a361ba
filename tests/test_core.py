"""Opening libraries and calling them: what the core itself refuses, survives and promises."""

from __future__ import annotations

import gc
import inspect
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nif_lab import Lab, _core, get_include
from nif_lab.errors import AbiError, NifError, NifPanic, NifTypeError, NifValueError

PREAMBLE = """
#include "nif_lab.h"
static int32_t call(void *env, const nif_any *args, int32_t n, nif_any *result) {
  result->type_index = NIF_INT; result->zero = 0; result->v.i = n; return 0;
}
"""

WHOLE = (
    PREAMBLE
    + """
static int32_t load(const nif_host *host) { return LOAD; }
static const nif_function functions[] = {{NAME, SIGNATURE, "doc", call, 0, 0}};
static const nif_library library = {VERSION, HASH, "c", "cc", "1", 1, 0, functions, load, 0};
const nif_library *nif_init(const nif_host *host) { return RETURNED; }
"""
)


@pytest.fixture(scope="session")
def struct_hash() -> int:
    """Compute the hash of docs/abi.md from the lines of `layout()`."""
    value = 2166136261
    for line in _core.layout().splitlines():
        number = int(line.split()[1])
        value = ((value ^ number) * 16777619) & 0xFFFFFFFF
    return value


@pytest.fixture
def compile_c(tmp_path: Path, struct_hash: int) -> Callable[..., Path]:
    """Compile a C library; keyword arguments replace the macros of WHOLE."""

    def compile_(source: str = WHOLE, name: str = "lib.so", **macros: str | int) -> Path:
        defaults = {
            "NAME": '"f"',
            "SIGNATURE": '"f() -> i64"',
            "VERSION": 1,
            "HASH": f"{struct_hash}u",
            "LOAD": 0,
            "RETURNED": "&library",
        }
        defines = [f"-D{key}={value}" for key, value in {**defaults, **macros}.items()]
        (tmp_path / "lib.c").write_text(source)
        out = tmp_path / name
        command = ["cc", "-shared", "-fPIC", f"-I{get_include()}", *defines, "-o", str(out), str(tmp_path / "lib.c")]
        subprocess.run(command, check=True)
        return out

    return compile_


def test_a_c_library_opens_and_answers(compile_c) -> None:
    library = _core.open_library(str(compile_c()), "c")
    assert (library.backend, library.language, library.compiler) == ("c", "c", "cc")
    assert library.functions["f"].function() == 0


BOUND = (
    """
#define _GNU_SOURCE
#include <unistd.h>
"""
    + PREAMBLE
    + """
static int64_t loaded_on;
static int32_t here(void *env, const nif_any *args, int32_t n, nif_any *result) {
  result->type_index = NIF_INT; result->zero = 0; result->v.i = gettid(); return 0;
}
static int32_t there(void *env, const nif_any *args, int32_t n, nif_any *result) {
  result->type_index = NIF_INT; result->zero = 0; result->v.i = loaded_on; return 0;
}
static int32_t load(const nif_host *host) { loaded_on = gettid(); return 0; }
static const nif_function functions[] = {
  {"bound", "bound() -> i64", "", here, NIF_FLAG_THREAD_BOUND, 0}, {"free", "free() -> i64", "", here, 0, 0},
  {"loaded_on", "loaded_on() -> i64", "", there, 0, 0}};
static const nif_library library = {VERSION, HASH, "c", "cc", "1", 3, 0, functions, load, 0};
const nif_library *nif_init(const nif_host *host) { return &library; }
"""
)


def test_a_thread_bound_function_runs_on_the_thread_that_loaded_it(compile_c) -> None:
    functions = {name: nif.function for name, nif in _core.open_library(str(compile_c(BOUND)), "c").functions.items()}
    seen = set()

    def call() -> None:
        assert functions["free"]() == threading.get_native_id()
        seen.add(functions["bound"]())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    call()
    for thread in threads:
        thread.join()
    assert seen == {functions["loaded_on"]()}
    assert functions["loaded_on"]() != threading.get_native_id()


@pytest.mark.parametrize(
    ("macros", "says"),
    [
        ({"VERSION": 0}, "speaks version 0 of the ABI, this nif_lab 1"),
        ({"HASH": "1u"}, "another struct layout"),
        ({"RETURNED": "0"}, "its nif_init returned nothing"),
        ({"LOAD": 7}, "its load hook failed with status 7"),
        ({"SIGNATURE": '"f(x)"'}, "signature 'f(x)'"),
        ({"NAME": '"g"'}, "listed twice, or under another name"),
    ],
    ids=str,
)
def test_a_library_of_another_make_is_refused(compile_c, macros, says) -> None:
    with pytest.raises(AbiError) as caught:
        _core.open_library(str(compile_c(**macros)), "c")
    assert says in str(caught.value)


def test_a_library_without_the_symbol_is_not_ours(compile_c) -> None:
    with pytest.raises(AbiError, match="is not a NIF library: it exports no nif_init"):
        _core.open_library(str(compile_c("int unrelated(void) { return 1; }")), "c")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"\x7fELF", b"not a library at all" * 10):
        path = tmp_path / "lib.so"
        path.write_bytes(content)
        with pytest.raises(AbiError, match="not a whole shared library"):
            _core.open_library(str(path), "c")
    with pytest.raises(AbiError, match="No such file"):
        _core.open_library(str(tmp_path / "none.so"), "c")
    with pytest.raises(AbiError):
        _core.open_library(str(tmp_path), "c")


def test_a_cut_off_library_never_kills_the_process(library: Path, tmp_path: Path) -> None:
    """The dynamic loader would die of SIGBUS on what the headers promise and the file lacks."""
    whole = library.read_bytes()
    cut = tmp_path / "cut.so"
    for length in (1, 63, 64, 500, len(whole) // 4, len(whole) // 2):
        cut.write_bytes(whole[:length])
        with pytest.raises(AbiError, match="not a whole shared library"):
            _core.open_library(str(cut), "c")


def test_signature_doc_and_keywords(backend) -> None:
    axpy = backend.axpy
    assert str(inspect.signature(axpy)) == "(a, x, y)"
    assert "out=None" in str(inspect.signature(backend.transpose))
    assert "axpy(a: f64, x: f64[n], y: mut f64[n]) -> None" in axpy.__doc__
    assert axpy.__name__ == "axpy"
    y = np.ones(3)
    axpy(y=y, x=np.ones(3), a=2.0)
    assert y.tolist() == [3, 3, 3]
    with pytest.raises(NifTypeError, match="has no parameter 'z'"):
        axpy(1.0, y, z=y)
    with pytest.raises(NifTypeError, match="has two values for parameter 'a'"):
        axpy(1.0, y, a=1.0)


def test_numpy_scalars_and_array_subclasses_count_as_what_they_are(backend) -> None:
    for one in (1, True, 1.0, np.float32(1), np.float64(1), np.int8(1), np.uint64(1), np.bool_(True)):
        assert backend.add(one, 1) == 2.0
    x = np.arange(4.0)
    assert backend.sum(x.view(np.recarray)) == 6.0
    with pytest.raises(NifTypeError, match="expected f64, got complex"):
        backend.add(np.complex128(1), 1)


def test_errors_say_where_and_carry_it(backend) -> None:
    with pytest.raises(NifValueError) as caught:
        backend.dot(np.ones(100), np.ones(99))
    error = caught.value
    assert str(error) == f"{backend.name}.dot(): argument 'y': expected f64[n] with n = 100, got f64[99]"
    assert (error.backend, error.function, error.argument) == (backend.name, "dot", "y")
    assert error.reason == "expected f64[n] with n = 100, got f64[99]"
    assert isinstance(error, ValueError)


def test_counters_count_calls_and_errors(lab: Lab, backend) -> None:
    before = lab.snapshot().function(backend.name, "add", backend.lane)
    for _ in range(5):
        backend.add(1, 2)
    with pytest.raises(NifError):
        backend.add("x", 2)
    after = lab.snapshot().function(backend.name, "add", backend.lane)
    assert (after.calls - before.calls, after.errors - before.errors) == (6, 1)


def test_every_thread_may_call(lab: Lab, backend) -> None:
    x = np.arange(1000.0)
    expected = backend.dot(x, x)
    wrong: list[float] = []
    before = lab.snapshot().function(backend.name, "dot", backend.lane).calls

    def work() -> None:
        wrong.extend(got for got in (backend.dot(x, x) for _ in range(500)) if got != expected)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert lab.snapshot().function(backend.name, "dot", backend.lane).calls - before == 4000


def test_results_in_shared_memory_outlive_everything_else(lab: Lab, backend) -> None:
    array = backend.write(np.arange(10.0))
    view = array[2:5]
    del array
    gc.collect()
    assert view.tolist() == [2, 3, 4]
    assert _core.in_shared_memory(view.ctypes.data, view.nbytes)
    address = view.ctypes.data
    del view
    gc.collect()
    lab.memory.trim()  # a block that an array gave back is kept for the next one
    assert not _core.in_shared_memory(address, 8)


def test_a_panic_leaves_everything_usable(backend) -> None:
    held = backend.dot
    for i in range(50):
        with pytest.raises(NifPanic, match=f"number {i}"):
            backend.panic(f"number {i}")
    assert held(np.ones(3), np.ones(3)) == 3.0


def test_a_library_whose_clean_up_was_skipped_is_opened_afresh_each_time(lab: Lab) -> None:
    """Zig leaves a panic by longjmp. The fresh copy isn't the one before, and those before are gone: none piles up."""

    def copies() -> set[str]:
        maps = Path("/proc/self/maps").read_text()
        return {line.split()[4] for line in maps.splitlines() if "nif_lab library" in line}

    seen: set[str] = set()
    others = copies()  # other Labs may have some
    for i in range(10):
        with pytest.raises(NifPanic):
            lab.zig.panic("tainted")
        assert lab.zig.add(1, 2) == 3.0
        (now,) = copies() - others
        assert now not in seen, f"panic {i} left the library as it was"
        seen.add(now)


def interrupt_after(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_ctrl_c_ends_a_long_call(backend) -> None:
    """And Ctrl-C works at all after Julia is loaded."""
    timer = interrupt_after(0.3)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        backend.mandelbrot(2000, 2000, -0.5, 0.5, -0.5, 0.5, 20_000)
    timer.join()
    assert time.monotonic() - start < 5
    assert backend.add(1, 1) == 2.0


def test_ctrl_c_in_plain_python_after_all_languages_are_loaded(lab) -> None:
    timer = interrupt_after(0.1)
    with pytest.raises(KeyboardInterrupt):
        time.sleep(10)
    timer.join()


@pytest.mark.serial
def test_import_starts_nothing() -> None:
    code = (
        "import sys, time; t = time.process_time(); import nif_lab; t = time.process_time() - t;"
        "print(t, [m for m in ('numpy', 'juliacall', 'matplotlib', 'ipywidgets', 'nif_lab._core') if m in sys.modules])"
    )
    seconds, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split(" ", 1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 0.1


@pytest.mark.slow
def test_cpp_libraries_loaded_after_julia_can_throw() -> None:
    """Julia's libunwind must not take the place of C++'s own unwinder: matplotlib's next exception aborted."""
    code = (
        "import nif_lab; lab = nif_lab.Lab(lane='direct'); assert lab.julia.add(1, 2) == 3;"
        "from matplotlib import ft2font; print(getattr(ft2font, 'nothing', 'fine'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr


def test_exit_is_clean_with_everything_alive(tmp_path: Path) -> None:
    code = (
        "import nif_lab, numpy as np; lab = nif_lab.Lab(lane='direct');"
        "kept = [b.write(np.arange(9.0)) for b in lab.backends.values()]; f = lab.zig.dot; print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


def test_a_library_may_be_replaced_while_it_is_loaded(library: Path, tmp_path: Path) -> None:
    shutil.copy(library, tmp_path / "lib.so")
    first = _core.open_library(str(tmp_path / "lib.so"), "copy")
    shutil.copy(library, tmp_path / "new.so")
    (tmp_path / "new.so").replace(tmp_path / "lib.so")
    second = _core.open_library(str(tmp_path / "lib.so"), "copy")
    assert first.functions["add"].function(1, 2) == second.functions["add"].function(1, 2) == 3.0


class Meddler(np.float32):
    """A scalar whose conversion runs a program."""

    act: Callable[[], Any]

    def item(self) -> Any:
        self.act()
        return float(self)


@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")
@pytest.mark.parametrize("lane", ["direct", "isolated"])
def test_a_call_reads_shapes_that_nobody_changes_any_more(lab, lane: str) -> None:
    """Converting a scalar runs Python code, which gives an earlier argument another shape: NumPy frees the old one."""
    x, y = np.arange(6.0), np.zeros(6)
    scalar = Meddler(2)

    def act() -> None:
        x.shape = (2, 3)
        x.shape = (6,)
        junk.extend(np.zeros((12345, 1)).reshape(-1) for _ in range(50))

    junk: list[np.ndarray] = []
    scalar.act = act
    for name in ("rust", "zig", "nim", "julia"):
        y[:] = 1
        lab.call(name, "axpy", scalar, x, y, lane=lane)
        assert (y == 1 + 2 * np.arange(6.0)).all()
        junk.clear()
    scalar.act = lambda: setattr(x, "shape", (2, 3))
    with pytest.raises(NifValueError, match=r"argument 'x': expected f64\[n\], got f64\[2,3\]"):
        lab.call("rust", "axpy", scalar, x, y, lane=lane)


@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")
@pytest.mark.parametrize("lane", ["direct", "isolated"])
def test_another_thread_may_reshape_while_a_call_runs(lab, lane: str) -> None:
    """The callee of a long call goes on with the shape that the call began with."""
    z = np.random.default_rng(0).normal(size=(300, 200))
    expected = lab.rust.smooth(z, 40)
    stop = threading.Event()

    def reshape() -> None:
        while not stop.is_set():
            z.shape = (200, 300)
            np.zeros((12345, 1)).reshape(-1)
            z.shape = (300, 200)

    thread = threading.Thread(target=reshape)
    thread.start()
    try:
        answers = [lab.call(name, "smooth", z, 40, lane=lane) for name in ("rust", "zig", "nim") for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    for answer in answers:  # either shape, of one moment, is right
        assert answer.shape in {(300, 200), (200, 300)}
        if answer.shape == expected.shape:
            np.testing.assert_allclose(answer, expected, rtol=1e-12, atol=1e-16)  # near 0 what was added up counts


@pytest.mark.parametrize("lane", ["direct", "isolated"])
def test_a_masked_array_is_refused_with_its_cure(lab, lane: str) -> None:
    x = np.ma.masked_array([1.0, 2.0, 1e6], mask=[False, False, True])
    for name in ("rust", "zig", "nim", "julia"):
        with pytest.raises(NifTypeError, match=r"got a masked array \(fill it: x\.filled\(value\)\)"):
            lab.call(name, "sum", x, lane=lane)
        assert lab.call(name, "sum", x.filled(0), lane=lane) == 3.0


def test_arrays_of_any_number_of_axes_cross_in_both_lanes(lab) -> None:
    for axes in (9, 12, 64):
        x = np.arange(2.0 ** min(axes, 12)).reshape((2,) * min(axes, 12) + (1,) * (axes - min(axes, 12)))
        turned = x.T[::-1]
        for lane in ("direct", "isolated"):
            for name in ("rust", "zig", "nim", "julia"):
                assert lab.call(name, "checksum", x, lane=lane) == lab.rust.checksum(x.ravel())
        workers = lab.isolated.rust.workers
        started = workers.started
        with pytest.raises(NifValueError):  # not in one piece: the callee's own refusal, and no worker is lost
            lab.call("rust", "checksum", turned, lane="isolated", strict=True)
        assert workers.started == started


def test_an_output_over_a_sparse_argument_is_refused_in_both_lanes(lab) -> None:
    for lane in ("direct", "isolated"):
        for name in ("rust", "zig", "nim", "julia"):
            whole = np.arange(200_000.0).reshape(400, 500)
            sparse, out = whole[::40, ::50], whole[:10, :10]
            with pytest.raises(NifValueError, match="argument 'out': overlaps argument 'a'"):
                lab.call(name, "transpose", sparse, out, lane=lane)
            apart = np.empty((10, 10))
            lab.call(name, "transpose", sparse, apart, lane=lane)
            assert (apart == sparse.T).all()
