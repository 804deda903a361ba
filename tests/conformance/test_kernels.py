"""What the kernels answer: every backend against tests/reference.py."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import reference
from contract import ELEMENTS, FUNCTIONS, Array
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nif_lab.errors import NifValueError

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend

pytestmark = pytest.mark.slow

# Random arguments for each kernel, without its output. `m` and `n` are the size of the problem.

Make = Callable[[np.random.Generator, int, int], tuple[Any, ...]]


def _hillshade(rng: np.random.Generator, m: int, n: int) -> tuple[Any, ...]:
    dx, dy = rng.uniform(0.1, 50.0, 2)
    return rng.normal(size=(m, n)) * 20, dx, dy, rng.uniform(-400, 400), rng.uniform(-10, 100)


def _forward(rng: np.random.Generator, m: int, n: int) -> tuple[Any, ...]:
    return rng.normal(size=(m, n)), rng.normal(size=m), rng.normal(size=n), int(rng.integers(0, 5))


def _histogram(rng: np.random.Generator, m: int, n: int) -> tuple[Any, ...]:
    low, high = np.sort(rng.normal(size=2))
    return rng.normal(size=m * n), int(rng.integers(1, 200)), low, high


def _mandelbrot(rng: np.random.Generator, m: int, n: int) -> tuple[Any, ...]:
    x, y, width, height = rng.uniform(-1, 1, 4)
    return n, m, x, x + width, y, y + height, int(rng.integers(0, 120))


def _matmul(rng: np.random.Generator, m: int, n: int) -> tuple[Any, ...]:
    k = int(rng.integers(0, 40))
    return rng.normal(size=(m, k)), rng.normal(size=(k, n))


MAKE: dict[str, Make] = {
    "noop": lambda rng, m, n: (),
    "add": lambda rng, m, n: (rng.normal(), rng.normal()),
    "axpy": lambda rng, m, n: (rng.normal(), rng.normal(size=m * n), rng.normal(size=m * n)),
    "checksum": lambda rng, m, n: (rng.integers(0, 256, m * n, np.uint8),),
    "dot": lambda rng, m, n: (rng.normal(size=m * n), rng.normal(size=m * n)),
    "forward": _forward,
    "hillshade": _hillshade,
    "histogram": _histogram,
    "mandelbrot": _mandelbrot,
    "matmul": _matmul,
    "smooth": lambda rng, m, n: (rng.normal(size=(m, n)), int(rng.integers(0, 5))),
    "sum": lambda rng, m, n: (rng.normal(size=m * n),),
    "transpose": lambda rng, m, n: (rng.normal(size=(m, n)),),
}
every_kernel = pytest.mark.parametrize("name", sorted(MAKE))
every_output_kernel = pytest.mark.parametrize("name", sorted(name for name in MAKE if FUNCTIONS[name].outputs))

SHAPES = [
    (0, 0), (0, 3), (3, 0), (1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (2, 2), (3, 5), (8, 8), (7, 17), (16, 15),
    (31, 33), (64, 64), (65, 130), (129, 63),
]  # fmt: skip

#: Summation in any order, another libm: kernels whose last bits may differ.
ROUNDED = {"dot", "forward", "hillshade", "matmul", "smooth", "sum"}


def agree(name: str, got: Any, want: Any) -> None:
    """Assert the same answer: within rounding where the kernel rounds, else to the bit (but any NaN equals another)."""
    if name in ROUNDED:
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
    else:
        np.testing.assert_array_equal(got, want, strict=isinstance(want, np.ndarray))
        if np.asarray(want).dtype.kind == "f":
            number = ~np.isnan(want)
            np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(want)[number])


def answer(backend: LoadedBackend, name: str, arguments: tuple[Any, ...]) -> Any:
    """Return the kernel's answer; axpy's is the vector it changed."""
    if name != "axpy":
        return getattr(backend, name)(*arguments)
    a, x, y = arguments
    y = y.copy()
    assert backend.axpy(a, x, y) is None
    return y


def test_there_are_cases_for_every_kernel() -> None:
    rooms = {"address", "decode", "encode", "layout", "write"}
    assert MAKE.keys() == {name for name, f in FUNCTIONS.items() if "FAULT" not in f.flag_names} - rooms


@every_kernel
def test_random_values(backend: LoadedBackend, name: str, rng: np.random.Generator) -> None:
    for shape in SHAPES * 3:
        arguments = MAKE[name](rng, *shape)
        agree(name, answer(backend, name, arguments), getattr(reference, name)(*arguments))


@pytest.mark.parametrize("name", ["axpy", "checksum", "dot", "histogram", "sum"])
def test_every_length(backend: LoadedBackend, name: str, rng: np.random.Generator) -> None:
    """Unrolled loops end in a remainder: each has to be right."""
    for n in range(140):
        arguments = MAKE[name](rng, 1, n)
        agree(name, answer(backend, name, arguments), getattr(reference, name)(*arguments))


@pytest.mark.parametrize(
    ("name", "m", "n"),
    [
        ("axpy", 1, 1_000_003), ("checksum", 1, 5_000_011), ("dot", 1, 1_000_003), ("forward", 301, 517),
        ("hillshade", 301, 517), ("histogram", 1, 300_007), ("mandelbrot", 101, 203), ("matmul", 301, 257),
        ("smooth", 301, 517), ("sum", 1, 1_000_003), ("transpose", 701, 1033),
    ],
)  # fmt: skip
def test_large(backend: LoadedBackend, name: str, m: int, n: int, rng: np.random.Generator) -> None:
    arguments = MAKE[name](rng, m, n)
    agree(name, answer(backend, name, arguments), getattr(reference, name)(*arguments))


def test_rounding_errors_stay_within_the_bound(backend: LoadedBackend, rng: np.random.Generator) -> None:
    """Numbers of very different sizes: any order of summation obeys this bound, single precision doesn't."""
    for n in (1, 10, 1000, 100_000):
        x, y = (rng.normal(size=n) * 10.0 ** rng.integers(-8, 9, n) for _ in range(2))
        bound = 2.0**-53 * (n + 1)
        assert abs(backend.sum(x) - math.fsum(x)) <= bound * np.abs(x).sum()
        assert abs(backend.dot(x, y) - math.fsum(x * y)) <= bound * np.abs(x * y).sum() + bound
    a, b = rng.normal(size=(20, 300)), rng.normal(size=(300, 30))
    exact = [[math.fsum(row * column) for column in b.T] for row in a]
    assert (np.abs(backend.matmul(a, b) - exact) <= 2.0**-53 * 302 * (np.abs(a) @ np.abs(b))).all()


