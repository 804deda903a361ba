"""Stubs and what Python tells of a function agree, and a type checker takes a program that uses them."""

from __future__ import annotations

import errno
import inspect
import json
import os
import pydoc
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nif_lab import backends, hints
from nif_lab.cli import main
from nif_lab.errors import SystemRefusal
from nif_lab.exporters import write_perfetto
from nif_lab.panels import MemoryPanel

if TYPE_CHECKING:
    from nif_lab.lab import Lab

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
CODE = """
pub fn stats_of(x: []const f64) struct { mean: f64, count: i64 } {
    return .{ .mean = x[0], .count = @intCast(x.len) };
}
pub fn applied(f: nif.Callback(fn (f64) f64), x: f64) !f64 {
    return f.call(.{x});
}
"""
PROGRAM = """
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

import nif_lab

if TYPE_CHECKING:
    import lab_stubs

lab = cast("lab_stubs.Lab", nif_lab.Lab())
total: float = lab.zig.dot(np.ones(3), [1.0, 2.0, 3.0])
turned: NDArray[np.float64] = lab.isolated.julia.transpose(np.ones((2, 3)))
counts: NDArray[np.int64] = lab.rust.histogram(np.ones(3), bins=4, low=0.0, high=1.0)
mean: float = lab.zig.stats_of(np.ones(3)).mean
root: float = lab.zig.applied(abs, 2.0)
"""


def test_signatures_as_python_has_them() -> None:
    read = hints.parsed('f(x: i32[n], g: fn(f64,u8)->None, t: str = "a, (b", *, by: f64?, out: mut f32[n]) -> None')
    assert [(it.name, it.annotation, it.default, it.is_keyword) for it in read.parameters] == [
        ("x", "Array", "", False),
        ("g", "Callable[[float, int], object]", "", False),
        ("t", "str", '"a, (b"', False),
        ("by", "float | None", "", True),
        ("out", "Array | None", "None", True),
    ]
    assert read.result == "NDArray[np.float32]"
    assert hints.parsed("f() -> (i64, str?)?").result == "tuple[int, str | None] | None"
    assert hints.parsed("f() -> (a: i64, b: f64[_])").fields == (("a", "int"), ("b", "NDArray[np.float64]"))


@pytest.mark.parametrize("language", backends.names())
def test_every_builtin_functions_stub_is_its_signature(lab: Lab, language: str) -> None:
    for name in getattr(lab, language).kernels:
        nif = getattr(lab, language).functions[name]
        plain, read = inspect.signature(nif.function), hints.of(nif)
        assert [it.name for it in read.parameters] == list(plain.parameters), name
        optional = {it.name for it in plain.parameters.values() if it.default is not it.empty}
        assert {it.name for it in read.parameters if it.default} == optional, name


def test_a_type_checker_takes_a_program(lab: Lab, tmp_path: Path) -> None:
    cell = lab.cell("zig", CODE, name="stubs")
    written = lab.stubs(tmp_path)
    assert tmp_path / "lab_stubs" / "zig.pyi" in written
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    wrong = tmp_path / "wrong.py"
    wrong.write_text(f'{PROGRAM}lab.zig.dot("x")\n')
    # With the settings, and so the cache, of the check of this repository.
    command = [sys.executable, "-m", "mypy", str(program), str(wrong)]
    environment = {**os.environ, "MYPYPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    (said,) = [it for it in done.stdout.splitlines() if ": error:" in it]
    assert re.search(r"wrong\.py:\d+: error: Missing positional argument", said), done.stdout + done.stderr
    # The functions themselves say the same.
    stats, applied = cell.functions["stats_of"], cell.functions["applied"]
    told = typing.get_type_hints(stats)
    assert told["return"]._fields == ("mean", "count")
    assert typing.get_type_hints(applied)["x"] is float
    assert inspect.signature(applied).return_annotation is float
    assert inspect.signature(stats).parameters["x"].annotation == hints.Array
    assert "applied(f: " in pydoc.render_doc(applied, renderer=pydoc.plaintext)
    assert stats(np.ones(3)) == (1.0, 3)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kernels_of_stubs.zig").write_text("pub fn halved(x: f64) f64 {\n    return x / 2;\n}\n")
    assert main(["stubs", "--json", "--out", str(tmp_path / "out"), str(tmp_path / "kernels_of_stubs.zig")]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {Path(it).name for it in files} >= {"__init__.pyi", "zig.pyi", "julia.pyi", "kernels_of_stubs.pyi"}
    assert "def halved(x: float) -> float" in (tmp_path / "out" / "kernels_of_stubs.pyi").read_text()


def test_what_cannot_be_written_says_which_file_and_what_to_do(lab: Lab, tmp_path: Path) -> None:
    """Of whatever a user has written: a full disk, and a folder that isn't one."""
    full, odd = Path("/dev/full"), tmp_path / "file" / "below"
    odd.parent.touch()
    history = lab.history()
    for write, cure in (
        (lambda: MemoryPanel(lab.memory, lab.telemetry).save(full), "free some space"),
        (lambda: write_perfetto(history, full), "free some space"),
        (lambda: lab.stubs(odd), "choose a folder that you can write to"),
        (lambda: lab.new("zig", "mine", odd), "choose a folder that you can write to"),
    ):
        with pytest.raises(SystemRefusal, match=rf"({full}|{odd}).* can't be written: .*\nTo fix: {cure}") as caught:
            write()
        assert isinstance(caught.value, OSError)
        assert caught.value.errno in {errno.ENOSPC, errno.ENOTDIR}
