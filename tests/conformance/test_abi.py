"""The libraries without the Lab: a second host, in ctypes, shows them what NumPy and the Lab never would.

Only for backends that are a file; what a runtime's table answers is tested through the Lab, by the same cases.
"""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path
from typing import Any

import abi_client
import numpy as np
import pytest
import reference
import wrong
from abi_client import AnyValue, CallFailed, Client, Value
from contract import FUNCTIONS, ON_DEVICES, Array, Function, Refusal, own_refusal, refusal

from nif_lab.errors import KINDS

pytestmark = pytest.mark.slow

TYPE_ERROR, VALUE_ERROR, PANIC, MEMORY_ERROR, CANCELLED = 1, 2, 4, 5, 6  # enum nif_error_kind


@pytest.fixture(scope="module")
def client(library: Path) -> Client:
    return Client(library)


def told(client: Client, name: str, *arguments: Any) -> tuple[int, int, str] | None:
    """Call it: kind of error (without the tainted bit), index of the argument, message."""
    try:
        client(name, *arguments)
    except CallFailed as error:
        return error.kind & 0xFF, error.argument, error.message
    return None


def tensor(client: Client, array: Array, **fields: Any) -> AnyValue:
    """Describe an array as the callee sees it, with some fields of its DLTensor changed."""
    described = client.tensor(array)
    for name, value in fields.items():
        setattr(described, name, value)
    return AnyValue(7, 0, Value(p=ctypes.addressof(described)))


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=str)
def test_the_callee_checks_by_itself(client: Client, function: Function) -> None:
    """The cases of test_errors.py again: no check is the Lab's alone."""
    found = []
    for label, arguments in (case for generator in wrong.EVERY for case in generator(function)):
        want = refusal(function, arguments) or own_refusal(function, arguments)
        answer = told(client, function.name, *arguments)
        got = None
        if answer:
            kind, index, message = answer
            name = None if index == -1 else function.parameters[index].name
            got = Refusal(KINDS[kind], name, "" if kind == PANIC else message)
        if got != want:
            found.append(f"{function.name}, {label}:\n  expected {want}\n  got      {got}")
    assert not found


# Rows 2 and 4 to 6, which take a tensor that NumPy can't make.


@pytest.mark.parametrize(
    ("type_index", "got"),
    [(5, "dtype"), (6, "device"), (4, "object"), (10, "object"), (64, "object"), (71, "object"), (-1, "object")],
)
def test_types_of_the_abi_that_no_parameter_takes(client: Client, type_index: int, got: str) -> None:
    block = (ctypes.c_int64 * 16)()
    value = AnyValue(type_index, 0, Value(p=ctypes.addressof(block)))
    for name, expected in {"sum": "f64[n]", "overflow": "i64", "error_value": "str", "checksum": "any[...]"}.items():
        assert told(client, name, value) == (TYPE_ERROR, 0, f"expected {expected}, got {got}")


@pytest.mark.parametrize("dtype", [(4, 16, 1), (2, 64, 2), (2, 80, 1), (3, 64, 1), (0, 12, 1), (6, 1, 1)])
def test_element_types_without_a_name(client: Client, dtype: tuple[int, int, int]) -> None:
    spelled = "/".join(map(str, dtype))
    for name, expected in {"sum": "f64[n]", "checksum": "any[...]", "write": "any[...]"}.items():
        value = tensor(client, np.ones(3), dtype=abi_client.Dtype(*dtype))
        assert told(client, name, value) == (TYPE_ERROR, 0, f"expected {expected}, got {spelled}[3]")


def test_memory_of_another_device(client: Client) -> None:
    for device_type in (0, 2, 10, 13):
        device = abi_client.Device(device_type, 0)
        for name in ("sum", "checksum", "write", "address"):
            value = tensor(client, np.ones(3), device=device, data=None)
            assert told(client, name, value) == (VALUE_ERROR, 0, "expected memory of the CPU")
        matrix = tensor(client, np.ones((3, 3)), device=device)
        assert told(client, "transpose", np.ones((3, 3)), matrix) == (VALUE_ERROR, 1, "expected memory of the CPU")
    assert client("sum", tensor(client, np.ones(3), device=abi_client.Device(1, 7))) == 3.0


