"""The crates that a Rust cell asks for: read from its head, built once by cargo, and handed to rustc.

A cell names them as cargo's scripts do, between two lines of ``---``, or as rust-script does, in ``//!`` lines. What
was built is kept under a hash of the manifest, so cargo runs once for each set of crates.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import ArgumentValueError, CellError, Message, ToolchainMissing
from .programs import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Built", "Crates", "build", "crate", "read"]

FENCE: Final = re.compile(r"---+\s*(?:cargo)?\s*$")
TABLE: Final = re.compile(r"\s*\[+([^\]]+)\]+\s*(?:#.*)?$")
ENTRY: Final = re.compile(r"\s*([\w-]+)\s*(?:\.\s*\w+\s*)?=")
SPEC: Final = re.compile(r"([A-Za-z][\w-]*)(?:@([\w.*^~=<>, +-]+?))?(?:\[([\w, /-]+)\])?$")
#: A folder in a manifest; cargo would look for it beside the manifest, which lies in the cache.
PATH: Final = re.compile(r'(\bpath\s*=\s*")([^"]+)(")')
MANIFEST: Final = """\
[package]
name = "cell-crates"
version = "0.0.0"
edition = "2024"
publish = false

[lib]
path = "lib.rs"

[workspace]

"""
#: A crate runs on the machine that built it, as the cell does.
NATIVE: Final = 'build.rustflags=["-Ctarget-cpu=native"]'


@dataclass(frozen=True, slots=True)
class Crates:
    """The tables of a manifest, without the package's own.

    Attributes
    ----------
    tables : dict of str to dict of str to str
        Table name, then the name of each entry, then its lines. Lines that are no entry stand under ``""``.
    """

    tables: dict[str, dict[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(entries for name, entries in self.tables.items() if name.startswith("dependencies"))

    def over(self, other: Crates) -> Crates:
        """Return both, where this one's entries replace the other's of the same name."""
        names = dict.fromkeys([*other.tables, *self.tables])
        return Crates({it: {**other.tables.get(it, {}), **self.tables.get(it, {})} for it in names})

    def manifest(self) -> str:
        """Return the text of a Cargo.toml; folders are relative to the working directory, as the notebook's are."""
        parts = []
        for name, entries in sorted(self.tables.items()):
            parts += [f"[{name}]", *(entries[it] for it in sorted(entries)), ""]
        return MANIFEST + PATH.sub(lambda it: it[1] + os.path.abspath(it[2]) + it[3], "\n".join(parts))


@dataclass(frozen=True, slots=True)
class Built:
    """Crates that were built.

    Attributes
    ----------
    flags : tuple of str
        Flags of rustc that make them known to a cell.
    sources : tuple of str
        Files of crates that lie in folders of the user's: when one changes, the crates are built again.
    """

    flags: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def crate(spec: str) -> Crates:
    """Read what ``--dep`` takes: ``rayon``, ``rayon@1``, ``serde@1[derive]``."""
    found = SPEC.match(spec.strip())
    if not found:
        raise ArgumentValueError("dep", f"expected a crate as in rayon@1 or serde@1[derive], got {spec!r}")
    features = ", ".join(json.dumps(it.strip()) for it in (found[3] or "").split(",") if it.strip())
    version = json.dumps(found[2] or "*")
    value = f"{{ version = {version}, features = [{features}] }}" if features else version
    return Crates({"dependencies": {found[1]: f"{found[1]} = {value}"}})


def read(code: str, specs: Iterable[str] = (), folder: str = "") -> tuple[str, Crates]:
    """Return a cell without the fence at its head, with the same numbers of lines, and the crates that it asks for.

    Folders of crates are relative to ``folder``; to the working directory unless given.
    """
    lines = code.split("\n")
    first, last, text = _head(lines)
    text = [PATH.sub(lambda it: it[1] + os.path.join(folder, it[2]) + it[3], line) for line in text]
    crates = _parsed(text, first)
    for spec in specs:
        crates = crate(spec).over(crates)
    if last and FENCE.match(lines[first - 1]):
        lines[first - 1 : last + 1] = [""] * (last + 2 - first)
    return "\n".join(lines), crates


def _head(lines: list[str]) -> tuple[int, int, list[str]]:
    """Return where the manifest's lines begin and end, and those lines; zeros and nothing if there are none."""
    start = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if lines and FENCE.match(lines[start]):
        fence = lines[start].split()[0]
        end = next((it for it in range(start + 1, len(lines)) if lines[it].strip() == fence.rstrip("cargo")), None)
        if end is None:
            raise CellError("", (Message(f"the head of the cell isn't closed by a line `{fence}`", start + 1, 1),))
        return start + 1, end, lines[start + 1 : end]
    end = next((it for it in range(start, len(lines)) if not lines[it].startswith("//!")), len(lines))
    said = [line.removeprefix("//!").removeprefix(" ") for line in lines[start:end]]
    for number, line in enumerate(said):
        if line.strip() == "```cargo":
            close = next((it for it in range(number + 1, len(said)) if said[it].strip() == "```"), len(said))
            return start + number + 1, start + close, said[number + 1 : close]
        if line.strip().startswith("[dependencies"):
            return start + number, end, said[number:]
    return 0, 0, []


