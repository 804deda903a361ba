"""What every kernel of docs/kernels.md should answer, in NumPy: obviously right rather than fast.

Each function takes the kernel's arguments without ``out`` and returns the answer; nothing is changed in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Array = npt.NDArray[Any]


def noop() -> None:
    return None


def add(x: float, y: float) -> float:
    return x + y


def dot(x: Array, y: Array) -> float:
    with np.errstate(all="ignore"):
        return float((x * y).sum())


def axpy(a: float, x: Array, y: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(a * x + y)


def sum(x: Array) -> float:  # noqa: A001, the kernel's name
    with np.errstate(all="ignore"):
        return float(x.sum())


def matmul(a: Array, b: Array) -> Array:
    # Not `a @ b`: BLAS may skip a product with zero, and then 0 * inf is no NaN.
    with np.errstate(all="ignore"):
        return np.asarray((a[:, :, None] * b[None, :, :]).sum(axis=1))


def transpose(a: Array) -> Array:
    return a.T.copy(order="C")


def _slope(z: Array, axis: int) -> Array:
    """Central differences per element, one-sided at the edges, 0 along an axis of length 1."""
    last = z.shape[axis] - 1
    here = np.arange(z.shape[axis])
    after, before = np.minimum(here + 1, last), np.maximum(here - 1, 0)
    steps = np.expand_dims(np.maximum(after - before, 1), 1 - axis)
    return np.asarray((z.take(after, axis) - z.take(before, axis)) / steps)


def hillshade(z: Array, dx: float, dy: float, azimuth: float, altitude: float) -> Array:
    with np.errstate(all="ignore"):
        az, alt = np.radians(azimuth), np.radians(altitude)
        light_x, light_y, light_z = np.sin(az) * np.cos(alt), np.cos(az) * np.cos(alt), np.sin(alt)
        gx, gy = _slope(z, 1) / dx, -_slope(z, 0) / dy
        shade = (-gx * light_x - gy * light_y + light_z) / np.sqrt(gx**2 + gy**2 + 1)
        return np.asarray(np.maximum(0.0, shade))  # np.maximum keeps NaN


def smooth(z: Array, passes: int) -> Array:
    z = z.copy(order="C")
    if z.size == 0:
        return z
    with np.errstate(all="ignore"):
        for _ in range(passes):
            p = np.pad(z, 1, mode="edge")
            rows = p[:-2] + 2 * p[1:-1] + p[2:]
            z = np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16)
    return z


def histogram(x: Array, bins: int, low: float, high: float) -> Array:
    inside = x[(x >= low) & (x <= high)]
    scale = bins / (high - low)
    cells: Array = ((inside - low) * scale).astype(np.int64)
    cells[cells == bins] = bins - 1
    return np.asarray(np.bincount(cells, minlength=bins), np.int64)


def forward(weights: Array, bias: Array, x: Array, activation: int) -> Array:
    with np.errstate(all="ignore"):
        value = (weights * x).sum(axis=1) + bias
        shifted = np.exp(value - value.max(initial=-np.inf))
        relu = np.where(value <= 0, 0.0, value)
        answers = (value, relu, np.tanh(value), 1 / (1 + np.exp(-value)), shifted / shifted.sum())
        return np.asarray(answers[activation])


def mandelbrot(
    width: int, height: int, x_min: float, x_max: float, y_min: float, y_max: float, iterations: int
) -> Array:
    answer = np.full((height, width), iterations, np.int32)
    inside = np.ones((height, width), np.bool_)
    zr, zi = np.zeros((height, width)), np.zeros((height, width))
    with np.errstate(all="ignore"):
        cr = (x_min + (x_max - x_min) * (np.arange(width) + 0.5) / width)[None, :]
        ci = (y_max - (y_max - y_min) * (np.arange(height) + 0.5) / height)[:, None]
        for n in range(iterations):
            escaped = inside & (zr * zr + zi * zi > 4)
            answer[escaped] = n
            inside &= ~escaped
            if not inside.any():
                break
            zr, zi = (zr * zr - zi * zi) + cr, 2 * zr * zi + ci
    return answer


def checksum(x: Array | bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(x if isinstance(x, bytes) else x.tobytes()))