def test_missing_data(client: Client) -> None:
    missing = (VALUE_ERROR, 0, "has no data")
    for name in ("sum", "checksum", "write"):
        assert told(client, name, tensor(client, np.ones(3), data=None)) == missing
    assert told(client, "transpose", tensor(client, np.ones((3, 1)), data=None), np.ones((1, 3))) == missing


def test_no_elements_need_no_data(client: Client) -> None:
    assert client("sum", tensor(client, np.ones(0), data=None)) == 0.0
    empty, turned = (tensor(client, np.ones(shape), data=None) for shape in [(0, 3), (3, 0)])
    assert client("checksum", empty) & 2**64 - 1 == reference.checksum(b"")
    assert client("write", empty).shape == (0, 3)
    assert client("transpose", empty, turned) is None
    assert client("matmul", turned, empty, out := np.ones((3, 3))) is None
    assert (out == 0).all()


def test_byte_offset(client: Client) -> None:
    x = np.arange(10.0)
    value = tensor(client, x[:4], byte_offset=24)
    assert client("sum", value) == 3 + 4 + 5 + 6
    assert client("address", value) == x.ctypes.data + 24
    assert client("checksum", value) & 2**64 - 1 == reference.checksum(x[3:7])
    np.testing.assert_array_equal(client("write", value), x[3:7])
    unaligned = (VALUE_ERROR, 0, "expected data aligned to 8 bytes")
    assert told(client, "sum", tensor(client, x[:4], byte_offset=4)) == unaligned
    shifted = tensor(client, x[:4], byte_offset=4, data=x.ctypes.data + 4)
    assert client("sum", shifted) == 1 + 2 + 3 + 4
    out = np.zeros((3, 2))
    client("transpose", tensor(client, x[:6].reshape(2, 3), byte_offset=16), out)
    np.testing.assert_array_equal(out, x[2:8].reshape(2, 3).T)


def test_overlap_counts_the_byte_offset(client: Client) -> None:
    block = np.zeros(20)
    assert told(client, "axpy", 1.0, block[:5], tensor(client, block[:5], byte_offset=40)) is None
    overlapping = told(client, "axpy", 1.0, block[5:10], tensor(client, block[:5], byte_offset=8))
    assert overlapping == (VALUE_ERROR, 2, "overlaps argument 'x'")


def test_no_strides_means_row_major(client: Client) -> None:
    a = np.arange(12.0).reshape(3, 4)
    out = np.zeros((4, 3))
    client("transpose", tensor(client, a, strides=None), tensor(client, out, strides=None))
    np.testing.assert_array_equal(out, a.T)
    assert client("sum", tensor(client, np.ones(5), strides=None)) == 5.0
    assert client("checksum", tensor(client, a, strides=None)) & 2**64 - 1 == reference.checksum(a)


def test_no_axes_need_no_shape(client: Client) -> None:
    value = tensor(client, np.array(1.5), shape=None, strides=None)
    assert client("checksum", value) & 2**64 - 1 == reference.checksum(np.array(1.5))
    assert client("write", value).shape == ()
    assert told(client, "sum", value) == (VALUE_ERROR, 0, "expected f64[n], got f64[]")


# What TVM-FFI clients send.


def boxed(payload: ctypes.Structure) -> Any:
    """Make a TVM object: a 24-byte header, then the payload."""

    class Boxed(ctypes.Structure):
        _fields_ = (("header", ctypes.c_uint8 * 24), ("payload", type(payload)))

    return Boxed((ctypes.c_uint8 * 24)(*[0xAA] * 24), payload)


def small(type_index: int, data: bytes) -> AnyValue:
    return AnyValue(type_index, len(data), Value(i=int.from_bytes(data.ljust(8, b"\0"), "little")))


@pytest.mark.parametrize("text", ["", "a", "seven b", "ünï", "longer than seven bytes"])
def test_strings_and_bytes_of_tvm(client: Client, text: str) -> None:
    data = text.encode()
    record = boxed(abi_client.Bytes(data, len(data)))
    strings, byte_arrays = ([AnyValue(index, 0, Value(p=ctypes.addressof(record)))] for index in (65, 66))
    if len(data) <= 7:
        strings.append(small(11, data))
        byte_arrays.append(small(12, data))
    for value in strings:
        assert told(client, "error_value", value) == (VALUE_ERROR, -1, text)
        assert told(client, "checksum", value) == (TYPE_ERROR, 0, "expected any[...], got str")
    for value in byte_arrays:
        assert client("checksum", value) & 2**64 - 1 == reference.checksum(data)
        assert told(client, "error_value", value) == (TYPE_ERROR, 0, "expected str, got bytes")


