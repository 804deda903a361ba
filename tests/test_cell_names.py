"""Names of cells' functions: taken from other cells and from built-in functions; and cells that call other cells."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from labs import ANSWER

import nif_lab
from nif_lab import backends
from nif_lab.errors import CellError, NifIndexError, NoSuchFunction, WorkerCrashed

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

LANGUAGES = backends.names()
X = np.arange(10.0)


@pytest.fixture(scope="module")
def lab() -> Iterator[nif_lab.Lab]:
    lab = nif_lab.Lab(policy=nif_lab.RecoveryPolicy(crashes=None))
    yield lab
    del lab
    gc.collect()


def home(lab: nif_lab.Lab, language: str) -> Any:
    return lab.backends[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_that_is_taken(lab: nif_lab.Lab, language: str) -> None:
    backend = home(lab, language)
    first = lab.cell(language, ANSWER[language].format("taken", 1), name="first")
    assert first.notes == ()
    held = backend.taken
    second = lab.cell(language, ANSWER[language].format("taken", 2), name="second")
    assert second.notes == ("taken was a function of first",)
    assert (held(), backend.taken()) == (2, 2)
    with pytest.raises(CellError, match=rf"'kernels' means something else in lab.{language}"):
        lab.cell(language, ANSWER[language].format("kernels", 2))
    built_in = backend.noop
    third = lab.cell(language, ANSWER[language].format("noop", 2), name="third")
    assert third.notes == (f"noop was a built-in function, which is lab.{language}.builtin.noop now",)
    assert "noop() -> i64" in str(third)
    assert backend.noop() == 2
    assert backend.builtin.noop == built_in
    assert backend.builtin.noop() is None
    assert "noop" in dir(backend.builtin)
    with pytest.raises(NoSuchFunction, match=f"{language} has no function 'taken'"):
        _ = backend.builtin.taken
    lab.cell(language, ANSWER[language].format("other", 2), name="third")
    assert backend.noop == built_in


def test_what_is_built_in_goes_on_when_its_name_is_taken(lab: nif_lab.Lab) -> None:
    """Transfers, frames and faults use functions by names that anybody may choose."""
    for name in ("checksum", "address", "write", "encode", "decode", "fault"):
        lab.cell("rust", ANSWER["rust"].format(name, 3), name=name)
    assert lab.rust.checksum() == 3
    assert lab.transfer("rust", "zig", X, lane="isolated").verified
    frame = lab.wire.encode(X, by=lab.isolated.rust)
    np.testing.assert_array_equal(lab.wire.decode(frame, by=lab.isolated.rust), X)
    assert lab.faults.inject("rust", "null_store", times=1).outcome == "recovered"
    for name in ("checksum", "address", "write", "encode", "decode", "fault"):
        lab.cell("rust", ANSWER["rust"].format("given_back", 3), name=name)


def test_a_call_is_answered_by_another_language_only_if_it_means_the_same(lab: nif_lab.Lab) -> None:
    """Every language has a `dot` of this signature; a cell's may be something else."""
    wrong = "pub fn dot(x: &[f64], y: &[f64]) -> f64 { std::process::abort() }"
    lab.cell("rust", f"#[nif(pure)]\n/// `dot(x[n], y[n])`: no.\n{wrong}")
    with pytest.raises(WorkerCrashed, match="the function is from dot"):
        lab.rust.dot(X, X)
    assert lab.isolated.rust.builtin.dot(X, X) == X @ X
    lab.cell("rust", ANSWER["rust"].format("other", 2), name="dot")


#: A function of another cell, and the two ways to call it.
OTHER = {
    "rust": ("#[nif(pure)]\npub fn half(x: f64) -> f64 { x / 2.0 }\npub struct Pair(pub f64, pub f64);",
             "use cells::{half, Pair};\npub fn quarter(x: f64) -> f64 { let p = Pair(half(x), 0.0); half(p.0 + p.1) }"),
    "zig": ("pub const flags = .{ .half = .{ .pure = true } };\npub fn half(x: f64) f64 {\n    return x / 2;\n}",
            'const cells = @import("cells");\npub fn quarter(x: f64) f64 {\n    return cells.half(cells.half(x));\n}'),
    "nim": ("func half*(x: float): float {.nif: {Pure}.} = x / 2",
            "import cells\nfunc quarter*(x: float): float = half(cells.half(x))"),
    "julia": ("half(x::Float64) = x / 2",
              "using .cells: half\nquarter(x::Float64) = half(cells.half(x))"),
}  # fmt: skip


#: One that calls one that calls another.
THIRD = {
    "rust": "pub fn sixteenth(x: f64) -> f64 { cells::quarter(cells::quarter(x)) }",
    "zig": 'pub fn sixteenth(x: f64) f64 {\n    return c.quarter(c.quarter(x));\n}\nconst c = @import("cells");',
    "nim": "import std/math, cells\nfunc sixteenth*(x: float): float = quarter(quarter(x))",
    "julia": "sixteenth(x::Float64) = cells.quarter(cells.quarter(x))",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_cell_calls_another(lab: nif_lab.Lab, language: str) -> None:
    first, second = OTHER[language]
    lab.cell(language, first, name="first")
    cell = lab.cell(language, second, name="second")
    assert [*cell.functions] == ["quarter"]
    assert home(lab, language).quarter(8.0) == 2.0
    lab.cell(language, THIRD[language], name="third")
    assert home(lab, language).sixteenth(16.0) == 1.0
    # As the other is now: neither the cache nor the module of before is meant.
    lab.cell(language, first.replace("/ 2", "/ 4"), name="first")
    lab.cell(language, second, name="second")
    assert home(lab, language).quarter(16.0) == 1.0


def test_a_traceback_has_the_users_lines_alone(lab: nif_lab.Lab) -> None:
    cell = lab.cell("rust", "pub fn at(x: &[f64], i: i64) -> f64 { x[i as usize] }")
    with pytest.raises(NifIndexError) as caught:
        cell.functions["at"](X, 10)
    assert [it.name for it in caught.traceback] == ["test_a_traceback_has_the_users_lines_alone"]


def test_a_lab_for_cells_loads_what_is_asked_for() -> None:
    lab = nif_lab.Lab.for_cells("zig")
    assert [*lab.backends] == ["zig"]
    assert lab.rust.add(1.0, 2.0) == 3.0
    assert lab.call("nim", "add", 1.0, 2.0) == 3.0
    assert [*lab.backends] == ["zig", "rust", "nim"]
    with pytest.raises(AttributeError, match="its languages are zig, rust, nim"):
        _ = lab.fortran
