"""A small value of each type: what docs/wire.md shows and tests/golden holds."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from .values import GpuBuffer, GpuTexture, KernelDescriptor, Layer, NeuralNetwork, Operand, TensorOperation

__all__ = ["EXAMPLES", "LIVE"]

#: Live handles: the ones that the examples use, and slot 9, which is free.
LIVE: Final = ((7, 3, 4096, 1), (8, 1, 65536, 0), (9, 0, 4096, 0))

_A: Final = np.array([[1, 2, 3], [4, 5, 6]], np.float64)

#: By the marker's name.
EXAMPLES: Final[dict[str, Any]] = {
    "float32": np.float32(1.5),
    "float64": -0.0,
    "int32": np.int32(-2),
    "int64": 2**40,
    "boolean": True,
    "array_f32": np.array([1, 2, 3], np.float32),
    "array_f64": np.array([np.pi]),
    "array_i32": np.array([1, -1], np.int32),
    "array_i64": np.array([], np.int64),
    "matrix_2d_f32": _A.astype(np.float32),
    "matrix_2d_f64": _A,
    "matrix_3d_f32": np.arange(1, 5, dtype=np.float32).reshape(1, 2, 2),
    "matrix_3d_f64": np.arange(1, 5, dtype=np.float64).reshape(1, 2, 2),
    "gpu_buffer": GpuBuffer(handle=3 << 32 | 7, size=1024, device=1),
    "gpu_texture": GpuTexture(handle=1 << 32 | 8, height=2, width=3, channels=4, dtype="float32"),
    "neural_network": NeuralNetwork(
        (Layer(np.array([[1, -1]], np.float32), np.array([0.5], np.float32), "relu"),), "unit"
    ),
    "tensor_operation": TensorOperation("matmul", (Operand((2, 3), "float64"), Operand((3,), "float32"))),
    "kernel_descriptor": KernelDescriptor("axpy", (2, 1, 1), (64, 1, 1), {"a": 2.0, "inverse": False}),
    "array_complex": np.array([1 + 2j, -1j]),
    "tensor": np.array([[1, 2], [3, 4]], np.uint8, order="F"),
}
