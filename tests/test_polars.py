"""Columns and tables of polars, in a file of their own: it has no wheel for a free-threaded Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from labs import IS_FREE_THREADED, check_that_the_core_reads

from nif_lab import wire
from nif_lab.arguments import LANES
from nif_lab.arrays import as_array
from nif_lab.errors import ArgumentTypeError, CopyRequired, NifError, NifTypeError

if TYPE_CHECKING:
    from nif_lab.lab import Lab

if IS_FREE_THREADED:
    pytest.importorskip("polars", reason="polars has no wheel for a free-threaded Python")
import polars as pl

X = np.array([0.5, -1.0, 3.25, 8.0])
NARROW = (32, "argument of another element type")
LANGUAGES = ["rust", "zig", "nim", "julia"]


def a_slice() -> pl.Series:
    return pl.Series(np.concatenate([[9.0], X]))[1:]


def copies(lab: Lab, before: int) -> list[tuple[int, str]]:
    """Return the size and the reason of each copy, but for those of what a worker is to see."""
    made = [(size, reason) for size, _, reason in lab.memory.core.copies_since(before, True)]
    return [it for it in made if it[1] != "argument not in a pool"]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", LANGUAGES)
def test_a_column_gives_the_same_value(lab: Lab, name: str, lane: str) -> None:
    for value, expected in (
        (pl.Series(X), []),
        (a_slice(), []),
        (pl.Series(X, dtype=pl.Float32), [NARROW]),  # into a pool at once, so a worker needs no copy of its own
    ):
        before = lab.memory.core.copy_count
        assert lab.call(name, "sum", value, lane=lane) == X.sum()
        assert copies(lab, before) == expected


@pytest.mark.parametrize("name", ["rust", "zig", "nim"])
def test_a_column_is_read_where_it_lies(lab: Lab, name: str) -> None:
    for value in (pl.Series(X), a_slice()):
        taken, again = as_array(value), as_array(value)
        assert taken is not None
        assert again is not None
        assert taken.array.ctypes.data == again.array.ctypes.data
        assert not taken.copies
        assert lab.call(name, "address", value) == np.asarray(value).ctypes.data
    assert lab.call(name, "sum", pl.Series(X), strict=True, lane="direct") == X.sum()


@pytest.mark.parametrize("lane", LANES)
def test_a_column_costs_no_refused_call(lab: Lab, lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core reads it itself, a second time by what it knows of the type."""
    home = getattr(lab, lane).rust
    check_that_the_core_reads(home, pl.Series, [pl.Series(X), a_slice()], monkeypatch)


def test_what_cannot_be_read_says_why_and_the_fix_works(lab: Lab) -> None:
    table = pl.DataFrame({"a": X})
    refused: list[tuple[Any, str, Any]] = [
        (pl.Series([1, None]), "missing values", lambda x: x.drop_nulls()),
        (pl.Series(["1"]), "text", lambda x: x.cast(pl.Float64)),
        (
            pl.concat([pl.Series([1.0]), pl.Series([2.0])], rechunk=False),
            r"2 chunks.*rechunk",
            lambda x: x.rechunk(),
        ),
        (table, r"several columns.*all: x\.to_numpy\(\)", lambda x: x.to_numpy().ravel()),
        (table, "several columns", lambda x: x["a"]),
        (table.lazy(), r"x\.collect\(\)", lambda x: x.collect()["a"]),
        (pl.Series([[1.0], [2.0]]), r"x\.to_list\(\)", lambda x: np.array(x.to_list()).ravel()),
    ]
    for value, words, fix in refused:
        with pytest.raises(NifTypeError, match=words):
            lab.rust.sum(value)
        assert np.isfinite(lab.rust.sum(fix(value)))


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_column_is_not_written_to(lab: Lab, name: str) -> None:
    value = pl.Series(np.zeros(4))
    with pytest.raises(NifError, match=r"read-only|lose"):
        lab.call(name, "axpy", 1.0, X, value)
    lab.call(name, "axpy", 1.0, X, fixed := np.array(value))
    assert (fixed == X).all()


def test_the_doors_of_the_lab_take_columns(lab: Lab) -> None:
    value, frame = pl.Series(X), wire.encode(X)
    assert wire.encode(value) == bytes(lab.wire.encode(value)) == frame
    assert (lab.memory.from_array(value).array == X).all()
    for mode in ("auto", "shared", "wire", "mmap"):
        assert (lab.transfer("rust", "zig", value, mode=mode).array == X).all()
    given = pl.Series(np.frombuffer(frame, np.uint8))
    assert (lab.wire.decode(given) == X).all()
    assert wire.inspect(given).frame == frame
    with pytest.raises(CopyRequired):
        lab.transfer("rust", "zig", value, mode="shared", strict=True)
    buffer = lab.memory.allocate(X.shape)
    buffer.copy_from(value)
    buffer[1:3] = value[:2]
    assert buffer.array.tolist() == [0.5, 0.5, -1.0, 8.0]
    nulls = pl.Series([1.0, None])
    for use in (
        lambda: lab.transfer("rust", "zig", nulls),
        lambda: lab.memory.from_array(nulls),
        lambda: buffer.__setitem__(slice(2), nulls),
    ):
        with pytest.raises(ArgumentTypeError, match="missing"):
            use()
    with pytest.raises(wire.WireError, match="missing"):
        lab.wire.encode(nulls)
