"""The oracle against others' work: what judges the kernels is itself judged."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from contract import FUNCTIONS
from matplotlib.colors import LightSource


def test_every_kernel_has_a_reference() -> None:
    kernels = [name for name, function in FUNCTIONS.items() if not function.flags & 32]
    rooms = {"address", "decode", "encode", "layout", "write"}
    assert [name for name in kernels if name not in rooms and not hasattr(reference, name)] == []


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (7, 3), (40, 50)])
def test_slopes_are_those_of_numpy(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    z = rng.normal(size=shape)
    for axis in (0, 1):
        np.testing.assert_allclose(reference._slope(z, axis), np.gradient(z, axis=axis), rtol=1e-12)


@pytest.mark.parametrize("azimuth", [0.0, 30.0, 135.0, 315.0])
def test_hillshade_is_that_of_matplotlib(rng: np.random.Generator, azimuth: float) -> None:
    """Matplotlib stretches the brightness to [0, 1]; gentle slopes under a high sun keep both from clipping."""
    z = rng.normal(size=(30, 40))
    ours = reference.hillshade(z, 20.0, 30.0, azimuth, 60.0)
    theirs = LightSource(azdeg=azimuth, altdeg=60.0).hillshade(z, dx=20.0, dy=30.0)
    assert ours.min() > 0
    np.testing.assert_allclose((ours - ours.min()) / np.ptp(ours), theirs, atol=1e-9)


def test_hillshade_knows_where_the_sun_is() -> None:
    rises_to_the_east = np.tile(np.arange(5.0), (5, 1))
    rises_to_the_south = rises_to_the_east.T
    assert (reference.hillshade(rises_to_the_east, 1.0, 1.0, 270.0, 45.0) > 0.99).all()
    assert (reference.hillshade(rises_to_the_east, 1.0, 1.0, 90.0, 45.0) < 1e-9).all()
    assert (reference.hillshade(rises_to_the_south, 1.0, 1.0, 0.0, 45.0) > 0.99).all()


def test_smooth_is_the_binomial_filter() -> None:
    impulse = np.zeros((5, 5))
    impulse[2, 2] = 16
    np.testing.assert_array_equal(reference.smooth(impulse, 1)[1:4, 1:4], np.outer([1, 2, 1], [1, 2, 1]))
    corner = np.zeros((3, 3))
    corner[0, 0] = 16
    np.testing.assert_array_equal(reference.smooth(corner, 1), np.outer([3, 1, 0], [3, 1, 0]))


def test_histogram_is_that_of_numpy(rng: np.random.Generator) -> None:
    x = rng.normal(size=10_000)
    np.testing.assert_array_equal(reference.histogram(x, 32, -2.0, 2.0), np.histogram(x, 32, (-2.0, 2.0))[0])


def test_mandelbrot_counts_as_complex_numbers_do() -> None:
    def escape(c: complex) -> int:
        z = 0j
        for n in range(50):
            if abs(z) > 2:
                return n
            z = z * z + c
        return 50

    image = reference.mandelbrot(8, 4, -2.0, 2.0, -1.0, 1.0, 50)
    centres = [[complex(-1.75 + 0.5 * column, 0.75 - 0.5 * row) for column in range(8)] for row in range(4)]
    assert image.tolist() == [[escape(c) for c in line] for line in centres]
    assert image.min() < 3
    assert image.max() == 50


def test_matmul_is_that_of_numpy(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(7, 5)), rng.normal(size=(5, 6))
    np.testing.assert_allclose(reference.matmul(a, b), a @ b, rtol=1e-12)
