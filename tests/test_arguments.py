"""The door: what users pass is checked where it comes in, and a refusal names the argument and what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

import nif_lab
from nif_lab import RecoveryPolicy, arguments, wire
from nif_lab.errors import (
    KINDS,
    ArgumentError,
    ArgumentTypeError,
    ArgumentValueError,
    BackendNotLoaded,
    HandleError,
    MappingError,
    NifLabError,
    NoSuchFunction,
    kind_name,
    kind_number,
)
from nif_lab.flags import Flag
from nif_lab.memory import Pool
from nif_lab.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nif_lab.lab import Lab

X = np.ones(3)


@pytest.fixture(scope="module")
def small() -> Iterator[Lab]:
    """A Lab in the direct lane: no worker is started."""
    return nif_lab.Lab("rust")


LANE = r"no lane 'isolatd'; there are direct, isolated; did you mean 'isolated'\?"
#: Each door that takes a word, and what it says of one that isn't.
MISSPELT: dict[str, tuple[Callable[[Lab], Any], str]] = {
    "Lab": (lambda _: nif_lab.Lab([], lane="isolatd"), LANE),
    "call": (lambda lab: lab.call("rust", "add", 1, 2, lane="isolatd"), LANE),
    "cell": (lambda lab: lab.cell("rust", "pub fn f() {}", lane="isolatd"), LANE),
    "load": (lambda lab: lab.load("libmine.so", lane="isolatd"), LANE),
    "transfer": (lambda lab: lab.transfer("rust", "rust", X, lane="isolatd"), LANE),
    "transfer_matrix": (lambda lab: lab.transfer_matrix(X, selves=True, lane="isolatd"), LANE),
    "inject": (lambda lab: lab.faults.inject("rust", "panic", "isolatd"), LANE),
    "kind": (lambda lab: lab.faults.inject("rust", "panik"), "no kind 'panik'; .*did you mean 'panic'"),
    "mode": (
        lambda lab: lab.transfer("rust", "rust", X, "share"),
        "no mode 'share'; there are auto, shared, wire, mmap",
    ),
    "modes": (lambda lab: lab.transfer_matrix(X, ["wire", "mail"]), "no mode 'mail'"),
    "topic": (lambda lab: lab.subscribe("nif:eror", print), "no topic 'nif:eror'; .*nif:errors"),
    "access": (lambda lab: lab.memory.map_file(size=8, access="rw"), "no access 'rw'; there are read_only"),
    "language": (lambda lab: lab.new("cobol", "mine"), "no language 'cobol'; there are rust"),
    "cell language": (lambda lab: lab.cell("cobol", ""), "no language 'cobol'; there are rust"),
    "launch": (
        lambda lab: lab.wire.launch(wire.KernelDescriptor("dot"), "rusty"),
        "no backend 'rusty'; there are rust",
    ),
}


@pytest.mark.parametrize("door", MISSPELT)
def test_a_misspelt_word_is_refused_with_those_that_there_are(small: Lab, door: str) -> None:
    call, says = MISSPELT[door]
    with pytest.raises(ArgumentValueError, match=says) as caught:
        call(small)
    assert isinstance(caught.value, ValueError)
    assert small.rust.loaded
    assert set(small._opened) == {("rust", "direct")}, "nothing was opened under that name"


class Odd:
    """Something that is nothing of what is expected; whoever compares it fails."""

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None  # type: ignore[assignment]


ODD: Any = Odd()
#: Calls with nonsense, and the class of the refusal. The first words of the refusal name the argument.
NONSENSE: list[tuple[str, Callable[[Lab], Any], type[NifLabError]]] = [
    ("backends: expected a string", lambda _: nif_lab.Lab([5]), ArgumentTypeError),
    ("pools: expected", lambda _: nif_lab.Lab([], pools=["x"]), ArgumentTypeError),
    ("pools: expected", lambda _: nif_lab.Lab([], pools=5), ArgumentTypeError),
    ("pools: expected", lambda _: nif_lab.Lab([], pools=[Pool("a", 1 << 70, 1, 1 << 71)]), ArgumentValueError),
    ("policy: expected a RecoveryPolicy", lambda lab: lab.recovery.set(0), ArgumentTypeError),
    ("policy: expected a RecoveryPolicy", lambda lab: lab.faults.inject("rust", "panic", policy=5), ArgumentTypeError),
    ("times: expected a whole number", lambda lab: lab.faults.inject("rust", "panic", times=-1), ArgumentValueError),
    ("seed: expected a whole number", lambda lab: lab.faults.inject("rust", "panic", seed=-1), ArgumentValueError),
    ("backend: expected a backend's name", lambda lab: lab.call(ODD, "dot", X, X), ArgumentTypeError),
    ("function: expected a function's name", lambda lab: lab.call("rust", ODD), ArgumentTypeError),
    ("rust has no function 'load'", lambda lab: lab.call("rust", "load"), NoSuchFunction),
    ("rust has no function '__init__'", lambda lab: lab.call("rust", "__init__", timeout=1.0), NoSuchFunction),
    ("a call in this process", lambda lab: lab.call("rust", "add", 1, 2, timeout=1), ArgumentValueError),
    ("retries: expected a whole number", lambda lab: lab.call("rust", "add", 1, 2, retries=1.5), ArgumentTypeError),
    ("no backend 'nobody'", lambda lab: lab.transfer("rust", "nobody", X), BackendNotLoaded),
    ("no backend 'nobody'", lambda lab: lab.faults.inject("nobody", "panic"), BackendNotLoaded),
    ("backend: expected", lambda lab: lab.transfer(ODD, "rust", X), ArgumentTypeError),
    ("mode: expected", lambda lab: lab.transfer("rust", "rust", X, ODD), ArgumentTypeError),
    ("source: expected text", lambda lab: lab.cell("rust", 5), ArgumentTypeError),
    ("flags: no closing quotation", lambda lab: lab.cell("rust", "pub fn f() {}", flags="-C 'x"), ArgumentValueError),
    ("flags: expected a string", lambda lab: lab.cell("rust", "pub fn f() {}", flags=[5]), ArgumentTypeError),
    ("path: expected the path of a file", lambda lab: lab.load(5), ArgumentTypeError),
    ("name: expected a name", lambda lab: lab.load("libmine.so", name=5), ArgumentTypeError),
    ("no path has a NUL", lambda lab: lab.load("a\0b"), ArgumentValueError),
    ("name: expected a name", lambda lab: lab.new("zig", 5), ArgumentTypeError),
    ("rate: expected a number", lambda lab: lab.dashboard("x"), ArgumentTypeError),
    ("rate: expected a number", lambda lab: lab.dashboard(10**400), ArgumentValueError),
    ("last: expected a whole number", lambda lab: lab.history("x"), ArgumentTypeError),
    ("last: expected a whole number", lambda lab: lab.history(-1), ArgumentValueError),
    ("callback: expected a function", lambda lab: lab.subscribe("nif:errors", 5), ArgumentTypeError),
    ("VALUE: .*no dialect 'klingon'", lambda lab: lab.wire.encode(X, "klingon"), WireError),
    ("VALUE: .*no dialect", lambda lab: lab.wire.encode(X, ODD), WireError),
    ("VALUE: .*no dialect", lambda lab: lab.wire.decode(bytes(64), "klingon", by="rust"), WireError),
    ("VERSION: .*got 7", lambda lab: lab.wire.encode(X, version=7, by="rust"), WireError),
    ("no codec 'klingon'", lambda lab: lab.wire.encode(X, by="klingon"), BackendNotLoaded),
    ("by: expected a backend", lambda lab: lab.wire.encode(X, by=5), ArgumentTypeError),
    ("frame: expected contiguous bytes, got str", lambda lab: lab.wire.decode("abc"), ArgumentTypeError),
    ("frame: expected contiguous bytes, got list", lambda lab: lab.wire.decode([1], by="rust"), ArgumentTypeError),
    ("VALUE: .*not contiguous", lambda lab: lab.wire.decode(np.ones(9, "u1")[::2], by="rust"), WireError),
    ("live: expected rows", lambda lab: lab.wire.decode(bytes(64), by="rust", live=[[1]]), WireError),
    ("live: expected rows", lambda lab: lab.wire.decode(bytes(64), by="python", live=[[1]]), WireError),
    ("VALUE: .*can't be written", lambda lab: lab.wire.encode(wire.NeuralNetwork(5)), WireError),
    ("VALUE: .*can't be written", lambda lab: lab.wire.encode(wire.KernelDescriptor("k", parameters=3)), WireError),
    ("descriptor: expected a kernel", lambda lab: lab.wire.launch(lab.wire.encode(X), "rust"), ArgumentTypeError),
    ("expected the three numbers", lambda lab: lab.memory.resolve((1, -2, 3)), HandleError),
    ("expected the three numbers", lambda lab: lab.memory.resolve(5), HandleError),
    ("languages: expected", lambda lab: lab.memory.allocate(8, languages=5), ArgumentTypeError),
]  # fmt: skip


@pytest.mark.parametrize("case", NONSENSE, ids=lambda it: re.sub(r"\W+", " ", it[0]))
def test_nonsense_is_refused_with_the_arguments_name(small: Lab, case: Any) -> None:
    says, call, kind = case
    with pytest.raises(kind, match=says):
        call(small)
    assert small.rust.add(1, 2) == 3


@pytest.mark.parametrize(("name", "wrong"), [
    *(("timeout", it) for it in ("x", 0, -1, float("nan"), float("inf"), 1e300, 1e-12, True)),
    *(("retries", it) for it in (1.5, True, -1, "x", 10**9)), *(("failover", it) for it in ("x", 1, None)),
    *(("crashes", it) for it in (1.5, 0, "x")), *(("window", it) for it in ("x", -1, None, float("nan"))),
    *(("cooldown", it) for it in (None, -1, "x")),
])  # fmt: skip
def test_a_policy_of_nonsense_cant_be_made(name: str, wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^{name}: ") as caught:
        RecoveryPolicy(**{name: wrong})
    assert isinstance(caught.value, (ValueError, TypeError))


def test_a_policy_takes_what_numpy_counts_in() -> None:
    assert RecoveryPolicy(timeout=np.float32(2), retries=np.int64(3), cooldown=0).retries == 3


def test_a_file_that_cant_be_mapped_so_is_left_as_it_was(small: Lab, tmp_path: Path) -> None:
    there, new = tmp_path / "there", tmp_path / "new"
    there.write_bytes(b"12345678")
    map_file = small.memory.map_file
    for call, kind in (
        (lambda: map_file(tmp_path / "missing"), MappingError),
        (lambda: map_file(dtype="f8"), ArgumentValueError),
        (lambda: map_file(tmp_path / "missing" / "x", shape=5), MappingError),
        (lambda: map_file(new, shape=-1), ArgumentValueError),
        (lambda: map_file(new, shape=1 << 62, dtype="f8"), ArgumentValueError),
        (lambda: map_file(new, size=16, shape=5, dtype="f8"), ArgumentValueError),
        (lambda: map_file(there, size=16, shape=5, dtype="f8"), ArgumentValueError),
        (lambda: map_file(new, size=-1), ArgumentValueError),
        (lambda: map_file(new, size=1.5), ArgumentTypeError),
        (lambda: map_file(new, size=1 << 70), ArgumentValueError),
        (lambda: map_file(new, size=8, dtype="V0"), ArgumentValueError),
        (lambda: map_file(new, size=8, dtype=object), ArgumentValueError),
        (lambda: map_file(new, size=8, dtype="nonsense"), ArgumentTypeError),
        (lambda: map_file(b"new", size=8), ArgumentTypeError),
        (lambda: map_file("n\0w", size=8), ArgumentValueError),
    ):
        with pytest.raises(kind):
            call()
        assert (there.read_bytes(), new.exists()) == (b"12345678", False)
    with map_file(there, dtype="i4") as file:
        assert file.array.shape == (2,)


@pytest.mark.parametrize("name", ["load", "__init__", "__reduce__", "_repr_html_", "functions", "panic", "fault"])
def test_a_frame_can_call_functions_and_nothing_else(small: Lab, name: str) -> None:
    frame = wire.encode(wire.KernelDescriptor(name, parameters={}))
    with pytest.raises(NoSuchFunction):
        small.wire.launch(frame, "rust")
    assert small.rust.loaded
    frame = wire.encode(wire.KernelDescriptor("add", parameters={"a": 1.0, "b": 2.0}))
    with pytest.raises(nif_lab.errors.NifTypeError):
        small.wire.launch(wire.encode(wire.KernelDescriptor("add", parameters={"x": 1.0})), "rust")
    first, second = small.rust.functions["add"].parameters
    assert small.wire.launch(wire.KernelDescriptor("add", parameters={first: 1, second: 2}), "rust") == 3


def test_one_language_may_be_given_as_a_word_and_flags_as_a_line() -> None:
    from nif_lab.backends.base import Options

    assert [*nif_lab.Lab("zig").backends] == ["zig"]
    assert Options.of(True, "-C 'opt-level=1' -v").flags == ("-C", "opt-level=1", "-v")
    assert Options.of(True, ("-C", "x y")).flags == ("-C", "x y")


def test_arrays_of_other_libraries_are_transferred(small: Lab) -> None:
    class Tensor:
        dtype, shape = "float64", (3,)

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.arange(3.0)

    for mode in arguments.MODES:
        np.testing.assert_array_equal(small.transfer("rust", "rust", Tensor(), mode).array, np.arange(3.0))


# --- one home for each fact ---------------------------------------------------------------------------------


def test_the_flags_are_those_of_the_header() -> None:
    header = (Path(nif_lab.get_include()) / "nif_lab.h").read_text()
    assert {name: int(bit) for name, bit in re.findall(r"NIF_FLAG_(\w+) = (\d+)", header)} == {
        it.name: it.value for it in Flag
    }


def test_every_kind_of_failure_has_one_name() -> None:
    assert [kind_name(number) for number in KINDS] == [kind.__name__ for kind in KINDS.values()]
    assert (kind_name(0), kind_name(99)) == ("", "unknown (99)")
    for number, kind in KINDS.items():
        assert kind_number(kind("it")) == number
    assert kind_number(OSError()) == 3


def test_words_are_written_down_once() -> None:
    """No other file of the package lists the lanes, modes, topics, accesses or kinds of faults."""
    listed = [[*get_args(it)] for it in (arguments.Way, arguments.Topic, arguments.Access, arguments.ContainedKind)]
    package = Path(nif_lab.__file__).parent
    for file in set(package.rglob("*.py")) - {package / "arguments.py"}:
        text = re.sub(r"\s+", " ", file.read_text())
        for words in listed:
            assert ", ".join(f'"{it}"' for it in words) not in text, f"{file.name} lists {words}"
