"""The same library files, opened by Apache TVM FFI, which knows nothing of the Lab."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tvm_ffi
from contract import FUNCTIONS


@pytest.fixture(scope="module")
def module(library: Path) -> Any:
    return tvm_ffi.load_module(str(library))


def exactly(text: str) -> str:
    """Return the pattern that matches this text and no other."""
    return f"^{re.escape(text)}$"


def test_scalars(module: Any) -> None:
    assert module.noop() is None
    assert module.add(1.5, 2) == 3.5
    assert module.divide(-7, 2) == -3


@pytest.mark.parametrize("convert", [lambda array: array, tvm_ffi.from_dlpack], ids=["NumPy", "DLPack"])
def test_arrays(module: Any, convert: Any, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 100))
    assert module.dot(convert(x), convert(y)) == pytest.approx(reference.dot(x, y))
    assert module.checksum(convert(x)) % 2**64 == reference.checksum(x)
    a, b, out = rng.normal(size=(4, 5)), rng.normal(size=(5, 6)), np.empty((4, 6))
    assert module.matmul(convert(a), convert(b), convert(out)) is None
    np.testing.assert_allclose(out, a @ b)
    module.axpy(2.0, convert(x), convert(changed := y.copy()))
    np.testing.assert_array_equal(changed, reference.axpy(2.0, x, y))
    module.transpose(convert(a.T[::-1]), convert(out := np.empty((4, 5))))
    np.testing.assert_array_equal(out, a.T[::-1].T)


def test_bytes(module: Any) -> None:
    for data in (b"", b"short", b"longer than seven bytes"):
        assert module.checksum(data) % 2**64 == reference.checksum(data)


def test_errors(module: Any) -> None:
    x = np.ones(100)
    with pytest.raises(ValueError, match=exactly("dot(): argument 'y': expected f64[n] with n = 100, got f64[99]")):
        module.dot(x, x[:99])
    with pytest.raises(TypeError, match=exactly("sum(): argument 'x': expected f64[n], got str")):
        module.sum("text")
    with pytest.raises(TypeError, match=exactly("add(): takes 2 arguments, 1 given")):
        module.add(1)
    with pytest.raises(ValueError, match=exactly("smooth(): argument 'passes': expected 0 or more, got -1")):
        module.smooth(np.ones((3, 3)), -1, np.ones((3, 3)))


@pytest.mark.parametrize("message", ["short", "two\nlines, ünïcödé 🦀, and quite long %s"])
def test_failures(module: Any, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=exactly(f"error_value(): {message}")):
        module.error_value(message)
    for _ in range(100):
        with pytest.raises(RuntimeError, match=re.escape(message)):
            module.panic(message)
    with pytest.raises(RuntimeError, match=r"^divide\(\): "):
        module.divide(1, 0)
    assert module.add(1, 2) == 3
    assert capfd.readouterr() == ("", ""), "the exception has the text: nothing is printed"


def test_there_is_no_host_to_allocate(module: Any) -> None:
    with pytest.raises(RuntimeError, match=exactly("write(): needs a host to allocate")):
        module.write(np.ones(3))


def test_every_function_is_there(module: Any) -> None:
    assert [name for name in FUNCTIONS if not module.get_function(name)] == []
