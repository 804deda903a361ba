"""Rust: one `cargo build` of the kernels and of the worker, by any cargo that is new enough for the sources.

A cell is compiled by rustc alone, with the SDK that cargo built before.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .. import backends, crates
from ..errors import BuildError, Message, ToolchainMissing
from ..folders import home, private
from .base import (
    GLIBC,
    HOST,
    WORKER,
    Backend,
    Compiler,
    Job,
    Options,
    ask,
    digest,
    find_program,
    publish,
    run,
    zig_cc,
    zig_environment,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..arguments import Form

__all__ = ["Rust"]

#: Package -> what cargo makes of it. The worker serves the isolated lane of every language.
ARTIFACTS: Final = {"nif-kernels": "libnif_kernels.so", "nif-worker": WORKER}

#: The SDK for cells is built without the passes over the whole program that a library's build ends with.
SDK_PROFILE: Final = ('profile.release.lto="off"', "profile.release.codegen-units=16", 'profile.release.strip="none"')
CELL_FLAGS: Final = (
    "--edition=2024",
    "--crate-name=cell",
    "--crate-type=cdylib",
    "--error-format=json",
    "-Coverflow-checks=on",
    "-Ctarget-cpu=native",  # a cell runs where it was compiled
    "-Cstrip=symbols",
)
RELEASE: Final = ("-Copt-level=3", "-Ccodegen-units=1")
#: What makes a cell of plain functions a library, after the functions: so their lines keep their numbers.
EPILOGUE: Final = "\n#[allow(unused_imports)]\nuse nif::{*, output::print};\nnif::library!();\n"
MARK: Final = "#[nif] "
#: A public function at the margin, unless it is marked already; attributes stand on lines of their own.
PLAIN: Final = re.compile(r"pub (?:const |async |unsafe |extern )*fn\b")
MARKED: Final = re.compile(r"#\[nif\b[^\]]*\]\s*$")


#: Where rustc tells which files it read, and where those of crates in folders of the user's are listed.
TOLD: Final = "cell.d"
SOURCES: Final = "sources"
#: The mark of a NIF, in a cell that is a module of another one.
NIF: Final = re.compile(r"^#\[nif\b[^\]]*\]", re.M)
NO_LINKER: Final = re.compile(r"linker `[^`]+` not found")
#: What rustc says at the end about what it said before.
COUNTED: Final = re.compile(r"aborting due to|\d+ warnings? emitted")


def _oldest(sources: Path) -> tuple[int, int] | None:
    """Return the rust-version of the sources, if there are sources."""
    manifest = sources / "Cargo.toml"
    found = manifest.is_file() and re.search(r'^rust-version = "(\d+)\.(\d+)', manifest.read_text(), re.M)
    return (int(found[1]), int(found[2])) if found else None


def _cargo_home() -> Path | None:
    base = os.environ.get("CARGO_HOME") or ((own := home()) and own / ".cargo")
    return Path(base) if base else None


def _flags(source: Path) -> dict[str, str]:
    """Return the user's flags, and those by which libraries name files as others have them, and no folder of here."""
    places = {source.resolve().parent: "nif_lab", _cargo_home(): "cargo"}
    encoded = os.environ.get("CARGO_ENCODED_RUSTFLAGS")  # in a build script: cargo's own form
    flags = encoded.split("\x1f") if encoded else os.environ.get("RUSTFLAGS", "").split()
    flags += [f"--remap-path-prefix={place}={name}" for place, name in places.items() if place]
    return {"CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags)}


def _programs() -> list[str]:
    """Every cargo that may be the right one; a build script's own comes first, rustup's folder needn't be on PATH."""
    base = _cargo_home()
    rustup = shutil.which("cargo", path=str(base / "bin")) if base else None
    candidates = (os.environ.get("CARGO"), find_program("cargo"), rustup)
    return list(dict.fromkeys(program for program in candidates if program))


@cache
def _describe(cargo: str) -> dict[str, str]:
    """Return what cargo says of itself: its ``release`` and ``host``, say; or the ``trouble`` that it has."""
    try:
        asked = ask([cargo, "-vV"])
    except ToolchainMissing as missing:
        return {"trouble": missing.reason}
    if asked.returncode == 0:
        return dict(re.findall(r"^(\w+): (.+)$", asked.stdout, re.M))
    said = re.search(r"^error: (.+?)\.?$", asked.stdout, re.M)
    return {"trouble": f"{cargo} doesn't start{f': {said[1]}' if said else ''}"}


def _linker(triple: str, machine: str) -> tuple[str, ...]:
    """Return the flags by which cargo links for another processor: zig has what that takes."""
    if machine == HOST:
        return ()
    program = zig_cc(*backends.find("zig").compiler().command, "-target", f"{machine}-{GLIBC}")
    return ("--config", f"target.{triple}.linker={json.dumps(str(program))}")


def _cache(source: Path) -> Path:
    """Return the folder for cargo's files: never that of another cargo, which may be waiting for this one to end."""
    if "CARGO_MANIFEST_DIR" in os.environ and "OUT_DIR" in os.environ:
        return Path(os.environ["OUT_DIR"]) / "cargo"  # in a build script: cleaned with the rest of that build
    # Not shared by checkouts: cargo tells files of one apart by their times alone.
    return private("cargo", hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:16])


