"""The notebooks: clean as they are stored, and each exercise's hidden solution is right while other answers aren't.

Their outputs are compared by nbval. An exercise is three cells, tagged ``exercise`` (a start that runs as it is),
``solution`` (a folded block of code) and ``check``, which prints ``right`` or ``not yet: `` and what is missing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from labs import NEED_A_GPU
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if path.name[0].isdigit()]
RUN = [pytest.param(path, marks=pytest.mark.gpu if path.name in NEED_A_GPU else ()) for path in NUMBERED]
SIZE_MAX = 300_000
SOLUTION = re.compile(r"<details>.*?^```(?:python|nim|cpp)\n(.*?)^```$.*?</details>", re.S | re.M)
MACHINE = re.compile(r"/(work|root|home|tmp|usr)/|site-packages")

#: Plausible wrong answers, by what they are told; those of later notebooks are in test_exercises.py.
WRONG = {
    "01_first_call": {
        "right, but with [0, 0, 0, 0] calls of dot instead of three in each language": """
def cosine(backend, x, y):
    return np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y))""",
    },
    "02_one_table": {
        "other bytes are expected for True": """
def pack(value):
    if value is None:
        return bytes(16)
    return struct.pack("<iIq", 1, 0, value) if isinstance(value, int) else struct.pack("<iId", 3, 0, value)""",
    },
    "03_memory": {
        "100% of the transfers copied: argument not in a pool, value not in a pool": "picture = waves",
        "the picture differs from the waves": "picture = lab.memory.zeros(waves.shape)",
    },
    "04_wire": {
        "no ValueError for a frame that is cut short, too long": """
def read(frame):
    return np.frombuffer(frame, "<f8", offset=6)""",
        "no ValueError for a frame that is without a header, empty": """
def read(frame):
    if len(frame) != 6 + 8 * struct.unpack_from("<BBI", frame)[2]:
        raise ValueError("the length is wrong")
    return np.frombuffer(frame, "<f8", offset=6)""",
    },
    "06_write_your_own": {
        "0.2500 isn't the share of the dark pixels": """%%nim
func ink*(image: Matrix[float64]): float64 =
  ## `ink(image[m, n])`: no count at all.
  0.25""",
    },
    "08_devices": {
        "53% of the points inside are wrong": """%%cuda
extern "C" __global__ void slope(const double *z, int rows, int columns, double *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < rows * columns) out[i] = i % columns + 1 < columns ? fabs(z[i + 1] - z[i]) : 0.0;
}""",
    },
    "09_beyond_one_process": {
        "[] isn't [0, 10, 20, ...]": """
def complete(done):
    for _ in range(2):
        try:
            return done.results()
        except MapFailed:
            done.resume()
    return []""",
    },
}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def tagged(notebook: Any, tag: str) -> Any:
    """Return the one cell that has a tag."""
    cells = [it for it in notebook.cells if tag in it.metadata.get("tags", ())]
    assert len(cells) == 1, f"expected one cell tagged '{tag}', found {len(cells)}"
    return cells[0]


def texts(cell: Any) -> list[str]:
    """Return what a code cell shows in words; of an error, its traceback too."""
    shown = []
    for it in cell.get("outputs", ()):
        shown += [it.get("text", ""), *it.get("traceback", ())]
        shown += [str(data) for mime, data in it.get("data", {}).items() if not mime.startswith("image/")]
    return shown


def answer(cell: Any) -> str:
    """Return the last line that a check printed."""
    lines = "".join(texts(cell)).strip().splitlines()
    return lines[-1] if lines else ""


def names(source: str) -> tuple[set[str], set[str]]:
    """Return the names that a cell sets or changes, and those that it reads."""
    tree = ast.parse(re.sub(r"^[%!].*$", "pass", source, flags=re.M))
    sets, reads = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (reads if isinstance(node.ctx, ast.Load) else sets).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            sets.add(node.name)
        elif isinstance(node, ast.alias):
            sets.add((node.asname or node.name).partition(".")[0])
    for node in ast.walk(tree):  # `lab.strict = True`, `fuse[:] = 1` and `lab.load(path)` change what they begin with
        changed = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else node
        is_changed = changed is not node or (
            isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load)
        )
        while isinstance(changed, (ast.Attribute, ast.Subscript)):
            changed = changed.value
            if is_changed and isinstance(changed, ast.Name):
                sets.add(changed.id)
    return sets, reads - {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def only_what_it_needs(notebook: Any, attempts: Iterable[str]) -> None:
    """Leave out the cells that an exercise doesn't build upon: they are run, and compared, by nbval."""
    tags = {"exercise", "check"}
    needed = set().union(*(names(it)[1] for it in attempts if not it.startswith("%%")))
    kept = []
    for cell in reversed(notebook.cells):
        if cell.cell_type != "code":
            continue
        if cell.source.startswith("%%"):
            kept.append(cell)
            continue
        sets, reads = names(cell.source)
        if tags & set(cell.metadata.get("tags", ())) or sets & needed or cell.source.startswith("%"):
            kept.append(cell)
            needed |= reads - sets
    notebook.cells = kept[::-1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda it: it.stem)
def test_a_stored_notebook_is_clean(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size <= SIZE_MAX
    assert notebook.metadata.kernelspec.name == "python3"
    code = [it for it in notebook.cells if it.cell_type == "code"]
    if path in NUMBERED:  # the dashboard is live or nothing
        assert [it.execution_count for it in code] == list(range(1, len(code) + 1)), "not run from top to bottom"
    for cell in code:
        assert not MACHINE.search("\n".join([cell.source, *texts(cell)])), f"{cell.id} names a path of a machine"
        kinds = {it.output_type for it in cell.outputs} | {it.get("name") for it in cell.outputs}
        assert "stderr" not in kinds, cell.id
        assert ("error" in kinds) == ("raises-exception" in cell.metadata.get("tags", ())), cell.id


@pytest.mark.parametrize("path", NUMBERED, ids=lambda it: it.stem)
def test_the_start_of_an_exercise_is_told_what_is_missing(path: Path) -> None:
    """It is in the stored output, which nbval compares with what comes when the notebook is run."""
    check = tagged(read(path), "check")
    assert "nbval-check-output" in check.metadata.tags
    assert answer(check).startswith("not yet: ")


@pytest.mark.parametrize("path", RUN, ids=lambda it: it.stem)
def test_the_hidden_solution_of_an_exercise_is_right_and_wrong_answers_are_told_why(path: Path) -> None:
    notebook = read(path)
    found = SOLUTION.search(tagged(notebook, "solution").source)
    assert found, "expected a block of code between <details> and </details>"
    tagged(notebook, "exercise").source = found[1]
    wrong = WRONG.get(path.stem, {})
    check = tagged(notebook, "check")
    only_what_it_needs(notebook, wrong.values())
    again = [nbformat.v4.new_code_cell(check.source) for _ in wrong]
    for attempt, cell in zip(wrong.values(), again, strict=True):
        notebook.cells += [nbformat.v4.new_code_cell(attempt), cell]
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert answer(check).startswith("right")
    assert [answer(it) for it in again] == [f"not yet: {why}" for why in wrong]
