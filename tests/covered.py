"""``make coverage``: which lines the tests run, and why the others aren't run. Its figures go into docs/coverage.md.

Python's lines and branches are counted by coverage.py, Rust's lines by LLVM, Julia's by Julia. Zig and Nim count
nothing: valgrind runs their codecs, and the lines that it saw are compared with those of the debug information.

All libraries are built anew for it, slower ones; the next `make` builds the ordinary ones. It takes an hour. It needs
valgrind, binutils and rustup's component llvm-tools.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from soak import write

from nif_lab.backends import find, nim, zig
from nif_lab.backends.julia import find_julia

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "coverage"
DEVICES = "A real GPU or its compiler: run on a machine with one (docs/gpu.md). Here a stand-in is the driver."
MODERN = "A Julia from 1.9 on, or one that juliapkg installed: run by hand (docs/julia.md)."
CELLS = "Run in native cells, or while they are compiled, where nothing is counted (tests/test_cells.py and others)."
WIDE = "Other ways of a processor: without AVX2, and past the caches for large arrays, which valgrind doesn't get."
DAMAGED = (
    "Damage of frames and tables that this run doesn't draw (`make fuzz` does), and functions that are no codec's."
)
SYSTEM = """What the system refuses (descriptors, memory, a process that has just ended), what only broken libraries \
or other versions of libraries answer, and the other ways of a processor."""
KILLED = """What the system refuses, what broken files and other versions of libraries do, and the work of processes \
that are killed before coverage.py has written down what it counted."""
#: Why lines aren't run, by the files that they are in; the first pattern that fits counts.
REASONS = {
    "src/nif_lab/gpu/*": DEVICES,
    "src/nif_lab/device_memory.py": DEVICES,
    "rust/gpu/*": DEVICES,
    "rust/core/src/memory/gpu*": DEVICES,
    "rust/*/gpu.rs": DEVICES,
    "rust/*/devices.rs": DEVICES,
    "src/nif_lab/engines/ray.py": "Ray isn't among the tests' packages: run by hand (docs/scale.md).",
    "src/nif_lab/_pyinstaller/*": "PyInstaller runs it, in a process of its own without counters.",
    "src/nif_lab/backends/julia.py": MODERN,
    "src/nif_lab/julia_*.py": MODERN,
    "rust/core/src/face/julia.rs": MODERN,
    "rust/core/src/call/owner.rs": MODERN,
    "julia/*": "The Python tests run it in workers and beside Python, where Julia doesn't count.",
    "rust/nif/*": CELLS,
    "rust/nif-macros/*": CELLS,
    "rust/kernels/*": DAMAGED,
    "rust/*": SYSTEM,
    "zig/src/wire*": DAMAGED,
    "nim/src/wire*": DAMAGED,
    "zig/*": WIDE,
    "nim/*": WIDE,
    "src/nif_lab/*": KILLED,
}
COUNTED = "-C instrument-coverage -C llvm-args=-runtime-counter-relocation"
PROFILES = {"LLVM_PROFILE_FILE": str(WORK / "rust" / "%4m%c.profraw")}
PYTHON_COVERAGE = """\
[run]
branch = true
source_pkgs = nif_lab
parallel = true
data_file = {work}/python/.coverage
patch = subprocess, _exit
concurrency = thread, multiprocessing
omit = */nif_lab/bench/*
disable_warnings = module-not-imported, no-data-collected, module-not-measured
"""
#: The codecs of the languages that count nothing, by their files.
CODECS = {
    "zig": ("wire.zig", "wire/encoder.zig", "wire/decoder.zig", "wire/schema.zig", "xxh3.zig", "xxh3/blocks.zig"),
    "nim": ("wire.nim", "wire/encoder.nim", "wire/decoder.nim", "wire/format.nim", "xxh3.nim"),
}
#: Where the paths of files begin that are counted.
PARTS = ("src/nif_lab/", "rust/", "zig/src/", "nim/src/", "julia/src/")


@dataclass
class Lines:
    """The lines of a file, and its branches where they are counted."""

    all: set[int] = field(default_factory=set)
    run: set[int] = field(default_factory=set)
    branches: int = 0
    taken: int = 0

    @property
    def missed(self) -> set[int]:
        return self.all - self.run


Files = dict[str, Lines]


def run(command: Iterable[object], **env: str) -> int:
    """Run a tool in the checkout; what it says goes to the terminal."""
    return subprocess.run([*map(str, command)], cwd=ROOT, env={**os.environ, **env}, check=False).returncode


def said(command: Iterable[object]) -> str:
    """Return what a tool says."""
    return subprocess.run([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def build() -> None:
    """Build the libraries that count, and the codecs with debug information."""
    (ROOT / ".venv" / ".built").unlink(missing_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", "."]
    if run(pip, RUSTFLAGS=COUNTED):
        sys.exit("the libraries can't be built")
    # In Zig's own code generator constants of vectors aren't aligned: LLVM makes the debug library too.
    zig.FLAGS = ("-fllvm", *("Debug" if it == "ReleaseSafe" else it for it in zig.FLAGS if it != "-fstrip"))
    nim.FLAGS = (*(it for it in nim.FLAGS if it not in ("-d:release", "-d:danger", "-d:strip")), "--debugger:native")
    for name in CODECS:
        backend = find(name)
        backend.build(ROOT / name, backend.library)


def measure() -> None:
    """Run all tests; those that fail under the counters are told by pytest, and looked at by who reads."""
    for it in ("python", "rust"):
        (WORK / it).mkdir(parents=True, exist_ok=True)
    (settings := WORK / "coveragerc").write_text(PYTHON_COVERAGE.format(work=WORK))
    codecs = ("tests/conformance/test_codecs.py", "-k", "(zig or nim) and direct")
    valgrind = ("valgrind", "--quiet", "--tool=callgrind", "--dump-line=yes", f"--callgrind-out-file={WORK / 'codecs'}")
    run([*valgrind, sys.executable, "-m", "pytest", "-q", *codecs], PYTHONMALLOC="malloc")
    counted = (sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest")
    run([*counted, "-n", os.cpu_count(), "--dist", "loadfile", "-m", "not serial"], **PROFILES)
    tests = ("cargo", "--locked", "test", "--quiet", "--workspace", "--target-dir", WORK / "target")
    places = {"PYO3_PYTHON": sys.executable, "NIF_LAB_BUILD": "core"}
    run([*tests, "--manifest-path", "rust/Cargo.toml"], RUSTFLAGS=COUNTED, **PROFILES, **places)
    julia = (find_julia().program, "--startup-file=no", "--project=julia", f"--code-coverage={WORK / 'julia.info'}")
    run([*julia, "julia/test/runtests.jl"])


def python_lines() -> Files:
    """Return what coverage.py counted."""
    coverage = (sys.executable, "-m", "coverage")
    settings = f"--rcfile={WORK / 'coveragerc'}"
    run([*coverage, "combine", settings, "--keep", "--quiet", WORK / "python"])  # it skips files half written
    said([*coverage, "json", settings, "--quiet", "-o", WORK / "python.json"])
    files = json.loads((WORK / "python.json").read_text())["files"]
    made = {}
    for path, it in files.items():
        executed, summary = set(it["executed_lines"]), it["summary"]
        lines = Lines(executed | set(it["missing_lines"]), executed)
        lines.branches, lines.taken = summary["num_branches"], summary["covered_branches"]
        made[_named(path)] = lines
    return made


def rust_lines() -> Files:
    """Return what LLVM counted in the core, the library, the worker and the crates' own tests."""
    tools = next(Path(said(["rustc", "--print", "sysroot"]).strip()).glob("lib/rustlib/*/bin/llvm-cov")).parent
    merged = WORK / "rust.profdata"
    said([tools / "llvm-profdata", "merge", "--sparse", *sorted((WORK / "rust").glob("*.profraw")), "-o", merged])
    native = ROOT / "src" / "nif_lab" / "_native"
    counted = [*native.parent.glob("_core*.so"), native / "libnif_rust.so", native / "nif_worker"]
    counted += [it for it in (WORK / "target" / "debug" / "deps").iterdir() if os.access(it, os.X_OK) and not it.suffix]
    objects = [f"--object={it}" for it in counted]
    ignored = "--ignore-filename-regex=(/rustc/|registry/|/target/|^cargo/|/tests?\\.rs$|/tests/)"
    info = said([tools / "llvm-cov", "export", "--format=lcov", f"--instr-profile={merged}", ignored, *objects])
    return from_lcov(info)


