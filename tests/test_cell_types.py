"""What cells may not export, and what to write instead; names that aren't Python's."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import numpy as np
import pytest
from labs import one_with_workers

import nif_lab
from nif_lab import backends
from nif_lab.errors import CellError

if TYPE_CHECKING:
    from collections.abc import Iterator

LANGUAGES = backends.names()
#: One name with several signatures: the cells, and what to write instead.
GENERIC = {
    "rust": [
        ("pub fn twice<T>(x: &[T]) {}", "a NIF isn't generic: write one function for each type, as `fn mean_f64(")
    ],
    "zig": [
        (
            "pub fn twice(x: anytype) f64 {\n    return x;\n}",
            "twice: a NIF can't be generic: write one function for each type, as `pub fn mean_f64(",
        )
    ],
    "nim": [
        ("proc twice*[T](x: T): T = x", "'twice' is generic: write one proc for each type, as in `proc twice_int("),
        (
            "proc twice*(x: int): int = x\nproc twice*(x: float): float = x",
            "'twice' is there twice: a NIF has one signature, so give the second another name",
        ),
    ],
    "julia": [
        ("twice(x::T) where {T} = 2x", "a NIF isn't generic: write one function for each type, as `twice_f64("),
        ("twice(x::Int) = 2x\ntwice(x::Float64) = 2x", "twice is defined twice; a NIF has one method: give the second"),
        ("add(a, b) = a + b", "a should be a name with a type, `a::Float64` say"),
    ],
}


@pytest.fixture(scope="module")
def lab() -> Iterator[nif_lab.Lab]:
    yield from one_with_workers(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_generics_and_overloads_are_refused_with_what_to_write(lab: nif_lab.Lab, language: str) -> None:
    for source, advice in GENERIC[language]:
        with pytest.raises(CellError) as caught:
            lab.cell(language, source)
        assert advice in str(caught.value)


@pytest.mark.parametrize("lane", ["isolated", "direct"])
def test_a_name_with_a_bang_is_callable_as_pythons(lab: nif_lab.Lab, lane: str) -> None:
    cell = lab.cell("julia", "halve!(x::MutVec{Float64}) = (x ./= 2; nothing)", lane=lane, replace=True)
    home = getattr(lab, lane).julia
    for call in (home.halve_b, getattr(home, "halve!"), cell.functions["halve!"]):
        x = np.array([2.0, 4.0])
        call(x)
        assert x.tolist() == [1.0, 2.0]
    assert "halve_b" in dir(home)
    with pytest.raises(AttributeError, match="no function 'third_b'"):
        _ = home.third_b


def test_errors_of_the_lab_end_at_the_callers_line(lab: nif_lab.Lab) -> None:
    """No line of the package is in the traceback; those of a callable are."""

    def callable_of_mine(_: float) -> float:
        raise nif_lab.errors.ArgumentValueError("x", "mine")

    lab.cell("zig", "pub fn lent(f: nif.Callback(fn (f64) f64)) !f64 {\n    return f.call(.{1});\n}")
    for call, last in (
        (lambda: lab.cell("zig", "pub fn odd() f64 {\n    return true;\n}"), "<lambda>"),
        (lambda: lab.call("zig", "lent", 1), "<lambda>"),
        (lambda: lab.call("zig", "lent", callable_of_mine, lane="isolated"), "callable_of_mine"),
        (lambda: lab.transfer("zig", "nobody", 1.0), "<lambda>"),
        (lambda: lab.load("/nowhere.so"), "<lambda>"),
    ):
        with pytest.raises(nif_lab.errors.NifLabError) as caught:
            call()
        assert [it.name for it in caught.traceback][1:] == (["<lambda>", last] if last != "<lambda>" else [last])
    assert inspect.signature(lab.cell).parameters["lane"].default == "isolated"
    assert "Compile native code" in (lab.cell.__doc__ or "")