def test_tensor_objects_of_tvm(client: Client) -> None:
    x = np.arange(5.0)
    record = boxed(client.tensor(x))
    value = AnyValue(70, 0, Value(p=ctypes.addressof(record)))
    assert client("dot", value, value) == client("dot", x, value) == 30.0
    assert told(client, "dot", np.ones(4), value) == (VALUE_ERROR, 1, "expected f64[n] with n = 4, got f64[5]")
    client("axpy", 2.0, np.ones(5), value)
    np.testing.assert_array_equal(x, np.arange(5.0) + 2)


# The call itself.


def test_without_an_environment(client: Client) -> None:
    """A call by a TVM-FFI client: errors go elsewhere, answers don't."""
    assert client("add", 1.5, 2, env=False) == 3.5
    for name, arguments in {"add": (1,), "sum": (None,), "panic": ("on purpose",), "error_value": ("text",)}.items():
        with pytest.raises(CallFailed, match="without an error"):
            client(name, *arguments, env=False)
    assert client("mandelbrot", 2, 1, -1.0, 1.0, -1.0, 1.0, 5, np.zeros((1, 2), np.int32), env=False) is None


def test_a_failed_call_leaves_the_result_untouched(client: Client) -> None:
    for name, argument in {"sum": None, "error_value": "text", "panic": "text"}.items():
        result = AnyValue(77, 78, Value(i=79))
        arguments = (AnyValue * 1)(client.any(argument))
        status = client.functions[name].call(ctypes.byref(client.env), arguments, 1, ctypes.byref(result))
        assert (status, result.type_index, result.zero, result.v.i) == (-1, 77, 78, 79)


def test_cancel(client: Client) -> None:
    def paint(rows: int, iterations: int = 100) -> tuple[int, int, str] | None:
        inside = (-0.1, 0.1, -0.1, 0.1)  # nothing escapes, so each pixel takes all iterations
        return told(client, "mandelbrot", 200, rows, *inside, iterations, np.zeros((rows, 200), np.int32))

    client.cancel.value = 1
    try:
        assert paint(10) == (CANCELLED, -1, "cancelled")
    finally:
        client.cancel.value = 0
    assert paint(10) is None

    timer = threading.Timer(0.1, lambda: setattr(client.cancel, "value", 1))
    timer.start()
    start = time.monotonic()
    try:
        assert paint(10_000, 10_000) == (CANCELLED, -1, "cancelled")  # minutes, if it weren't
    finally:
        timer.join()
        client.cancel.value = 0
    assert time.monotonic() - start < 5


def test_no_memory_from_the_host(client: Client) -> None:
    before = bytes(client.host)
    client.host.alloc_tensor = abi_client.AllocTensor(lambda dtype, ndim, shape: None)
    try:
        answer = told(client, "write", np.ones(3))
    finally:
        ctypes.memmove(ctypes.byref(client.host), before, len(before))
    assert answer is not None
    assert answer[:2] == (MEMORY_ERROR, -1)
    np.testing.assert_array_equal(client("write", np.ones(3)), np.ones(3))


def test_the_table(client: Client) -> None:
    table = client.library
    assert (table.abi_version, table.zero) == (1, 0)
    assert all((table.language, table.compiler, table.library_version))
    on_devices = ON_DEVICES if "gpu_fill" in client.functions else {}
    assert table.n_functions == len(client.functions) == len(FUNCTIONS) + len(on_devices)
    assert all(function.zero == 0 for function in client.functions.values())


def test_init_again(library: Path, client: Client) -> None:
    """The same table every time, and a null host doesn't replace the one that was given."""
    file = ctypes.CDLL(str(library))
    file.nif_init.restype = ctypes.c_void_p
    file.nif_init.argtypes = (ctypes.c_void_p,)
    assert file.nif_init(None) == file.nif_init(None) == ctypes.addressof(client.library)
    np.testing.assert_array_equal(client("write", np.ones(3)), np.ones(3))


def test_every_function_is_exported_for_tvm(library: Path) -> None:
    file = ctypes.CDLL(str(library))
    assert [name for name in FUNCTIONS if not hasattr(file, f"__tvm_ffi_{name}")] == []