def from_lcov(text: str) -> Files:
    """Return the lines of an LCOV file."""
    made: Files = defaultdict(Lines)
    lines = Lines()
    for row in text.splitlines():
        if row.startswith("SF:"):
            lines = made[_named(row[3:])]
        elif row.startswith("DA:"):
            number, count = map(int, row[3:].split(",")[:2])
            lines.all.add(number)
            lines.run |= {number} if count else set()
    return made


def julia_lines() -> Files:
    """Return what Julia counted in its own tests."""
    files = from_lcov((WORK / "julia.info").read_text())
    return {name: lines for name, lines in files.items() if name.startswith("julia/src/")}


def codec_lines() -> Files:
    """Return which lines of the codecs valgrind saw."""
    names: dict[str, str] = {}
    seen: dict[str, set[int]] = defaultdict(set)
    place, at = "", 0
    for row in (WORK / "codecs").open():
        if it := re.match(r"(f[lie]|cf[il])=\((\d+)\)(?: (.*))?", row):
            if it[3]:
                names[it[2]] = it[3].strip()
            if it[1].startswith("f"):
                place = names[it[2]]
        elif it := re.match(r"([+-]?)(\d+|\*) \d", row):  # a number, or how far it is from the last one
            number = 0 if it[2] == "*" else int(it[2])
            at = {"+": at + number, "-": at - number, "": at if it[2] == "*" else number}[it[1]]
            seen[place].add(at)
    made = {}
    for language, files in CODECS.items():
        text = said(["objdump", "--dwarf=decodedline", find(language).library])
        there: dict[str, set[int]] = defaultdict(set)
        for row in re.finditer(r"^(\S+)\s+(\d+)\s+0x", text, re.M):
            there[row[1].rpartition("/")[2]].add(int(row[2]))
        for name in files:
            own = f"{language}/src/{name}"
            hits = set().union(*(lines for path, lines in seen.items() if path.endswith(own)))
            lines = there[Path(name).name] - {0}
            made[own] = Lines(lines, lines & hits)
    return made