# Memory: any strides for matrices, in and out, and nothing beside the elements is touched.

CANARY = -777.25

LAYOUTS: dict[str, Callable[[int, int], tuple[tuple[int, int], Callable[[Array], Array]]]] = {
    "C": lambda m, n: ((m, n), lambda block: block),
    "Fortran": lambda m, n: ((n, m), lambda block: block.T),
    "rows backwards": lambda m, n: ((m, n), lambda block: block[::-1]),
    "both backwards": lambda m, n: ((m, n), lambda block: block[::-1, ::-1]),
    "inside": lambda m, n: ((m + 3, n + 5), lambda block: block[1 : m + 1, 2 : n + 2]),
    "stepped": lambda m, n: ((2 * m + 1, 3 * n + 1), lambda block: block[1::2, 1::3]),
    "stepped, backwards, Fortran": lambda m, n: ((3 * n + 1, 2 * m + 1), lambda block: block[:0:-3, :0:-2].T),
}


def laid_out(layout: str, array: Array) -> tuple[Array, Array]:
    """Make a block full of canaries, and a view of it that has the array's values in that layout."""
    shape, view_of = LAYOUTS[layout](*array.shape)
    block = np.full(shape, CANARY).astype(array.dtype)
    view = view_of(block)
    view[...] = array
    return block, view


