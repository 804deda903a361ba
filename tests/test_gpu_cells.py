"""``%%cuda``: kernels of cells, against a stand-in for the driver and the compiler (tests/fake_cuda.c)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
from IPython.core.interactiveshell import InteractiveShell

from nif_lab import errors, folders
from nif_lab.cells.magics import Magics
from nif_lab.gpu.cells import _messages
from nif_lab.lab import Lab

LANGUAGES = ("rust", "zig", "nim", "julia")
MIXED = """extern "C" __global__
void mixed(char a, double b, int c, const float *__restrict__ x, short d, float* out) {}
"""
ONE = 'extern "C" __global__ void {}(double *x) {{}}\n'


pytestmark = pytest.mark.usefixtures("two_devices")


@pytest.fixture(scope="module")
def lab(two_devices: None) -> Lab:
    return Lab()


@pytest.fixture(scope="module")
def x(lab: Lab) -> Any:
    return lab.memory.to_device(np.arange(4.0))


@pytest.mark.parametrize("lane", ["isolated", "direct"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_kernel_of_a_cell_is_called_like_a_function(lab: Lab, language: str, lane: Any) -> None:
    cell = lab.gpu.cell(MIXED, name="mine")
    assert cell.listed().startswith("lab.gpu.mixed(char a, double b, int c, const float *x, short d, float *out), ")
    assert "mixed" in dir(lab.gpu)
    values, out = lab.memory.to_device(np.array([2.5], "f4")), lab.memory.allocate(5, "f4", device="gpu")
    lab.gpu.mixed(-3, 1.25, 7, values, -9, out, grid=(2, 3), block=4, language=language, lane=lane)
    assert out.numpy().tolist() == [-3, 1.25, 7, 2.5, -9]


def test_arguments_are_checked_before_anything_starts(lab: Lab) -> None:
    lab.gpu.cell(MIXED)
    mixed, y = lab.gpu.mixed, lab.memory.allocate(5, "f4", device="gpu")
    assert list(inspect.signature(mixed).parameters) == [*"abcxd", "out", "grid", "block", "shared", "language", "lane"]
    for arguments, message in (
        ((1, 2.0), "takes 6 arguments, 2 given"),
        ((1, 2.0, 3.5, y, 4, y), "mixed takes 'int c', got 3.5"),
        ((1, 2.0, 1 << 31, y, 4, y), "mixed takes 'int c', got 2147483648"),
        ((200, 2.0, 3, y, 4, y), "mixed takes 'char a', got 200"),
        ((1, 2.0, 3, np.zeros(5, "f4"), 4, y), "'x' is an array on a device, got ndarray"),
        ((1, 2.0, 3, lab.memory.allocate(5, device="gpu"), 4, y), "'x' has elements of type float, got float64"),
    ):
        with pytest.raises(errors.ArgumentTypeError, match=message):
            mixed(*arguments, grid=1, block=1)
    with pytest.raises(errors.ArgumentValueError, match="grid"):
        mixed(1, 2.0, 3, y, 4, y, grid=0, block=1)
    with pytest.raises(TypeError, match="grid"):
        mixed(1, 2.0, 3, y, 4, y)


def test_a_kernel_that_fails_is_an_error_and_the_device_works_on(lab: Lab, x: Any) -> None:
    """A cell's kernels run in a worker unless they are told otherwise."""
    lab.gpu.cell(ONE.format("wild") + ONE.format("crash"))
    with pytest.raises(errors.GpuFault) as fault:
        lab.gpu.wild(x, grid=1, block=1, language="zig")
    seen = fault.value
    assert (seen.name, seen.kernel, seen.backend, seen.has_ended) == ("CUDA_ERROR_ILLEGAL_ADDRESS", "wild", "zig", True)
    with pytest.raises(errors.WorkerCrashed):
        lab.gpu.crash(x, grid=1, block=1, language="zig")
    lab.gpu.synchronize()
    assert x.numpy().tolist() == [0, 1, 2, 3]


