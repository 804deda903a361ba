"""The rules of the house that a machine can hold: layers, names, sizes, pins."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "nif_lab"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Layer of each module or folder of src/nif_lab; an import goes down or stays, never up. docs/architecture.md draws it.
LAYERS = {
    "arguments": 0,
    "rebuilt": 0,
    "errors": 0,
    "arrays": 0,
    "arrow": 0,
    "foreign": 0,
    "hints": 0,
    "importer": 3,
    "stubs": 3,
    "nim_importer": 3,
    "flags": 0,
    "folders": 0,
    "wire": 0,
    "_core": 0,
    "segment": 0,
    "text": 0,
    "machine": 0,
    "exporters": 1,
    "lending": 1,
    "ledger": 1,
    "programs": 0,
    "progress": 0,
    "costs": 1,
    "places": 1,
    "crates": 1,
    "_pyinstaller": 0,
    "julia_home": 1,
    "julia_image": 1,
    "memory": 1,
    "device_memory": 1,
    "pools": 1,
    "gpu": 3,
    "telemetry": 1,
    "bench": 4,
    "monitor": 4,
    "backends": 2,
    "summary": 3,
    "build": 3,
    "cells": 3,
    "codecs": 3,
    "transfer": 3,
    "lab": 3,
    "watched": 3,
    "lane": 3,
    "mapping": 3,
    "pickling": 3,
    "travel": 3,
    "pool": 3,
    "engines": 3,
    "fleet": 3,
    "loaded": 3,
    "loading": 3,
    "projects": 3,
    "recovery": 3,
    "faults": 3,
    "live": 4,
    "panels": 4,
    "server": 4,
    "demo": 4,
    "demo_report": 4,
    "cli": 4,
}
# Imports upwards that are allowed, inside a function only: a convenience for users that costs nothing until it is used.
UPWARDS = {("lab", "panels")}


# The wings of rust/core/src, from the bottom. rust/core/src/lib.rs says what each is for.
WINGS = ("python", "telemetry", "memory", "call", "lane", "face")
CORE = ROOT / "rust" / "core" / "src"


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()]


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every import of our own package as (module path inside it, whether it runs when the module is imported)."""
    tree = ast.parse(path.read_text())
    lazy: set[ast.AST] = set()
    for node in ast.walk(tree):
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if guarded or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lazy.update(ast.walk(node))
    here = list(path.relative_to(PACKAGE).parent.parts)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            module = base + (node.module.split(".") if node.module else [])
            targets = [module] if module else [[alias.name] for alias in node.names]
            # `from . import x` inside a folder names its own modules
            if module == here and node.module is None and here:
                targets = [[*here, alias.name] for alias in node.names]
            found += [(".".join(target), node not in lazy) for target in targets]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "nif_lab"]
            found += [(name.removeprefix("nif_lab."), node not in lazy) for name in names]
    return found


def test_imports_go_down() -> None:
    wrong = []
    for path in MODULES:
        mine = name_of(path).split(".")[0]
        if mine == "__init__":
            continue  # it imports names for type checkers, and modules when they are asked for
        for target, at_import in imports(path):
            theirs = target.split(".")[0]
            if theirs in {"__version__", "get_include"}:
                continue
            assert theirs in LAYERS, f"{path.name} imports {target}, which has no layer"
            if LAYERS[theirs] > LAYERS[mine] and ((mine, theirs) not in UPWARDS or at_import):
                wrong.append(f"{name_of(path)} (layer {LAYERS[mine]}) imports {target} (layer {LAYERS[theirs]})")
    assert not wrong


def test_the_documents_draw_the_layers_that_are_checked() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d) \| (.*) \|$", text, re.M)
    drawn = {
        name.strip("`/").removesuffix("/"): int(layer)
        for layer, cells in rows
        for name in re.findall(r"`([\w/]+)`", cells)
    }
    drawn = {name: layer for name, layer in drawn.items() if not name.startswith("include")}
    assert drawn == LAYERS
    wings = re.findall(r"^\| (\w+) \| .* \|$", text[text.index("six wings") :], re.M)
    assert [name for name in wings if name in WINGS] == list(reversed(WINGS))


