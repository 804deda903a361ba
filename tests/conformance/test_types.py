"""Every type of docs/abi.md, as each language writes it: the cells in types/ have the same functions in all of them."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from cells import functions_of_cell

from nif_lab.errors import NifError, NifIndexError, NifMemoryError, NifTypeError, NifValueError

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend


@pytest.fixture(scope="module")
def typed(backend: LoadedBackend) -> Any:
    """The functions of a language's cell, in the backend's lane; the backend doesn't learn of them."""
    functions = functions_of_cell(backend, "types")
    return SimpleNamespace(**{name: nif.function for name, nif in functions.items()}, all=functions)


def test_any_byte_but_zero_is_true(typed: Any, rng: np.random.Generator) -> None:
    """A NumPy bool array may be a view of bytes; NumPy, too, takes each but 0 for true."""
    some = rng.integers(0, 256, 1000, np.uint8)
    for octets in (np.arange(256, dtype=np.uint8), np.array([0, 1, 2, 3, 128, 255], np.uint8), some, some[:0]):
        x = octets.view(bool)
        count = int(np.count_nonzero(octets))
        assert (typed.trues(x), typed.pick(x)) == (count, 10 * len(x) + 10 * count)
        assert typed.opposite(x).view(np.uint8).tolist() == (octets == 0).tolist()
        wide = np.broadcast_to(octets[:, None], (len(octets), 3)).view(bool)
        assert typed.trues_of(wide) == typed.trues_of(wide[::-1]) == 3 * count


