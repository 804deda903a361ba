"""The form that calls any function, and the inspector that breaks frames."""

from __future__ import annotations

import re
import time
from html import escape, unescape
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from nif_lab import Lab
from nif_lab.panels.inspector import InspectorPanel
from nif_lab.panels.tryit import TryPanel, _shown, array_of
from nif_lab.wire.examples import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def form(lab: Lab) -> Iterator[TryPanel]:
    panel = TryPanel(lab)
    yield panel
    panel.close()


@pytest.fixture
def inspector(lab: Lab) -> Iterator[InspectorPanel]:
    panel = InspectorPanel(lab.backends, lab.wire)
    yield panel
    panel.close()


def test_every_function_of_every_language_has_a_form(form: TryPanel, lab: Lab) -> None:
    for name, loaded in lab.backends.items():
        form.language.value = name
        assert set(loaded.kernels) - set(form.function.options) == {"decode", "encode"}
        # Those of its own library: a cell of another test may be one that fails.
        for function in sorted(set(form.function.options).intersection(dir(loaded.builtin))):
            if function.startswith("gpu_"):
                continue  # they take arrays of a device
            form.function.value = function
            assert form.problem.value == ""
            wanted = [it for it in lab.backends[name].functions[function].parameters if it != "out"]
            assert list(form.fields) == wanted
            form.call.click()
            assert form.call.phase == "done", form.problem.value
            assert f"lab.{'isolated.' if loaded.lane == 'direct' else ''}{name}.{function}(" in form.result.value


def test_a_call_that_takes_long_is_stopped(form: TryPanel, lab: Lab) -> None:
    form.language.value, form.function.value = "zig", "mandelbrot"
    for name, value in (("width", 2000), ("height", 2000), ("iterations", 100_000_000)):
        form.fields[name].value = value
    started = lab.isolated.zig.workers.started
    form.call._hear(form.call, {"click": 1}, [])
    end = time.monotonic() + 60
    while form._running != "zig" and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)  # until the worker has begun
    form.call._hear(form.call, {"stop": True}, [])
    form.call.wait(60)
    assert form.call.phase == "failed"
    assert "■ stopped: its worker was ended" in form.result.value
    assert form.problem.value == ""
    assert lab.isolated.zig.add(1, 2) == 3
    assert lab.isolated.zig.workers.started > started