def test_the_glossary_is_sorted_and_says_each_word_once() -> None:
    words = re.findall(r"^\| ([^|]+) \| ", (ROOT / "docs" / "glossary.md").read_text(), re.M)[1:]
    assert words == sorted(set(words), key=str.casefold)
    assert len(words) >= 30


def upward(wing: str, text: str) -> list[str]:
    """Return the wings above `wing` that this Rust source names."""
    named = set(re.findall(r"\bcrate::(\w+)", text)) | set(re.findall(r"\bcrate::\{(\w+)", text))
    assert named <= set(WINGS), f"{named - set(WINGS)}: no wing of the core"
    return sorted(name for name in named if WINGS.index(name) > WINGS.index(wing))


def test_the_cores_imports_go_down() -> None:
    files = [path for path in CORE.rglob("*.rs") if path.name != "lib.rs"]
    assert len(files) > 30
    for path in files:
        wing = path.relative_to(CORE).parts[0].removesuffix(".rs")
        assert not upward(wing, path.read_text()), path
    # The check itself sees an import upwards.
    assert upward("memory", "use crate::call::frame::Frame;") == ["call"]
    assert upward("call", "crate::{lane::isolated}") == ["lane"]


#: What C calls and needs no door: a signal handler and a pointer's placeholder, one line of atomics each.
DOORLESS = {"on_interrupt", "elsewhere"}


def doorless(text: str) -> list[str]:
    """Return the functions of this Rust source that C calls and whose body isn't in the door."""
    bodies = re.findall(r'\bextern "C" fn (\w+)[^;{]*\{\n(.*?)^\}', text, re.DOTALL | re.MULTILINE)
    return [
        name for name, body in bodies if not re.search(r"^ +(unsafe \{ )?(door::)?(guard|enter)\(", body, re.MULTILINE)
    ]


def test_c_enters_the_core_through_one_door() -> None:
    """A panic that leaves aborts the process, and a token that PyO3 hasn't counted lets memory grow with each call."""
    entries = 0
    for path in CORE.rglob("*.rs"):
        text = path.read_text()
        entries += len(re.findall(r'^(pub )?(unsafe )?extern "C" fn', text, re.MULTILINE))
        assert not set(doorless(text)) - DOORLESS, path
        if path.name != "door.rs":
            assert not re.search(r"\bassume_attached\b|\bcatch_unwind\b", text), path
    assert entries >= 12
    # The check itself sees an entry that goes past the door.
    assert doorless('unsafe extern "C" fn late(\n    x: i32,\n) -> i32 {\n    x + 1\n}\n') == ["late"]
    assert not doorless('extern "C" fn good() {\n    door::guard((), || work());\n}\n')


def test_no_backend_imports_another() -> None:
    wrong = []
    for path in sorted((PACKAGE / "backends").glob("*.py")):
        if path.stem not in {"__init__", "base"}:
            targets = [target.split(".") for target, _ in imports(path)]
            wrong += [(path.name, it) for it in targets if it[0] == "backends" and it[1:2] not in ([], ["base"])]
    assert not wrong