@every_output_kernel
def test_matrices_of_any_layout(backend: LoadedBackend, name: str, rng: np.random.Generator) -> None:
    for shape in [(1, 1), (2, 7), (9, 4), (33, 18), (0, 4), (70, 67)]:
        arguments = MAKE[name](rng, *shape)
        want = getattr(reference, name)(*arguments)
        for into, layout in itertools.product(LAYOUTS if want.ndim == 2 else ["C"], LAYOUTS):
            inputs = [laid_out(layout, a)[1] if isinstance(a, np.ndarray) and a.ndim == 2 else a for a in arguments]
            block, out = laid_out(into, want) if want.ndim == 2 else (want.copy(), want.copy())
            out[...] = 5
            result = getattr(backend, name)(*inputs, out)
            assert result is out
            agree(name, np.ascontiguousarray(out), want)
            out[...] = block.dtype.type(CANARY)
            assert want.ndim != 2 or (block == block.dtype.type(CANARY)).all(), f"{into}: wrote beside the matrix"


def test_one_row_for_all(backend: LoadedBackend, rng: np.random.Generator) -> None:
    """A stride of 0: NumPy's broadcasting makes such matrices."""
    z = np.broadcast_to(rng.normal(size=9), (6, 9))
    for name, arguments in {
        "hillshade": (z, 2.0, 3.0, 315.0, 45.0), "matmul": (z, z.T), "smooth": (z, 2), "transpose": (z,),
    }.items():  # fmt: skip
        agree(name, getattr(backend, name)(*arguments), getattr(reference, name)(*arguments))


@every_output_kernel
def test_outputs_that_are_left_out(backend: LoadedBackend, name: str, rng: np.random.Generator) -> None:
    """A new array each time, C-contiguous, of the right type, that belongs to the caller."""
    arguments = MAKE[name](rng, 6, 11)
    want = getattr(reference, name)(*arguments)
    first, second = (getattr(backend, name)(*arguments) for _ in range(2))
    assert not np.shares_memory(first, second)
    second[...] = 0
    assert (first.dtype, first.shape) == (want.dtype, want.shape)
    assert (first.flags.c_contiguous, first.flags.writeable, first.flags.aligned) == (True, True, True)
    agree(name, first, want)


@every_kernel
def test_inputs_are_left_alone(backend: LoadedBackend, name: str, rng: np.random.Generator) -> None:
    arguments = MAKE[name](rng, 13, 10)
    before = [np.array(a) for a in arguments]
    answer(backend, name, arguments)
    for argument, copy in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(argument, copy)


def test_neighbours_of_a_changed_vector_are_left_alone(backend: LoadedBackend) -> None:
    for n in range(40):
        block = np.full(n + 2, CANARY)
        block[1:-1] = 1.0
        backend.axpy(2.0, np.ones(n), block[1:-1])
        assert block.tolist() == [CANARY, *[3.0] * n, CANARY]


@every_kernel
def test_many_threads_at_once(backend: LoadedBackend, name: str, rng: np.random.Generator) -> None:
    work = [MAKE[name](rng, 20, 30 + i) for i in range(8)]
    want = [getattr(reference, name)(*arguments) for arguments in work]

    def repeat(i: int) -> None:
        for _ in range(20):
            agree(name, answer(backend, name, work[i]), want[i])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(repeat, range(8))) == [None] * 8


# Special values.

SPECIAL = [0.0, -0.0, 1.0, -1.5, 5e-324, -2.2e-308, 1e300, -1e300, np.inf, -np.inf, np.nan]


def test_add_special_values(backend: LoadedBackend) -> None:
    for x in SPECIAL:
        for y in SPECIAL:
            agree("add", backend.add(x, y), x + y)


def test_axpy_special_values(backend: LoadedBackend) -> None:
    """Bit for bit, so neither fused nor with subnormals flushed, and with the sign of zero."""
    x, y = (np.ravel(grid) for grid in np.meshgrid(SPECIAL, SPECIAL))
    for a in SPECIAL:
        agree("axpy", answer(backend, "axpy", (a, x, y)), reference.axpy(a, x, y))