def _named(path: str) -> str:
    """Return a file's path in the checkout; libraries have it in several forms."""
    return next((path[path.rindex(it) :] for it in PARTS if it in path), path)


def part_of(path: str) -> str:
    """Return which row of the table a file is in."""
    folders = path.split("/")
    if folders[0] == "src":
        return "/".join(folders[:3]) if len(folders) > 3 else "src/nif_lab"
    return "/".join(folders[:2]) if folders[0] == "rust" else f"{folders[0]}/src"


def ranges(numbers: Iterable[int]) -> str:
    """Return line numbers as people write them: 3, 7-9."""
    runs = itertools.groupby(enumerate(sorted(numbers)), lambda it: it[1] - it[0])
    ends = [[number for _, number in run] for _, run in runs]
    return ", ".join(str(it[0]) if len(it) == 1 else f"{it[0]}-{it[-1]}" for it in ends)


def reasons_for(files: Files) -> dict[str, list[str]]:
    """Return the files with lines that aren't run, by reason; "" has those without one."""
    made: dict[str, list[str]] = defaultdict(list)
    for name in sorted(files):
        if files[name].missed:
            reason = next((why for pattern, why in REASONS.items() if fnmatch.fnmatch(name, pattern)), "")
            made[reason].append(name)
    return made


def as_markdown(files: Files) -> str:
    """Return the figures and the lists as docs/coverage.md has them."""
    parts: dict[str, list[Lines]] = defaultdict(list)
    for name, lines in files.items():
        parts[part_of(name)].append(lines)
    rows = []
    for name, them in sorted(parts.items()):
        there, run = sum(len(it.all) for it in them), sum(len(it.run) for it in them)
        branches, taken = sum(it.branches for it in them), sum(it.taken for it in them)
        share = f"{100 * taken / branches:.1f}" if branches else "–"
        rows.append(f"| {name} | {there:,} | {100 * run / max(there, 1):.1f} | {share} |")
    lists = [
        f"**{reason or 'No reason is known.'}**\n\n"
        + "\n".join(f"- {name}: {ranges(files[name].missed)}" for name in names)
        for reason, names in sorted(reasons_for(files).items())
    ]
    table = "| part | lines | of them run, % | branches taken, % |\n|---|---|---|---|\n" + "\n".join(rows)
    return (
        f"Last run: {time.strftime('%Y-%m-%d')}.\n\n{table}\n\n## What isn't run, and why\n\n"
        + "\n\n".join(lists)
        + "\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into docs/coverage.md")
    parser.add_argument("--again", action="store_true", help="only read what the last run counted")
    chosen = parser.parse_args()
    if not chosen.again:
        build()
        measure()
    counted = {**python_lines(), **rust_lines(), **julia_lines(), **codec_lines()}
    files = {name: lines for name, lines in counted.items() if name.startswith(PARTS)}
    text = as_markdown(files)
    if chosen.write:
        write(chosen.write, "coverage", text)
    else:
        print(text)
    unknown = reasons_for(files).get("", [])
    for name in unknown:
        print(f"coverage: {name}: no reason for {ranges(files[name].missed)}", file=sys.stderr)
    return bool(unknown)


if __name__ == "__main__":
    sys.exit(main())