#: Every integer type, and what it may hold.
INTEGERS: Final = {
    **{f"i{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}


def test_integers_of_every_width(typed: Any) -> None:
    """One outside its type is refused by name, wherever that is noticed."""
    for name, of in {**{it: it for it in INTEGERS}, "isize": "i64", "usize": "u64"}.items():
        same, (low, high) = getattr(typed, f"same_{name}"), INTEGERS[of]
        assert typed.all[f"same_{name}"].signature == f"same_{name}(x: {of}) -> {of}"
        for number in (low, high, 0, 1, low + 1, high - 1, np.uint8(3), np.int64(3)):
            assert (same(number), type(same(number))) == (int(number), int)
        assert same(True) == 1
        for number in (low - 1, high + 1, -(2**70), 2**70):
            with pytest.raises(NifValueError) as caught:
                same(number)
            words = "expected an integer of 64 bits"
            if -(2**63) <= number < 2**63 or of == "u64":
                words = f"expected {low} to {high}, got {number}"
            assert (caught.value.argument, caught.value.reason) == ("x", words)
        with pytest.raises(NifTypeError, match=f"argument 'x': expected {of}, got f64"):
            same(1.0)


def test_other_scalars(typed: Any) -> None:
    for number in (0.1, -2.5, 1e-50, 1e300, math.inf, -math.inf, math.nan, 3, True):
        with np.errstate(over="ignore"):
            rounded = float(np.float32(number))
        for got, want in ((typed.same_f64(number), float(number)), (typed.same_f32(number), rounded)):
            assert type(got) is float
            assert got == want or math.isnan(want)
    assert (typed.same_bool(True), typed.same_bool(np.False_)) == (True, False)
    with pytest.raises(NifTypeError):
        typed.same_bool(1)
    np.testing.assert_array_equal(typed.ones(3), np.ones(3))  # an integer of any type fixes a length
    with pytest.raises(NifValueError):
        typed.ones(3, np.ones(4))


def test_complex_numbers(typed: Any) -> None:
    assert typed.all["turned"].signature == "turned(z: c128, x: c128[n]) -> (c128, c128?)"
    kinds = (
        1 + 2j,
        0.1,
        -3,
        True,
        np.complex64(1 - 1j),
        np.complex128(2j),
        np.array(3 + 1j),
        complex("inf"),
        np.float32(2),
    )
    for z in kinds:
        wide, narrow = typed.same_c128(z), typed.same_c64(z)
        assert (type(wide), type(narrow)) == (complex, complex)
        assert (wide, narrow) == (complex(z), complex(np.complex64(z)))
    assert typed.turned(1 + 2j, np.array([4j, 1])) == (-2 + 1j, 4j)
    assert typed.turned(2, np.zeros(0, "c16")) == (2j, None)
    for odd in ("1", None, [1j], b"1"):
        with pytest.raises(NifTypeError, match="argument 'x': expected c128, got"):
            typed.same_c128(odd)
    for odd in (np.ones(2, "c16"), np.ones((1, 1), "c8")):
        with pytest.raises(NifValueError, match=r"argument 'x': expected c128, got c(128|64)\["):
            typed.same_c128(odd)


def test_a_callee_may_own_what_it_is_given(typed: Any) -> None:
    """`Vec`, `seq` and `Vector` are copies: the caller's array stays as it is."""
    x = np.array([1.0, 2.0, 4.0])
    assert typed.all["owned"].signature == "owned(x: f64[n], text: str) -> f64"
    assert (typed.owned(x, "abc"), typed.owned(x[:0], "")) == (10.0, 0.0)
    assert x.tolist() == [1.0, 2.0, 4.0]


def test_results_in_memory(typed: Any) -> None:
    """They belong to the caller, whatever the callee does next."""
    for count in (0, 1, 5, 100_000):
        evens = typed.evens(count)
        typed.evens(count)
        assert (evens.dtype, evens.tolist()) == (np.float64, [2.0 * i for i in range(count)])
        assert evens.flags.writeable
        assert evens.flags.c_contiguous
    x = np.arange(-3, 4)
    odd = typed.odd(x)
    assert (odd.dtype, odd.tolist()) == (np.bool_, (x % 2 != 0).tolist())
    for count in (0, 1, 255):
        powers = typed.powers(count)
        assert (powers.dtype, powers.shape, powers.flags.c_contiguous) == (np.float32, (count, 3), True)
        np.testing.assert_array_equal(powers, np.arange(count, dtype="f4")[:, None] * np.array([1, 10, 100], "f4"))
        assert typed.octets(count) == bytes(range(count))
    assert (typed.three().dtype, typed.three().tolist()) == (np.int16, [-1, 0, 1])
    assert typed.greet("Übergröße 🦀") == "hello, Übergröße 🦀"
    assert typed.word("  one two ") == "one"
    long = "x" * 100_000  # more than a reply's room
    assert typed.word(long) == long


def test_none_tuples_and_named_tuples(typed: Any) -> None:
    x = np.array([3.0, -1.0, 2.5])
    assert (typed.first(x), typed.first(x[:0]), typed.word("  ")) == (3.0, None, None)
    assert (typed.extremes(x), typed.extremes(x[:0])) == ((-1.0, 3.0), None)
    stats = typed.stats(x)
    assert (stats.mean, stats.count, type(stats).__name__) == (1.5, 3, "stats")
    assert typed.all["stats"].signature == "stats(x: f64[n]) -> (mean: f64, count: i64)"
    for text, count in (("some", 3), ("", 0), ("x", 1)):
        upper, evens, number, many = typed.mixed(text, count)
        want = (text.upper(), [2.0 * i for i in range(count)], -1 if count else None, count > 1)
        assert (upper, evens.tolist(), number, many) == want
    tuples = [typed.mixed(str(i), i) for i in range(50)]  # each in memory of its own
    assert all((it[0], len(it[1]), it[1].sum()) == (str(i), i, i * (i - 1)) for i, it in enumerate(tuples))


def test_values_that_may_be_none(typed: Any) -> None:
    signature = "agree(a: f64[n]?, b: f64[n]?, c: f64[n]) -> i64"
    assert typed.all["agree"].signature == signature
    x, y = np.ones(2), np.ones(3)
    assert (typed.or_seven(None), typed.or_seven(), typed.or_seven(2)) == (7.0, 7.0, 2.0)
    assert (typed.agree(None, None, x), typed.agree(x, None, x), typed.agree(None, y, y), typed.agree(y, y, y)) == (
        2,
        2,
        3,
        3,
    )
    for args, name, text in (
        ((None, y, x), "c", r"f64\[n\] with n = 3, got f64\[2\]"),
        ((x, None, y), "c", r"f64\[n\] with n = 2, got f64\[3\]"),
        ((x, y, x), "b", r"f64\[n\]\? with n = 2, got f64\[3\]"),
    ):
        with pytest.raises(NifValueError, match=f"argument '{name}': expected {text}"):
            typed.agree(*args)
    assert (typed.described(), typed.described(np.ones((3, 2)), "ä")) == ("-1 -", "3 ä")
    with pytest.raises(NifTypeError, match=r"argument 'm': expected f64\[m,n\]\?, got str"):
        typed.described("a")


def test_lists_of_texts(typed: Any) -> None:
    assert typed.all["lengths"].signature == "lengths(words: str[_]) -> (str[_], i64[_])"
    words = ["one", "", "zwölf", "x" * 70_000, "y" * 70_000]  # longer than a worker's request
    for some in (words, [], [""], words[:1]):
        assert typed.reversed(some) == some[::-1]
        longest, sizes = typed.lengths(some)
        assert (longest, sizes.tolist()) == ([max(some, key=len, default="")], [len(it.encode()) for it in some])
    assert (typed.reversed(None), typed.reversed()) == (None, None)
    with pytest.raises(NifTypeError, match=r"argument 'words': expected str\[_\]"):
        typed.lengths(None)


def test_errors_keep_their_kind(typed: Any) -> None:
    assert (typed.parsed("-12"), typed.element(np.arange(3.0), 2)) == (-12, 2.0)
    for error, call in {
        NifValueError: lambda: typed.parsed("twelve"),
        NifIndexError: lambda: typed.element(np.arange(3.0), 3),
        NifMemoryError: typed.greedy,
        NifError: lambda: typed.refused("for this reason"),
    }.items():
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
        assert caught.value.argument is None
    assert caught.value.reason == "for this reason"
    assert typed.three().tolist() == [-1, 0, 1]


#: Arguments by place and by name, and the result.
Call = tuple[tuple[Any, ...], dict[str, Any], Any]
#: Calls of `power`, whose parameters have default values where the language has them.
POWERS: Final[list[Call]] = [
    ((2.0,), {}, (2.0, 'a, "b" (c) \\')),
    ((2.0, 3), {}, (4.0, 'a, "b" (c) \\')),
    ((2.0,), {"loud": True, "p": 1}, (1.0, 'A, "B" (C) \\')),
    ((2.0, 1, 1.0, "x", True), {}, (2.0, "X")),
    ((), {"x": 2.0, "label": "é"}, (2.0, "é")),
]
#: The same of `scaled`, which has keywords.
SCALED: Final[list[Call]] = [((1.0,), {"by": 2.0}, 2.0), ((1.0, 1.0), {"up": True, "by": 2.0}, 5.0)]


def test_default_values_and_keywords(backend: LoadedBackend, typed: Any) -> None:
    calls = {"power": POWERS, "scaled": SCALED}
    has = {"nim": {"power"}, "julia": {"power", "scaled"}}.get(backend.name, set())
    assert has == typed.all.keys() & {"power", "scaled"}
    for name in has:
        for args, kwargs, want in calls[name]:
            assert getattr(typed, name)(*args, **kwargs) == want
    if "power" in has:
        shown = str(inspect.signature(typed.power))
        assert shown == "(x, p=2, scale=0.5, label='a, \"b\" (c) \\\\', loud=False)"
        with pytest.raises(NifTypeError, match="takes 1 argument, 0 given"):
            typed.power()
    if "scaled" in has:
        assert str(inspect.signature(typed.scaled)) == "(x, plus=0.0, *, by, up=False)"
        with pytest.raises(NifTypeError, match="needs a value for its keyword 'by'"):
            typed.scaled(1.0)
        with pytest.raises(NifTypeError, match="takes 2 arguments, 3 given"):
            typed.scaled(1.0, 2.0, 3.0)


def test_what_one_language_has_alone(backend: LoadedBackend, typed: Any) -> None:
    if backend.name != "julia":
        assert not {"cube", "root", "double!"} & typed.all.keys()
        return
    i, j, k = np.ogrid[:2, :2, :3]
    cube = typed.cube(2)
    assert (cube.dtype, cube.flags.c_contiguous) == (np.int32, True)
    np.testing.assert_array_equal(cube, 100 * i + 10 * j + k)
    with pytest.raises(NifValueError, match="DomainError"):
        typed.root(-1.0)
    x = np.arange(3.0)
    assert typed.all["double!"].function(x) is None
    assert x.tolist() == [0.0, 2.0, 4.0]