def test_axpy_is_not_fused(backend: LoadedBackend) -> None:
    a = 1.0 + 2.0**-30
    x = np.full(37, a)
    assert (answer(backend, "axpy", (a, x, np.full(37, -a * a))) == 0.0).all()


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_one_special_value_at_every_place_of_a_sum(backend: LoadedBackend, special: float) -> None:
    for n, i in [(length, i) for length in (1, 5, 37, 70) for i in range(length)]:
        x = np.ones(n)
        x[i] = special
        agree("sum", backend.sum(x), special)
        agree("dot", backend.dot(x, np.ones(n)), special)
        agree("dot", backend.dot(np.full(n, -1.0), x), -special)
        agree("dot", backend.dot(x, np.zeros(n)), np.nan)
        x[i - 1] = -special
        agree("sum", backend.sum(x), -special if n == 1 else np.nan)


def test_small_and_large_sums(backend: LoadedBackend) -> None:
    assert backend.sum(np.zeros(0)) == backend.dot(np.zeros(0), np.zeros(0)) == 0.0
    assert backend.sum(np.full(20, 5e-324)) == 20 * 5e-324
    assert backend.dot(np.full(20, 5e-324), np.ones(20)) == 20 * 5e-324
    assert backend.sum(np.full(20, 1.7e308)) == np.inf
    assert backend.dot(np.full(20, 1e200), np.full(20, -1e200)) == -np.inf


def test_matmul_special_values(backend: LoadedBackend) -> None:
    """A product with zero isn't skipped, and what was in the output before doesn't count."""
    a, b = np.eye(9), np.ones((9, 10))
    for special in (np.nan, np.inf):
        b[4, 7] = special
        agree("matmul", backend.matmul(a, b, np.full((9, 10), np.nan)), reference.matmul(a, b))
        agree("matmul", backend.matmul(b.T, a), reference.matmul(b.T, a))
    empty = backend.matmul(np.ones((4, 0)), np.ones((0, 5)), np.full((4, 5), np.nan))
    np.testing.assert_array_equal(empty, np.zeros((4, 5)))


@pytest.mark.parametrize("name", ["hillshade", "smooth"])
def test_special_values_spread_as_far_as_they_should(backend: LoadedBackend, name: str) -> None:
    places = [(0, 0), (0, 3), (2, 0), (3, 4), (5, 6)]
    for special, (i, j) in itertools.product([np.nan, np.inf, -np.inf], places):
        z = np.arange(42.0).reshape(6, 7) % 5
        z[i, j] = special
        arguments = (z, 1.0, 2.0, 300.0, 40.0) if name == "hillshade" else (z, 2)
        agree(name, getattr(backend, name)(*arguments), getattr(reference, name)(*arguments))


def test_hillshade_at_the_limits(backend: LoadedBackend, rng: np.random.Generator) -> None:
    z = rng.normal(size=(12, 13)) * 100
    flat = np.zeros((4, 5))
    agree("hillshade", backend.hillshade(flat, 1.0, 1.0, 0.0, 30.0), np.full((4, 5), 0.5))
    assert (backend.hillshade(flat, 1.0, 1.0, 0.0, -30.0) == 0.0).all()
    for dx, dy in [(np.inf, 1.0), (1.0, np.inf), (np.inf, np.inf), (1e-3, 1e6)]:
        agree("hillshade", backend.hillshade(z, dx, dy, 315.0, 45.0), reference.hillshade(z, dx, dy, 315.0, 45.0))
    for azimuth, altitude in [(np.nan, 45.0), (315.0, np.nan), (np.inf, 45.0), (315.0, -np.inf)]:
        assert np.isnan(backend.hillshade(z, 1.0, 1.0, azimuth, altitude)).all()


def test_smooth_keeps_what_it_should(backend: LoadedBackend) -> None:
    z = np.array([[0.0, -0.0, 5e-324], [np.nan, np.inf, -1e308]])
    assert backend.smooth(z, 0).tobytes() == z.tobytes()
    assert (backend.smooth(np.full((5, 6), 0.1), 50) == 0.1).all()
    assert backend.smooth(np.zeros((0, 5)), 3).shape == (0, 5)