def _parsed(text: list[str], first: int) -> Crates:
    """Split a manifest's lines into entries; what they mean is cargo's affair."""
    tables: dict[str, dict[str, str]] = {}
    table = entry = ""
    for number, line in enumerate(text, first + 1):
        if found := TABLE.match(line):
            table, entry = found[1].strip(), ""
            if table == "package":
                tables[table] = {}
            elif not table.startswith(("dependencies", "patch")):
                reason = f"[{table}] has no place in a cell: its head may have [dependencies] and [patch]"
                raise CellError("", (Message(reason, number, 1, len(line)),))
            tables.setdefault(table, {})
            continue
        if found := ENTRY.match(line):
            entry = found[1] if table in {"dependencies", "package"} else line
        elif not line.strip() or line.lstrip().startswith("#"):
            continue
        if not table:
            raise CellError("", (Message("expected [dependencies] before this line", number, 1, len(line)),))
        entries = tables[table]
        entries[entry] = f"{entries[entry]}\n{line}" if entry in entries else line
    tables.pop("package", None)  # an edition, say: cells have one of their own
    return Crates(tables)


def build(
    cargo: tuple[str, ...], version: str, crates: Crates, code: str, shared: Path, say: Callable[[str], None]
) -> Built:
    """Build crates, unless they were; ``code`` is the cell, for the line of what is wrong.

    Raises
    ------
    CellError
        When cargo can't get or build one: which, and why, in one line.
    """
    manifest = crates.manifest()
    key = hashlib.sha256("\0".join([manifest, *cargo, version]).encode()).hexdigest()[:16]
    folder = shared / f"crates-{key}"
    folder.mkdir(exist_ok=True)
    note = folder / "built.json"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if note.is_file() and not PATH.search(manifest):
            return Built(*map(tuple, json.loads(note.read_text())))
        say("cargo builds the crates")
        (folder / "Cargo.toml").write_text(manifest)
        (folder / "lib.rs").touch()
        built = _externs(cargo, folder, _cargo(cargo, folder, code))
        unfinished = note.with_suffix(".new")
        unfinished.write_text(json.dumps([built.flags, built.sources]))
        os.replace(unfinished, note)
        return built


def _cargo(cargo: tuple[str, ...], folder: Path, code: str) -> list[dict[str, Any]]:
    """Run cargo, with what was downloaded before if that is enough; return its messages."""
    command = [
        *cargo, "build", "--release", "--message-format=json-render-diagnostics", "--config", NATIVE,
        "--manifest-path", str(folder / "Cargo.toml"), "--target-dir", str(folder / "target"),
    ]  # fmt: skip
    for more in (["--offline"], []):
        done = ask([*command, *more])
        if done.returncode == 0:
            if odd := re.search(r"ignoring invalid dependency `([\w-]+)`", done.stdout):
                raise _refusal(f"error: the crate `{odd[1]}` is a program: it has no library (src/lib.rs)", code)
            return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if "could not compile" in done.stdout:
            break
    raise _refusal(done.stdout, code)


def _refusal(said: str, code: str) -> CellError:
    """Return what cargo said as one line, at the line of the cell that names the crate."""
    lines = [line.strip() for line in said.splitlines() if not line.startswith("{")]
    errors = [line for line in lines if line.startswith("error")] or lines[-1:] or ["cargo says nothing"]
    text = re.sub(r"^error(\[\w+\])?: ", "", errors[-1] if "could not compile" in said else errors[0])
    if "Caused by:" in lines:
        text += f": {lines[-1]}"
    for it in lines:
        if it.startswith(("candidate versions", "searched package name", "perhaps you meant")):
            text += f": {it}"
    is_network = re.search(r"download|network|resolve host|connect|spurious", said, re.I)
    cure = (
        "go online once: the crate isn't among those that cargo has downloaded or vendored"
        if is_network
        else "see cargo's own words below"
        if "could not compile" in said
        else "correct its name or version"
    )
    text = " ".join(text.split())
    named = re.search(r"`([\w-]+)", text)
    at = named and re.search(rf"^(?://!\s*)?\s*{re.escape(named[1])}\b", code, re.M)
    line = code.count("\n", 0, at.start()) + 1 if at else 0
    detail = "\n".join(lines) if "could not compile" in said or "custom build command" in said else ""
    return CellError("a crate can't be built or found", (Message(text, line, 1 if line else 0),), cure, detail)


def _externs(cargo: tuple[str, ...], folder: Path, said: list[dict[str, Any]]) -> Built:
    """Return what rustc is told of the crates: the file of each that the cell names, and the folders of the rest."""
    asked = ask([
        *cargo, "metadata", "--format-version=1", "--offline", "--manifest-path", str(folder / "Cargo.toml"),
    ])  # fmt: skip
    described = next((line for line in asked.stdout.splitlines() if line.startswith("{")), "")
    if asked.returncode or not described:
        raise ToolchainMissing("cargo can't describe the crates that it built", "nif-lab doctor", asked.stdout)
    graph = json.loads(described)
    root = graph["resolve"]["root"]
    direct = next(it["deps"] for it in graph["resolve"]["nodes"] if it["id"] == root)
    made = {
        it["package_id"]: next((file for file in it["filenames"] if file.endswith((".rlib", ".so"))), "")
        for it in said
        if it["reason"] == "compiler-artifact" and {"lib", "rlib", "proc-macro"} & {*it["target"]["kind"]}
    }
    externs = [f"--extern={it['name']}={made[it['pkg']]}" for it in direct if made.get(it["pkg"])]
    native = [f"-L{path}" for it in said for path in it.get("linked_paths", ())]
    own = {it["manifest_path"] for it in graph["packages"] if it["source"] is None and it["id"] != root}
    sources = {str(file) for it in own for file in Path(it).parent.rglob("*") if _is_source(file, Path(it).parent)}
    deps = f"-Ldependency={folder / 'target' / 'release' / 'deps'}"
    return Built((*externs, deps, *dict.fromkeys(native)), tuple(sorted(sources)))


def _is_source(file: Path, crate: Path) -> bool:
    return file.is_file() and not {"target", ".git"} & {*file.relative_to(crate).parts}