def test_a_cell_of_this_process_is_called_in_it(form: TryPanel, lab: Lab) -> None:
    lab.cell("julia", "double_it(x::Float64) = 2x", lane="direct", replace=True)
    form.language.value = "julia"
    form.refresh()
    form.function.value = "double_it"
    form.fields["x"].value = 21.0
    form.call.click()
    assert form.call.phase == "done", form.problem.value
    assert "42.0" in form.result.value
    assert "in this process" in form.result.value


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The variables of a notebook."""
    variables: dict[str, object] = {}
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(user_ns=variables, kernel=None))
    return variables


def test_a_variable_of_the_notebook_is_an_argument(form: TryPanel, notebook: dict[str, object]) -> None:
    notebook["mine"] = pa.array([1.0, 2.0, 6.0])
    form.function.value = "sum"
    form.fields["x"].value = " mine "
    form.call.click()
    assert form.call.phase == "done", form.problem.value
    assert "9.0" in form.result.value
    assert "lab.isolated.rust.sum(mine)" in form.result.value
    for text in ("yours", "_mine", "mine.sum()"):
        form.fields["x"].value = text
        form.call.click()
        assert "is no array" in form.problem.value, text


def test_a_variable_of_the_notebook_is_a_value(inspector: InspectorPanel, notebook: dict[str, object]) -> None:
    notebook["mine"] = np.arange(3, dtype=np.int16)
    inspector.example.value = "your own"
    inspector.typed.value = "mine"
    assert (inspector._wire.decode(inspector.frame) == notebook["mine"]).all()


def test_a_call_is_shown_with_its_code(form: TryPanel, lab: Lab) -> None:
    form.function.value = "dot"
    form.fields["x"].value, form.fields["y"].value = "[1, 2, 3]", "ones(3)"
    form.call.click()
    code = "lab.isolated.rust.dot(np.array([1, 2, 3], 'float64'), np.ones(3).astype('float64'))"
    assert escape(code) in form.result.value
    assert "6.0" in form.result.value
    for text in ("random(3)", "arange(3)", "linspace(0, 1, 3)", "zeros(3)", "[ 1, 2.5, 3 ]"):
        form.fields["x"].value = text
        form.call.click()
        code = unescape(re.search(r"<pre[^>]*>(.*?)</pre>", form.result.value)[1])
        assert escape(repr(eval(code, {"lab": lab, "np": np}))) in form.result.value, code
    form.function.value = "mandelbrot"
    form.call.click()
    assert 'alt="int32 array of 160 × 240' in form.result.value
    form.function.value = "axpy"
    form.fields["x"].value, form.fields["y"].value = "ones(2)", "zeros(2)"
    form.call.click()
    assert "[1. 1.]" in form.result.value, "what the function wrote"


def test_a_refusal_is_shown_with_its_words(form: TryPanel) -> None:
    form.function.value = "dot"
    form.fields["y"].value = "ones(3)"
    form.call.click()
    assert form.call.phase == "failed"
    assert "expected f64[n] with n = 64, got f64[3]" in form.problem.value
    form.fields["y"].value = "ones(64)"
    form.call.click()
    assert form.problem.value == ""


def test_what_was_typed_is_for_the_next_language_too(form: TryPanel) -> None:
    form.function.value = "dot"
    form.fields["x"].value = "ones(5)"
    form.language.value = "zig"
    assert form.fields["x"].value == "ones(5)"
    assert form.function.value == "dot"


def test_the_deadline_is_the_whole_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nif_lab.panels.tryit._DEADLINE", 0.5)
    form = TryPanel(Lab(["rust", "zig"]))  # with the policy of users: it tries again, and asks others
    form.function.value = "mandelbrot"
    form.fields["iterations"].value = 2**31 - 1
    start = time.monotonic()
    form.call.click()
    assert form.call.phase == "failed"
    assert "took longer than its 0.5 s" in form.problem.value
    assert "tried:" not in form.problem.value, "another language's answer is not what was asked for"
    assert time.monotonic() - start < 1.4
    form.close()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.full((9, 9), np.nan), "from 0 to 0, 81 not finite"),
        (np.where(np.eye(9) > 0, np.inf, 2.0), "from 2 to 2, 9 not finite"),
        (np.array([[-1.7e308, 1.7e308] * 8] * 8), "from -1.7e+308 to 1.7e+308"),
        (np.zeros((3000, 2000)), "3000 × 2000, from 0 to 0"),
        (np.zeros((8, 100_000)), "8 × 100000, from 0 to 0"),
        (np.arange(100, dtype=np.uint8).reshape(10, 10), "10 × 10, from 0 to 99"),
    ],
)
def test_any_matrix_has_a_picture(answer: np.ndarray, words: str) -> None:
    assert words in _shown(answer)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("zeros(2, 3)", np.zeros((2, 3))),
        ("arange(4)", np.arange(4.0)),
        ("linspace(0, 1, 3)", np.array([0, 0.5, 1])),
        ("[[1, 2], [3, 4]]", np.array([[1.0, 2], [3, 4]])),
        ("3", np.array(3.0)),
    ],
)
def test_arrays_are_described_in_words(text: str, value: np.ndarray) -> None:
    made = array_of(text)
    assert made.dtype == np.float64
    assert np.array_equal(made, value)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "__import__('os').system('true')", "np.zeros(3)", "zeros()", "zeros('3')", "zeros(shape=3)", "zeros(",
        "random(-1)", "[1, 'a']", "[[1], [2, 3]]", "linspace(0)", "arange(0, 1, 0)", "(lambda: 1)()", "[" * 3000,
        "zeros(True)",
    ],
)  # fmt: skip
def test_what_is_no_array_is_refused_and_never_run(text: str) -> None:
    with pytest.raises(ValueError, match="is no array: write a list"):
        array_of(text)


@pytest.mark.parametrize("text", ["zeros(10**9)", "zeros(100000, 100000)", "arange(1e12)", "linspace(0, 1, 99999999)"])
def test_a_slip_of_the_finger_costs_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"more than 8,000,000 elements|is no array"):
        array_of(text)


def test_every_example_is_shown_in_both_versions(inspector: InspectorPanel) -> None:
    for version in (2, 1):
        inspector.version.value = version
        for name in EXAMPLES:
            inspector.example.value = name
            if (name, version) == ("tensor", 1):
                assert "version 1 has no type for uint8[2, 2]" in inspector.problem.value
                continue
            assert inspector.problem.value == ""
            assert "✗" not in inspector.verdicts.value
            assert inspector.verdicts.value.count("✓") == 5


def test_a_broken_byte_is_told_by_all_decoders_and_restored(inspector: InspectorPanel) -> None:
    inspector.example.value = "matrix_2d_f64"
    before = inspector.frame.copy()
    inspector.offset.value, inspector.bit.value = 0, 3
    inspector.flip.click()
    assert "1 byte is broken" in inspector.verdicts.value
    assert inspector.verdicts.value.count("✗") == 5
    assert "⚠" in inspector.page.html
    inspector.flip.click()
    assert np.array_equal(inspector.frame, before)
    inspector.flip.click()
    inspector.restore.click()
    assert np.array_equal(inspector.frame, before)
    assert "As it was written" in inspector.verdicts.value


def test_a_click_chooses_a_byte_and_a_double_click_flips_it(inspector: InspectorPanel) -> None:
    inspector.page._hear(inspector.page, {"choose": 4}, [])
    assert inspector.offset.value == 4
    assert re.search(r"Byte 4 is [0-9a-f]{2}; \w+", inspector.chosen.value)
    assert inspector.page.html.count("<u>") == 1
    assert "<b>" not in re.findall(r'class="hex".*?class="list"', inspector.page.html, re.S)[0]
    before = int(inspector.frame[9])
    inspector.page._hear(inspector.page, {"flip": 9}, [])
    assert (inspector.offset.value, int(inspector.frame[9])) == (9, before ^ 1)
    assert f"<u><b>{before ^ 1:02x}</b></u>" in inspector.page.html
    assert f"(it was {before:02x})" in inspector.chosen.value
    inspector.page._hear(inspector.page, {"flip": 1_000_000, "choose": "x"}, [])
    assert "no such byte" in inspector.problem.value


def test_a_refused_value_leaves_no_frame_of_the_last_one(inspector: InspectorPanel) -> None:
    inspector.example.value = "your own"
    assert "✓ valid" in inspector.page.html
    inspector.typed.value = "[1, 'a']"
    assert "No frame: the value was refused." in inspector.page.html
    assert inspector.verdicts.value == ""
    assert inspector.flip.disabled
    assert "no frame" in inspector.text()
    inspector.typed.value = "[1, 2]"
    assert "✓ valid" in inspector.page.html
    assert not inspector.flip.disabled


def test_a_typed_value_is_written_or_refused_with_the_cure(inspector: InspectorPanel) -> None:
    inspector.example.value = "your own"
    inspector.dtype.value = "int32"
    inspector.typed.value = "[[1, 2], [3, 4]]"
    assert inspector.problem.value == ""
    assert "int32" in inspector.verdicts.value
    inspector.typed.value = "arange(6)"
    assert inspector.problem.value == ""
    assert "int32[6]: 0, 1, 2, 3, 4, 5" in inspector.page.html
    for text in ("[1.5]", "[3000000000]", "[[1], [2, 3]]", "zeros(x)"):
        inspector.typed.value = text
        assert "is no array: write a list" in inspector.problem.value, text
        assert "its elements are int32" in inspector.problem.value, text
    inspector.typed.value = "zeros(20000)"
    assert "more than 10,000 elements" in inspector.problem.value
    for text in ("open('x')", "[1, 'a']", "{'a': 1}", "[" * 2000, "1" * 20_000):
        inspector.typed.value = text
        assert 'role="alert"' in inspector.problem.value, text
    inspector.typed.value = "2.5"
    assert inspector.problem.value == ""


def test_a_language_writes_and_the_others_read(inspector: InspectorPanel, lab: Lab) -> None:
    for name in (*lab.backends, "python"):
        inspector.writer.value = name
        assert inspector.verdicts.value.count("✓") == 5


def test_opening_it_calls_nothing(lab: Lab) -> None:
    before = sum(it.calls for it in lab.snapshot())
    InspectorPanel(lab.backends, lab.wire).close()
    assert sum(it.calls for it in lab.snapshot()) == before


def test_both_have_text_and_html(form: TryPanel, inspector: InspectorPanel) -> None:
    assert form.text() == "Try it\n  lab.rust.dot"
    assert "dot(" in form.html()
    assert inspector.text().startswith("Frame inspector\n")
    assert "nlw" in inspector.html()