def test_histogram_at_the_edges(backend: LoadedBackend) -> None:
    edges = np.linspace(-1.0, 2.0, 8)
    x = np.concatenate([edges, np.nextafter(edges, -9), np.nextafter(edges, 9), SPECIAL])
    for bins in (1, 2, 7, 100_000):
        for low, high in [(-1.0, 2.0), (-0.0, 0.1), (0.1, 0.3), (-1e300, 1e300), (1.0, np.nextafter(1.0, 2.0))]:
            agree("histogram", backend.histogram(x, bins, low, high), reference.histogram(x, bins, low, high))
    np.testing.assert_array_equal(backend.histogram(np.zeros(0), 3, 0.0, 1.0, np.full(3, 9)), [0, 0, 0])
    with pytest.raises(NifValueError) as caught:  # so narrow that no finite scale fits
        backend.histogram(np.array([0.0, 5e-324]), 5, 0.0, 5e-324)
    assert (caught.value.argument, caught.value.reason) == ("high", "expected a finite number above low")


def test_mandelbrot_at_the_limits(backend: LoadedBackend) -> None:
    windows = [
        (-2.0, 1.0, -1.5, 1.5), (1.0, -2.0, 1.5, -1.5), (0.3, 0.3, 0.5, 0.5), (-1e200, 1e200, -1e200, 1e200),
        (np.nan, 1.0, 0.0, 1.0), (0.0, 1.0, 0.0, np.nan), (-np.inf, 1.0, 0.0, 1.0), (0.0, 1.0, 1.0, np.inf),
        (-0.743643887037151, -0.74364388703715, 0.131825904205312, 0.131825904205330),
    ]  # fmt: skip
    for window in windows:
        for width, height in [(1, 1), (17, 9), (0, 3), (3, 0)]:
            for iterations in (0, 1, 2, 300):
                arguments = (width, height, *window, iterations)
                agree("mandelbrot", backend.mandelbrot(*arguments), reference.mandelbrot(*arguments))


def test_checksum_of_every_type(backend: LoadedBackend, rng: np.random.Generator) -> None:
    shapes = [(), (1,), (0,), (7,), (3, 4), (2, 0, 5), (2, 3, 4), (2, 1, 2, 1, 3)]
    for dtype, shape in itertools.product(ELEMENTS.values(), shapes):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        array = np.frombuffer(rng.integers(0, 2, size, np.uint8).tobytes(), dtype).reshape(shape)
        agree("checksum", backend.checksum(array), reference.checksum(array))


def test_checksum_of_every_length_and_place(backend: LoadedBackend, rng: np.random.Generator) -> None:
    block = rng.integers(0, 256, 1_100_000, np.uint8)
    for n in [*range(1100), 2047, 2048, 2049, 4096, 65_535, 1_000_000]:
        piece = block[n % 64 : n % 64 + n]
        assert backend.checksum(piece) == reference.checksum(piece), n
    for start in range(70):
        assert backend.checksum(block[start : start + 1000]) == reference.checksum(block[start : start + 1000]), start
    assert backend.checksum(b"") == reference.checksum(b"")
    assert backend.checksum(b"nif\0lab") == reference.checksum(b"nif\0lab")


# Properties.

finite = st.floats(-1e6, 1e6)
anything = st.floats()


def vectors(count: int, elements: st.SearchStrategy[float]) -> st.SearchStrategy[Array]:
    """``count`` vectors of one length, as the rows of a matrix."""
    return hnp.arrays(np.float64, st.tuples(st.just(count), st.integers(0, 70)), elements=elements)


def matrices(elements: st.SearchStrategy[float] = anything) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=20), elements=elements)


@given(xyz=vectors(3, finite), a=finite, b=finite)
def test_dot_is_linear(backend: LoadedBackend, xyz: Array, a: float, b: float) -> None:
    x, y, z = xyz
    scale = float(np.abs(a * x * z).sum() + np.abs(b * y * z).sum())
    difference = backend.dot(a * x + b * y, z) - (a * backend.dot(x, z) + b * backend.dot(y, z))
    assert abs(difference) <= 1e-12 * scale + 1e-300
    assert backend.dot(x, y) == backend.dot(y, x)