class Rust(Backend):
    """The Rust backend."""

    name = "rust"
    title = "Rust"
    rank = 1
    suffix = ".rs"
    heading = "//!"
    sdk = ("nif", "nif-macros")
    sdk_files = ("Cargo.toml", "Cargo.lock")
    public = "pub fn"
    forms = ("asm", "llvm")
    dep = ("--dep", "CRATE", "a crate that the cell uses, as rayon@1 or serde@1[derive]")
    cells = re.compile(r"\bcells::")
    example = """\
/// `mean(x[n])`: the arithmetic mean.
pub fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}
"""

    def compiler(self) -> Compiler:
        oldest = _oldest(self.sources)
        needed = "Rust {}.{} or newer".format(*oldest) if oldest else "Rust"
        cure = f"install {needed}: `rustup update stable`, or your system's package cargo"
        problems = []
        for program in _programs():
            about = _describe(program)
            version = about.get("release", "")
            numbers = re.match(r"(\d+)\.(\d+)", version)
            if numbers and (oldest is None or (int(numbers[1]), int(numbers[2])) >= oldest):
                return Compiler((program,), version)
            problems.append(
                f"{program} is cargo {version}" if numbers else about.get("trouble", f"{program} has no version")
            )
            if "rustup" in about.get("trouble", ""):
                cure = "set HOME or RUSTUP_HOME to where rustup keeps its toolchains, or run `rustup default stable`"
        if problems:
            raise ToolchainMissing(f"{' and '.join(problems)}, but {needed} is needed", cure)
        raise ToolchainMissing("no cargo in this environment or on PATH", cure)

    def build(self, source: Path, target: Path, machine: str = HOST) -> None:
        cargo = self.compiler().command
        # Named, so that the place of the result doesn't depend on anybody's configuration.
        triple = _describe(cargo[0])["host"].replace(HOST, machine)
        cache = _cache(source)
        cache.mkdir(parents=True, exist_ok=True)
        packages = [word for package in ARTIFACTS for word in ("--package", package)]
        command = [
            *cargo, "build", "--release", "--locked", "--quiet", *packages,
            "--manifest-path", str(source / "Cargo.toml"), "--target-dir", str(cache), "--target", triple,
            *_linker(triple, machine),
        ]  # fmt: skip
        with open(cache / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the copy is made; cargo's own lock ends with cargo
            run(command, env=_flags(source) | zig_environment())
            made = cache / triple / "release"
            for artifact, final in zip(ARTIFACTS.values(), (target, target.with_name(WORKER)), strict=True):
                _replace(made / artifact, final)

    def compile_cell(self, job: Job) -> list[Message]:
        return self._rustc(job, f"--emit=link={job.library},dep-info={job.work / TOLD}")

    def files_read(self, job: Job) -> tuple[Path, ...] | None:
        # For each file that rustc read, the list has a line without dependencies.
        lines = (job.work / TOLD).read_text().splitlines()
        files = {Path(line[:-1].replace("\\ ", " ")) for line in lines if line.endswith(":")}
        # What lies beside a file that was imported is read through links.
        files = {it.resolve() if it.is_relative_to(job.work) else it for it in files}
        sources = (job.work / SOURCES).read_text().splitlines()
        return tuple(sorted({it for it in files if not it.is_relative_to(job.work)} | {*map(Path, sources)}))

    def show_cell(self, job: Job, form: Form) -> str:
        shown = job.work / f"cell.{form}"
        self._rustc(job, f"--emit={'asm' if form == 'asm' else 'llvm-ir'}={shown}")
        return shown.read_text()

    def cell_key(self, options: Options) -> list[str]:
        return [*super().cell_key(options), self._rustc_program()]

    def _rustc_program(self) -> str:
        """Return the rustc beside the cargo that is used."""
        cargo = Path(self.compiler().command[0])
        return str(cargo.with_name("rustc"))

    def taken_here(self, code: str, folder: str = "") -> tuple[str, ...]:
        return (folder or os.getcwd(),) if crates.PATH.search(code) else ()

    def needed(self, dep: str) -> str:
        crates.crate(dep)
        return dep

    def _rustc(self, job: Job, *output: str) -> list[Message]:
        sdk = self._sdk(job.shared, job.say)
        source = job.work / "cell.rs"
        plain, asked = crates.read(job.code, job.options.deps, job.options.folder)
        code, lines = _mark(plain)
        others, theirs = _others(job)
        source.write_text(code + EPILOGUE + others)
        _link_neighbours(job)
        asked = asked.over(theirs)
        built = crates.Built()
        if asked:
            compiler = self.compiler()
            built = crates.build(compiler.command, compiler.version, asked, job.code, job.shared, job.say)
        (job.work / SOURCES).write_text("\n".join(built.sources))
        job.say("rustc compiles")
        command = [
            self._rustc_program(), *CELL_FLAGS, *(RELEASE if job.options.release else ()),
            f"--extern=nif={sdk / 'libnif.rlib'}", f"-Ldependency={sdk / 'deps'}", *built.flags,
            *job.options.flags, *output, str(source),
        ]  # fmt: skip
        try:
            said = run(command)
        except BuildError as error:
            messages = _read(error.detail, lines, job)
            refused = error.in_cell(messages)
            if any(NO_LINKER.match(it.text) for it in messages):
                refused.cure = "install a C compiler, which rustc links by: your system's package gcc, or clang"
            raise refused from None
        return _read(said, lines, job)

    def _sdk(self, shared: Path, say: Callable[[str], None]) -> Path:
        """Build the SDK, unless it was; return the folder of its libraries."""
        folders = self.sdk_folders()
        manifest, lock_file = (self.sources / it for it in self.sdk_files)
        key = digest(*folders) + manifest.read_text() + lock_file.read_text() + self.compiler().version
        folder = shared / f"sdk-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        folder.mkdir(exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "ready").exists():
                say("cargo builds the SDK, the first time")
                # A copy: the package's own folder may be closed to writing, and its workspace has more members.
                for it in folders:
                    shutil.copytree(it, folder / it.name, dirs_exist_ok=True)
                members = f"members = {json.dumps(self.sdk)}"
                (folder / manifest.name).write_text(
                    re.sub(r"^members = .*$", members, manifest.read_text(), flags=re.M)
                )
                shutil.copy(lock_file, folder)
                cargo = self.compiler().command
                profile = [word for setting in SDK_PROFILE for word in ("--config", setting)]
                command = [
                    *cargo, "build", "--release", "--quiet", "--package", "nif", *profile,
                    "--manifest-path", str(folder / manifest.name), "--target-dir", str(folder),
                ]  # fmt: skip
                run(command)
                (folder / "ready").touch()
        return folder / "release"


def _others(job: Job) -> tuple[str, crates.Crates]:
    """Return what makes the other cells the module `cells` of this one, and the crates that they need."""
    modules, names, needed = [], [], crates.Crates()
    for number, other in enumerate(job.others):
        plain, asked = crates.read(other.code, other.deps)
        needed = asked.over(needed)
        file = job.work / f"other_{number}.rs"
        # They are no functions of this library.
        file.write_text(NIF.sub("", plain) + "\n#[allow(unused_imports)]\nuse {crate::cells, nif::*};\n")
        modules.append(f"#[allow(warnings)]\n#[path = {json.dumps(str(file))}]\nmod __cell_{number};\n")
        names.append(f"pub use crate::__cell_{number}::*;")
        # What is named goes before what others have of that name.
        names += [f"pub use crate::__cell_{number}::{it};" for it in other.functions]
    inside = " ".join(names)
    return "".join(modules) + (f"#[allow(warnings)]\nmod cells {{ {inside} }}\n" if modules else ""), needed


def _link_neighbours(job: Job) -> None:
    """Let `mod util;` and `include!("util.rs")` find what lies beside a file that was imported."""
    for it in Path(job.options.folder).iterdir() if job.options.folder else ():
        link = job.work / it.name
        if re.search(rf"\b{re.escape(it.name.split('.')[0])}\b", job.code) and not os.path.lexists(link):
            link.symlink_to(it)


def _mark(code: str) -> tuple[str, set[int]]:
    """Mark the public functions; return the code, and the numbers of the lines that became longer."""
    lines, longer, is_marked = [], set(), False
    for number, line in enumerate(code.split("\n"), 1):
        is_plain = PLAIN.match(line) is not None and not is_marked
        if is_plain:
            longer.add(number)
        lines.append(MARK + line if is_plain else line)
        # Attributes and documentation stand between a mark and its function.
        is_marked = MARKED.match(line) is not None or (is_marked and line.startswith(("#[", "//")))
    return "\n".join(lines), longer


def _read(said: str, longer: set[int], job: Job) -> list[Message]:
    """Read rustc's messages, which are one JSON object a line."""
    count, source = job.code.count("\n") + 1, str(job.work / "cell.rs")
    messages: dict[tuple[str, int], Message] = {}  # what is wrong with a type is said once for each use of it
    for line in said.splitlines():
        if not line.startswith("{"):
            continue
        it = json.loads(line)
        if it["level"] not in ("error", "warning") or COUNTED.match(it["message"]):
            continue
        spans = [span for span in it["spans"] if span["line_start"] <= count and span["file_name"] == source]
        span = next((span for span in spans if span["is_primary"]), spans[0] if spans else None)
        others = [f"{other['file_name']}:{other['line_start']}: " for other in it["spans"] if other["is_primary"]]
        elsewhere = others[0] if others and span is None else ""
        notes = [f"{child['level']}: {child['message']}" for child in it["children"] if child["message"]]
        text = "\n".join([elsewhere + it["message"], *([span["label"]] if span and span["label"] else []), *notes])
        number, column, width = 0, 0, 1
        if span is not None:
            number, column = span["line_start"], span["column_start"]
            width = max(span["column_end"] - column, 1) if span["line_end"] == number else 1
            column = max(column - len(MARK), 1) if number in longer else column
        messages.setdefault((it["message"], number), Message(text, number, column, width, it["level"] == "error"))
    return list(messages.values())


def _replace(source: Path, target: Path) -> None:
    """Copy a file to where another may be in use, in one step."""
    unfinished = target.absolute().with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copy(source, unfinished)
        publish(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