def exports(tree: ast.Module, path: Path) -> list[str]:
    declared = [n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    assert len(declared) == 1, f"{name_of(path)} declares no __all__"
    return list(ast.literal_eval(declared[0].value))


def test_all_is_complete() -> None:
    """Every public class is exported, and in errors.py everything is; ruff holds the order."""
    missing = {}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        kinds = (ast.ClassDef, ast.FunctionDef) if path.name == "errors.py" else (ast.ClassDef,)
        defined = {n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")}
        internal = {"Installation"}  # what julia.py knows of a julia
        missing[name_of(path)] = defined - set(exports(tree, path)) - internal
    assert not {name: it for name, it in missing.items() if it}


def test_public_names_are_documented() -> None:
    without = []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        exported = exports(tree, path)
        public = [n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name in exported]
        without += [name_of(path)] * (not ast.get_docstring(tree))
        without += [f"{name_of(path)}.{it.name}" for it in public if not ast.get_docstring(it)]
    assert not without


def test_no_source_file_grows_past_500_lines() -> None:
    suffixes = {".py", ".rs", ".zig", ".nim", ".jl", ".c", ".h"}
    long = {
        p.relative_to(ROOT): n
        for p in tracked()
        if p.suffix in suffixes and (n := len(p.read_text().splitlines())) > 500
    }
    assert not long


def test_compilers_are_pinned_once_in_two_places() -> None:
    """PEP 517 can't refer to an extra, so the pins stand twice."""
    text = (ROOT / "pyproject.toml").read_text()
    requires = re.search(r"^requires = \[(.*)\]", text, re.M)
    extra = re.search(r"^toolchains = \[(.*)\]", text, re.M)
    assert requires
    assert extra
    pins = set(re.findall(r'"([^"]+==[^"]+)"', requires[1]))
    assert pins == set(re.findall(r'"([^"]+)"', extra[1]))


def test_every_language_has_the_same_rooms() -> None:
    folders = {
        "rust": ["rust/nif/src/lib.rs", *(f"rust/kernels/src/{room}.rs" for room in ("kernels", "wire", "faults"))]
    }
    for language, suffix in (("zig", "zig"), ("nim", "nim"), ("julia", "jl")):
        folders[language] = [f"{language}/src/{room}.{suffix}" for room in ("nif", "kernels", "wire", "faults")]
    for language, rooms in folders.items():
        assert (PACKAGE / "backends" / f"{language}.py").is_file()
        for room in rooms:
            assert (ROOT / room).is_file(), f"{language} has no {room}"


def test_no_file_names_a_registry_or_a_machine() -> None:
    hosts = ["pypi" + ".org", "crates" + ".io", "deb.debian" + ".org", "npmjs" + ".org", "github" + ".com/nim-lang"]
    wrong = []
    for path in tracked():
        if path.name in {"Cargo.lock"} or path.suffix in {".png", ".ipynb"}:
            continue  # cargo writes its registry's name into its lock file
        text = path.read_text(errors="ignore")
        wrong += [f"{path.relative_to(ROOT)}: {it}" for it in [*hosts, "/work" + "/", "/root" + "/"] if it in text]
    assert not wrong


def test_nothing_is_skipped() -> None:
    """A machine without what a test needs fails it, and says how to get that.

    The exceptions: what a Python with a GIL can't show (the suite runs on both, and each says which it is), polars
    where there is no GIL and no wheel of it, and tests of a real GPU: what they test is tested with a stand-in for the
    driver, too.
    """
    ways = re.compile(r"pytest\.(?:skip|importorskip|xfail)\b|mark\.(?:skip|skipif|xfail)\b")
    tests = (path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__))
    skipped = {path.name: len(ways.findall(path.read_text())) for path in tests if ways.search(path.read_text())}
    assert skipped == {"conftest.py": 1, "test_polars.py": 1, "test_threads.py": 1}
    assert 'item.get_closest_marker("gpu") and no_device()' in (ROOT / "tests/conftest.py").read_text()
    assert 'if IS_FREE_THREADED:\n    pytest.importorskip("polars"' in (ROOT / "tests/test_polars.py").read_text()
    assert "free_threaded = pytest.mark.skipif(\n    not IS_FREE_" in (ROOT / "tests/test_threads.py").read_text()


def test_make_help_lists_every_documented_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("build", "lab", "demo", "test", "check"):
        assert re.search(rf"^  make {target}\b", shown, re.M)