def test_what_the_compiler_says_is_under_the_cells_lines(lab: Lab) -> None:
    source = '  extern "C" __global__ void none(int n) {\n    \n    int k; no_such_type x;\n  }'
    with pytest.raises(errors.CellError) as wrong:
        lab.gpu.cell(source, name="mine")
    (message,) = wrong.value.messages
    assert (message.line, message.column, message.is_error) == (3, source.split("\n")[2].index("no_such") + 1, True)
    assert str(wrong.value.report) == (
        "cuda cell mine: 1 error\n\n"
        'error: line 3, column 12: identifier "no_such_type" is undefined\n'
        "   3 |     int k; no_such_type x;\n" + " " * 18 + "^"
    )
    for source, said in (
        ("int f() { return 1; }", 'no kernel\nTo fix: begin one as here:\nextern "C" __global__ void scale'),
        ('extern "C" __global__ void none(float4 v) {}', "parameter 'v' has a type that can't be passed: 'float4'"),
        (ONE.format("axpy"), "'axpy' means something else in lab.gpu"),
        ("  \n", "it is empty"),
    ):
        with pytest.raises(errors.CellError, match=said.replace("(", r"\(")):
            lab.gpu.cell(source)
    with pytest.raises(errors.ArgumentValueError, match="lane"):
        lab.gpu.cell(MIXED, lane="elsewhere")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="'nothing'"):
        lab.gpu.nothing  # noqa: B018


def test_messages_of_nvrtc_are_read(lab: Lab) -> None:
    """As NVRTC 13.0 writes them: a warning with its number, a note that is about no line, a count at the end."""
    log = (
        'cell.cu(2): warning #177-D: variable "k" was declared but never referenced\n      int k;\n          ^\n\n'
        "Remark: The warnings can be suppressed\n\n"
        'cell.cu(3): error: expected a ";"\n  }\n  ^\n\n1 error detected in the compilation of "cell.cu".\n'
    )
    found = [(it.line, it.column, it.is_error, it.text) for it in _messages(log, "{\n    int k;\n  }")]
    assert found == [
        (2, 9, False, 'variable "k" was declared but never referenced'),
        (3, 3, True, 'expected a ";"'),
    ]


def test_a_cell_that_is_run_again_takes_its_place(lab: Lab, x: Any) -> None:
    first = lab.gpu.cell(ONE.format("none") + ONE.format("three"), name="mine")
    held = lab.gpu.three
    second = lab.gpu.cell('extern "C" __global__ void three(double *x, int n) {}', name="mine")
    assert (second.notes, set(first.functions)) == ((), {"none", "three"})
    assert held is lab.gpu.three
    assert held.kernel.signature == "three(double *x, int n)"
    held(x, 4, grid=1, block=1)
    assert not hasattr(lab.gpu, "none"), "the cell has it no longer"
    other = lab.gpu.cell(ONE.format("three"), name="another")
    assert other.notes == ("three was a kernel of mine",)
    assert held.kernel.signature == "three(double *x)"


def test_a_cell_is_compiled_once_for_all(lab: Lab) -> None:
    lab.gpu.cell(ONE.format("none"))
    kept = sorted(folders.private("gpu").iterdir())
    lab.gpu.cell(ONE.format("none"), lane="direct")
    assert sorted(folders.private("gpu").iterdir()) == kept
    lab.gpu.cell(ONE.format("none"), flags="--use_fast_math")
    assert len(list(folders.private("gpu").iterdir())) == len(kept) + 1


def test_the_magic_makes_a_lab_and_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell()
    magics = Magics(shell)
    cuda = magics._ours["cuda"]
    cuda("--lane direct", ONE.format("none"))
    assert capsys.readouterr().out.startswith("lab.gpu.none(double *x), ")
    assert shell.user_ns["lab"].gpu.none.lane == "direct"
    cuda("--quiet", ONE.format("none"))
    assert not capsys.readouterr().out
    assert shell.user_ns["lab"].gpu.none.lane == "isolated"
    with pytest.raises(errors.CellError, match="line 3, column 1: identifier"):
        cuda("--name mine", ONE.format("none") + "no_such_type y;")
    with pytest.raises(errors.ArgumentValueError, match="--wrong"):
        cuda("--wrong", ONE.format("none"))
    assert "grid=4, block=256" in (cuda.__doc__ or "")


ABSENT = """
from nif_lab.lab import Lab
from nif_lab.errors import GpuUnavailable
for source in ('extern "C" __global__ void none() {}', "no kernel"):
    try:
        Lab(["rust"]).gpu.cell(source)
    except GpuUnavailable as error:
        print(error)
"""


@pytest.mark.parametrize("missing", ["NIF_LAB_GPU_DRIVER", "NIF_LAB_NVRTC"])
def test_without_a_device_or_a_compiler_the_cure_is_said(missing: str, tmp_path: Path) -> None:
    said = standin.run(f"import os\nos.environ[{missing!r}] = '/no/such/file.so'\n{ABSENT}", tmp_path)
    assert said.count("To fix: ") == 2
    assert said.count("NVRTC") >= 2 or missing == "NIF_LAB_GPU_DRIVER"