@given(x=vectors(1, finite), seed=st.integers(0, 2**32))
def test_sum_depends_little_on_order(backend: LoadedBackend, x: Array, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(x[0])
    assert abs(backend.sum(x[0]) - backend.sum(shuffled)) <= 1e-12 * np.abs(x).sum()


@given(xy=vectors(2, anything), a=anything)
def test_axpy_to_the_bit(backend: LoadedBackend, xy: Array, a: float) -> None:
    x, y = np.ascontiguousarray(xy[0]), np.ascontiguousarray(xy[1])
    agree("axpy", answer(backend, "axpy", (a, x, y)), reference.axpy(a, x, y))


@given(a=matrices())
def test_transpose_twice_is_the_identity(backend: LoadedBackend, a: Array) -> None:
    once = backend.transpose(a)
    assert once.tobytes() == a.T.tobytes()
    assert backend.transpose(once).tobytes() == a.tobytes()


@given(a=matrices(finite), data=st.data())
def test_the_transpose_of_a_product(backend: LoadedBackend, a: Array, data: st.DataObject) -> None:
    shape = st.tuples(st.just(a.shape[1]), st.integers(0, 20))
    b = data.draw(hnp.arrays(np.float64, shape, elements=finite))
    product = backend.matmul(a, b)
    tolerance = 1e-12 * (np.abs(a) @ np.abs(b)) + 1e-300
    assert (np.abs(product - backend.matmul(b.T, a.T).T) <= tolerance).all()
    np.testing.assert_array_equal(backend.matmul(a, np.eye(a.shape[1])), a)


@given(z=matrices(finite), passes=st.integers(0, 4))
def test_smooth_stays_between_the_extremes(backend: LoadedBackend, z: Array, passes: int) -> None:
    out = backend.smooth(z, passes)
    agree("smooth", out, reference.smooth(z, passes))
    if z.size:
        slack = 1e-12 * np.abs(z).max()
        assert z.min() - slack <= out.min() <= out.max() <= z.max() + slack


@given(z=matrices(finite), sun=st.tuples(finite, finite))
def test_hillshade_is_a_brightness(backend: LoadedBackend, z: Array, sun: tuple[float, float]) -> None:
    out = backend.hillshade(z, 10.0, 20.0, *sun)
    np.testing.assert_allclose(out, reference.hillshade(z, 10.0, 20.0, *sun), rtol=1e-7, atol=1e-7)
    assert ((out >= 0) & (out <= 1 + 1e-12)).all()


@given(x=vectors(1, anything), bins=st.integers(1, 500), ends=st.tuples(anything, anything))
def test_histogram_to_the_last_count(backend: LoadedBackend, x: Array, bins: int, ends: tuple[float, float]) -> None:
    low, high = min(ends), max(ends)
    assume(low < high and math.isfinite(high - low) and math.isfinite(bins / (high - low)))
    counts = backend.histogram(x[0], bins, low, high)
    agree("histogram", counts, reference.histogram(x[0], bins, low, high))
    assert counts.sum() == ((x >= low) & (x <= high)).sum()


@given(size=st.tuples(st.integers(0, 12), st.integers(0, 12)), window=st.tuples(*[st.floats(-3, 3)] * 4))
def test_mandelbrot_to_the_last_count(
    backend: LoadedBackend, size: tuple[int, int], window: tuple[float, float, float, float]
) -> None:
    agree("mandelbrot", backend.mandelbrot(*size, *window, 60), reference.mandelbrot(*size, *window, 60))


@given(data=st.binary(max_size=600), element=st.sampled_from(sorted(ELEMENTS)))
def test_checksum_is_that_of_the_bytes(backend: LoadedBackend, data: bytes, element: str) -> None:
    """Whatever the type and shape."""
    want = reference.checksum(data)
    assert backend.checksum(data) == backend.checksum(np.frombuffer(data, np.uint8)) == want
    whole = data[: len(data) // 48 * 48]
    array = np.frombuffer(whole, np.uint8).copy().view(ELEMENTS[element])
    want = reference.checksum(whole)
    for shape in [(-1,), (array.size // 3, 3), (1, array.size // 3, 1, 3)]:
        assert backend.checksum(array.reshape(shape)) == want
