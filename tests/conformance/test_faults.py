"""Failures on purpose: each becomes an exception, and the process and the backend go on."""

from __future__ import annotations

import ctypes
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from nif_lab.errors import NifError, NifPanic, NifValueError

if TYPE_CHECKING:
    from nif_lab.lab import LoadedBackend

pytestmark = pytest.mark.slow

MESSAGES = [
    "no such thing", "100 % of {0} %s %n %d", "quotes ' \" and \\ slashes", "two\nlines\ttabbed", "Übergrößenträger",
    "прывітанне שלום 你好", "🦀⚡👑🟣 e\u0301 \u202e\U0010ffff", "x" * 10_000, " ",
]  # fmt: skip

SMALLEST, LARGEST = -(2**63), 2**63 - 1

#: Calls that fail as only native code can.
PANICS: list[tuple[Any, ...]] = [
    ("panic", "on purpose"),
    *[("out_of_bounds", i) for i in (8, 9, 2**32, 2**32 + 1, 2**61, 2**63 - 8, LARGEST, -1, -8, -(2**32), SMALLEST)],
    ("overflow", LARGEST),
    ("divide", 1, 0),
    ("divide", 0, 0),
    ("divide", SMALLEST, -1),
]


def panic(backend: LoadedBackend, call: tuple[Any, ...]) -> NifPanic:
    """Make a call that panics; return what it raised."""
    name, *arguments = call
    try:
        answer = getattr(backend, name)(*arguments)
    except NifPanic as error:
        return error
    pytest.fail(f"{name}{tuple(arguments)} answered {answer!r}")


def still_right(backend: LoadedBackend) -> None:
    """Assert that functions which have nothing to do with the fault answer as before."""
    x = np.arange(100.0)
    z = x.reshape(10, 10)
    assert backend.dot(x, x) == 328350.0
    assert backend.checksum(x) == reference.checksum(x)
    np.testing.assert_array_equal(backend.transpose(z), z.T)
    np.testing.assert_array_equal(backend.matmul(z, np.eye(10)), z)


def test_error_values_come_back_word_for_word(backend: LoadedBackend) -> None:
    for message in MESSAGES:
        with pytest.raises(NifValueError) as caught:
            backend.error_value(message)
        error = caught.value
        assert (error.backend, error.function, error.argument) == (backend.name, "error_value", None)
        assert error.reason == message
        assert str(error) == f"{backend.name}.error_value(): {message}"


@given(message=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_makes_the_round_trip(backend: LoadedBackend, message: str) -> None:
    with pytest.raises(NifValueError) as caught:
        backend.error_value(message)
    assert caught.value.reason == message


def test_panics_keep_their_message(backend: LoadedBackend) -> None:
    for message in MESSAGES:
        assert message in panic(backend, ("panic", message)).reason


def test_panics_are_exceptions(backend: LoadedBackend) -> None:
    for call in PANICS:
        error = panic(backend, call)
        assert (error.backend, error.function, error.argument) == (backend.name, call[0], None)
        assert error.reason.strip(), f"{call} says nothing"
        still_right(backend)


def test_functions_that_may_panic_are_right_when_they_do_not(backend: LoadedBackend) -> None:
    assert [backend.out_of_bounds(i) for i in range(8)] == list(range(8))
    assert [backend.overflow(x) for x in (SMALLEST, -1, 0, LARGEST - 1)] == [SMALLEST + 1, 0, 1, LARGEST]
    quotients = {(7, 2): 3, (-7, 2): -3, (7, -2): -3, (-7, -2): 3, (0, -5): 0, (SMALLEST, 1): SMALLEST,
                 (LARGEST, -1): -LARGEST, (SMALLEST, SMALLEST): 1, (SMALLEST, LARGEST): -1}  # fmt: skip
    assert {pair: backend.divide(*pair) for pair in quotients} == quotients


def test_panics_are_quiet(backend: LoadedBackend, capfd: pytest.CaptureFixture[str]) -> None:
    """The exception has the text; printing it too would scatter it over a notebook server's log."""
    for call in PANICS:
        panic(backend, call)
    assert capfd.readouterr() == ("", "")


def test_a_thousand_in_a_row(backend: LoadedBackend) -> None:
    """Of every kind in turn; a hundred of one kind first, since a kind may spoil only itself."""
    for call in PANICS:
        for _ in range(100):
            panic(backend, call)
    for _ in range(25):
        for call in PANICS:
            panic(backend, call)
    still_right(backend)


def test_failures_leave_no_memory_behind(backend: LoadedBackend) -> None:
    """Sooner or later comes a round that needs no more memory, whenever a garbage collector sees fit."""
    growth: list[int] = []
    while sum(growth) < 150_000_000:
        before = resident_bytes()
        for _ in range(2000):
            for name in ("error_value", "panic"):
                with pytest.raises(NifError):
                    getattr(backend, name)("x" * 1000)
        growth.append(resident_bytes() - before)
        if growth[-1] < 1_000_000:  # the messages of a round are 4 MB
            return
    pytest.fail(f"every round of failures keeps memory: {growth}")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_loaded_libraries_are_what_their_names_say(backend: LoadedBackend) -> None:
    """Debuggers and tracebacks open the files that the loader names: also that of a library opened afresh."""
    panic(backend, ("panic", "on purpose"))
    assert backend.add(1, 2) == 3
    with ExitStack() as stack:
        for _ in range(8):  # these take the next free descriptors, if a library's name was one
            stack.enter_context(TemporaryFile())
        for name in loaded_files():
            file = Path(name)
            if file.is_absolute() and file.exists():
                assert file.is_file(), name
                with file.open("rb") as opened:
                    assert opened.read(4) == b"\x7fELF", name


def loaded_files() -> list[str]:
    """List what the loader has loaded, by the names under which it was opened."""

    class Info(ctypes.Structure):
        _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))

    names: list[str] = []
    visit = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Info), ctypes.c_size_t, ctypes.c_void_p)

    def keep(info: Any, size: int, data: int) -> int:
        names.append(os.fsdecode(info.contents.name or b""))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(visit(keep), None)
    return names


def test_many_threads_each_get_their_own_error(backend: LoadedBackend) -> None:
    def fail(i: int) -> None:
        for k in range(100):
            with pytest.raises(NifValueError) as value_error:
                backend.error_value(f"thread {i}, call {k}")
            assert value_error.value.reason == f"thread {i}, call {k}"
            assert f"panic {i}, call {k};" in panic(backend, ("panic", f"panic {i}, call {k};")).reason
            assert backend.add(i, k) == i + k

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fail, range(8))) == [None] * 8
    still_right(backend)
