"""Julia as users have it: where it is found, how it is started, and what works from which thread.

The same tests run with any Julia: CI's is 1.5; ``$NIF_LAB_JULIA`` names another one.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any

import julia_load
import pytest
from IPython.core.interactiveshell import InteractiveShell
from labs import new_seed

import nif_lab
from nif_lab import _core, backends, julia_home
from nif_lab.backends import julia as julia_backend
from nif_lab.errors import (
    NifError,
    NifIndexError,
    NifMemoryError,
    NifPanic,
    NifValueError,
    ToolchainMissing,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nif_lab.arguments import Lane

FAKE = """#!/bin/sh
case "$*" in
  *--version*) echo "julia version {version}" ;;
  *JLOptions*) printf '{version}\\n/opt/bin\\n/opt/libjulia.so\\n/opt/sys.so\\n' ;;
  *dlpath*) printf '/opt/libjulia.so\\0/opt/bin' ;;
esac
"""


def fake(path: Path, version: str) -> str:
    """Write a program that answers as that Julia does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FAKE.format(version=version))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have a home and nothing in it that leads to a Julia."""
    for name in ("NIF_LAB_JULIA", "PYTHON_JULIACALL_EXE", "PYTHON_JULIACALL_PROJECT", "PYTHON_JULIAPKG_EXE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("JULIAUP_DEPOT_PATH", str(tmp_path / "depot"))
    monkeypatch.setenv("PYTHON_JULIAPKG_PROJECT", str(tmp_path / "project"))
    monkeypatch.setattr(julia_home.sys, "prefix", str(tmp_path / "prefix"))
    return tmp_path


def test_it_is_found_in_the_order_that_is_stated(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    juliapkg, juliaup = home / "project" / "pyjuliapkg", home / "depot" / "juliaup"
    chosen = fake(home / "elsewhere" / "julia", "1.12.3")
    fake(juliapkg / "install" / "bin" / "julia", "1.12.2")
    fake(juliaup / "julia-1.11" / "bin" / "julia", "1.11.7")
    fake(juliaup / "julia-1.13" / "bin" / "julia", "1.13.0")
    fake(home / "bin" / "julia", "1.10.4")
    fake(home / "prefix" / "lib" / "nif_lab-julia" / "bin" / "julia", "1.5.3")
    (juliapkg / "meta.json").write_text(json.dumps({"executable": chosen}))
    versions = {f"1.{n}.0+0.x64": {"Path": f"./julia-1.{n}"} for n in (11, 13, 14)}  # nothing is where 1.14 should be
    channels = {"lts": {"Version": "1.11.0+0.x64"}}
    (juliaup / "juliaup.json").write_text(
        json.dumps({"Default": "lts", "InstalledChannels": channels, "InstalledVersions": versions})
    )
    monkeypatch.setenv("NIF_LAB_JULIA", fake(home / "named" / "julia", "1.12.9"))
    monkeypatch.setenv("PYTHON_JULIAPKG_EXE", fake(home / "told" / "julia", "1.12.8"))
    found = []
    for step in (
        lambda: monkeypatch.delenv("NIF_LAB_JULIA"),
        lambda: monkeypatch.delenv("PYTHON_JULIAPKG_EXE"),
        (juliapkg / "meta.json").unlink,
        (juliapkg / "install" / "bin" / "julia").unlink,
        (juliaup / "julia-1.11" / "bin" / "julia").unlink,
        (juliaup / "juliaup.json").unlink,
        (home / "bin" / "julia").unlink,
        (home / "prefix" / "lib" / "nif_lab-julia" / "bin" / "julia").unlink,
    ):
        found.append(julia_home.find_julia().version)
        step()
    assert found == ["1.12.9", "1.12.8", "1.12.3", "1.12.2", "1.11.7", "1.13.0", "1.10.4", "1.5.3"]
    with pytest.raises(ToolchainMissing, match="no Julia on this machine"):
        julia_home.find_julia()


def test_one_that_is_too_old_or_broken_is_passed_over(home: Path) -> None:
    (home / "project" / "pyjuliapkg").mkdir(parents=True)
    (home / "project" / "pyjuliapkg" / "meta.json").write_text("no json")
    fake(home / "project" / "pyjuliapkg" / "install" / "bin" / "julia", "1.0.5")
    with pytest.raises(ToolchainMissing, match=r"Julia 1\.0\.5 .* is too old"):
        julia_home.find_julia()
    fake(home / "bin" / "julia", "1.11.2")
    assert julia_home.find_julia().version == "1.11.2"


def test_what_a_julia_is_is_asked_again_once_it_is_another_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    folder = home / "julia" / "bin"
    (home / "julia").mkdir()
    for name in ("libjulia.so", "sys.so"):
        (home / "julia" / name).touch()

    def install(version: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "julia").write_text(
            f"#!/bin/sh\necho . >> {home}/asked\n"
            f"printf '{version}\\n{folder}\\n{home}/julia/libjulia.so\\n{home}/julia/sys.so\\n'\n"
        )
        (folder / "julia").chmod(0o755)

    def asked(program: Path) -> tuple[str, int]:
        julia_home.probe.cache_clear()  # as in another process
        return julia_home.probe(str(program)).version, (home / "asked").read_text().count(".")

    install("1.12.4")
    assert [asked(folder / "julia") for _ in range(2)] == [("1.12.4", 1)] * 2
    (home / "julia" / "sys.so").write_text("another one")
    assert [asked(folder / "julia") for _ in range(2)] == [("1.12.4", 2)] * 2
    install("1.12.10")
    assert [asked(folder / "julia") for _ in range(2)] == [("1.12.10", 3)] * 2
    launcher = home / "launcher"
    launcher.write_text(f'#!/bin/sh\nexec {folder}/julia "$@"\n')
    launcher.chmod(0o755)
    assert [asked(launcher)[1] for _ in range(2)] == [4, 5], "a launcher may start another one each time"


def test_juliapkg_installs_one_where_there_is_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All of juliapkg's own code runs; what it downloads stands in for a Julia."""
    program = FAKE.format(version="1.11.9").encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        entry = tarfile.TarInfo("julia-1.11.9/bin/julia")
        entry.size, entry.mode = len(program), 0o755
        packed.addfile(entry, io.BytesIO(program))
    (home / "julia.tar.gz").write_bytes(archive.getvalue())
    file = {
        "url": (home / "julia.tar.gz").as_uri(), "version": "1.11.9", "os": "linux", "arch": platform.machine(),
        "triplet": f"{platform.machine()}-linux-gnu", "kind": "archive", "size": len(archive.getvalue()),
        "sha256": hashlib.sha256(archive.getvalue()).hexdigest(),
    }  # fmt: skip
    (home / "versions.json").write_text(json.dumps({"1.11.9": {"stable": True, "files": [file]}}))
    (home / "site").mkdir()
    (home / "site" / "sitecustomize.py").write_text(
        f"import juliapkg.install_julia as it\nit._julia_versions_url = {(home / 'versions.json').as_uri()!r}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(home / "site"))
    monkeypatch.setattr(julia_home, "_attempted", set())
    missing = ToolchainMissing("no Julia on this machine", julia_home.CURE)
    for refuses in (("PYTHON_JULIAPKG_OFFLINE", "yes"), ("NIF_LAB_JULIA", "/none/julia")):
        monkeypatch.setenv("PYTHON_JULIAPKG_OFFLINE", "no")
        monkeypatch.setenv(*refuses)
        with pytest.raises(ToolchainMissing) as caught:
            julia_home.install_julia(missing)
        assert caught.value is missing
    monkeypatch.delenv("NIF_LAB_JULIA")
    found = julia_home.install_julia(missing)
    assert (found.version, found.program) == (
        "1.11.9", str(home / "project" / "pyjuliapkg" / "install" / "bin" / "julia"),
    )  # fmt: skip
    assert (home / "project" / "Project.toml").read_text().count("PythonCall") == 2
    assert capfd.readouterr() == ("", ""), "juliapkg's own words don't land in the user's output"
    with pytest.raises(ToolchainMissing):
        julia_home.install_julia(missing)  # once in a process


def test_an_installation_that_fails_says_what_juliapkg_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "site").mkdir()
    (home / "site" / "sitecustomize.py").write_text(
        f"import juliapkg.install_julia as it\nit._julia_versions_url = {(home / 'none.json').as_uri()!r}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(home / "site"))
    monkeypatch.setenv("PYTHON_JULIAPKG_OFFLINE", "no")
    monkeypatch.setattr(julia_home, "_attempted", set())
    with pytest.raises(ToolchainMissing, match="juliapkg ended with status 1") as caught:
        julia_home.install_julia(ToolchainMissing("no Julia on this machine", julia_home.CURE))
    assert "none.json" in caught.value.detail


def test_the_users_settings_for_juliacall_stay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JULIA_NUM_THREADS", raising=False)
    modern, older = (
        julia_home.Installation("/opt/julia", version, "/opt", "/opt/l.so", "/opt/s.so")
        for version in ("1.12.4", "1.10.9")
    )
    options = julia_backend._options(modern)
    assert options["PYTHON_JULIAPKG_EXE"] == "/opt/julia"
    assert options["PYTHON_JULIACALL_THREADS"] == "1,1"
    assert options["PYTHON_JULIACALL_HANDLE_SIGNALS"] == "yes"
    assert "PYTHON_JULIACALL_THREADS" not in julia_backend._options(older)
    monkeypatch.setenv("JULIA_NUM_THREADS", "4")
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", "/project")
    monkeypatch.setenv("PYTHON_JULIACALL_HANDLE_SIGNALS", "no")
    options = julia_backend._options(modern)
    assert options.keys() == {"PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION", "PYTHON_JULIACALL_HANDLE_SIGNALS"}
    before = dict(os.environ)
    with julia_backend._environment(**options):
        assert os.environ["PYTHON_JULIACALL_HANDLE_SIGNALS"] == "no"
        assert os.environ["PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION"] == "no"
    assert dict(os.environ) == before


def test_what_fills_a_cache_runs_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    command = [sys.executable, "-c", f"open({str(home / 'ran')!r}, 'a').write('.')"]
    for key in ("one", "one", "two"):
        julia_backend._once("what", command, key)
    assert (home / "ran").read_text() == ".."
    for _ in range(2):
        julia_backend._once("what", [sys.executable, "-c", "raise SystemExit(1)"], "fails")
    at_once = [threading.Thread(target=julia_backend._once, args=("what", command, "three")) for _ in range(3)]
    for it in at_once:
        it.start()
    for it in at_once:
        it.join()
    assert (home / "ran").read_text() == "..."
    assert len(list((home / "nif_lab" / "julia").glob("done-????????????????"))) == 3


def test_each_copy_of_the_package_keeps_its_own_compiled_form(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Julia names the file by the Julia alone: two environments would undo each other's work at every start."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    loads = {julia_backend._load(home / name) for name in ("one", "two", "one")}
    folders = [it for it in (home / "nif_lab" / "julia").iterdir() if it.is_dir()]
    assert len(loads) == len(folders) == 2
    assert all(any(str(it) in load for load in loads) for it in folders)


def test_signals_are_put_back_but_for_julias() -> None:
    libc = ctypes.CDLL(None)
    room = [ctypes.create_string_buffer(256) for _ in range(2)]

    def disturb() -> str:
        for it in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(it, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        return "done"

    handler, mask = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    libc.sigaction(signal.SIGINT, None, room[0])
    try:
        assert _core.keep_signals(disturb) == "done"
        libc.sigaction(signal.SIGINT, None, room[1])
        assert room[0].raw[:8] == room[1].raw[:8]  # the handler
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def in_thread(work: Callable[[], Any]) -> Any:
    """Return what work gives in another thread, or the exception that it ends with."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            done.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    return done[0] if done else "hangs"


def test_a_table_is_called_on_all_threads_or_on_the_one_that_opened_it() -> None:
    library = ctypes.CDLL(str(backends.find("zig").library))
    library.nif_init.restype, library.nif_init.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    address = library.nif_init(_core.host_address())
    free = _core.open_table(address, "zig", None).functions["add"].function
    assert (free(1, 2), in_thread(lambda: free(1, 2))) == (3, 3)
    bound = _core.open_table(address, "zig", _core.Owner.here()).functions["add"].function
    assert bound(1, 2) == 3
    refused = in_thread(lambda: bound(1, 2))
    assert isinstance(refused, NifError)
    assert "zig.add()" in str(refused)
    assert "To fix: make the Lab before juliacall is imported" in str(refused)
    owned = _core.open_table(address, "zig", _core.Owner("test")).functions["add"].function
    assert (owned(1, 2), in_thread(lambda: owned(1, 2))) == (3, 3)


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    before = sys.modules["__main__"]
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "nif_lab")
    yield shell
    sys.modules["__main__"] = before


def test_julias_magic_stays_beside_juliacalls(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def theirs(line: str, cell: str) -> None:
        asked.append(cell)

    theirs.__module__ = "juliacall.ipython"
    shell.user_ns["take"] = lambda: shell.register_magic_function(theirs, "cell", "julia")
    ours = shell.magics_manager.magics["cell"]["julia"]
    shell.run_cell("take()")
    assert shell.magics_manager.magics["cell"]["julia"] is ours
    assert "%%julia is nif_lab's; juliacall's is %%juliacall now" in capsys.readouterr().out
    shell.run_cell("%%juliacall\n1 + 1")
    assert asked == ["1 + 1\n"]
    shell.run_cell("pass")
    assert capsys.readouterr().out == ""


WAITS = """
printing()::Int64 = (println("printed by a cell"); 1)
napping()::Int64 = (sleep(0.01); 2)
waiting()::Int64 = fetch(@async (sleep(0.01); 3))
spawning()::Int64 = fetch(Threads.@spawn 4)
running()::String = readchomp(`echo 5`)
collecting()::Int64 = (GC.gc(); 6)
calling(f::Callback{Float64,Tuple{Float64}})::Float64 = f(7.0)
"""


@pytest.fixture(scope="module", params=["isolated", "direct"])
def waits(lab: nif_lab.Lab, request: pytest.FixtureRequest) -> dict[str, Callable[..., Any]]:
    return dict(lab.cell("julia", WAITS, lane=request.param, replace=True).functions)


@pytest.mark.parametrize("where", ["here", "in a thread"])
def test_what_waits_works_from_every_thread(waits: dict[str, Callable[..., Any]], where: str) -> None:
    names = ("printing", "napping", "waiting", "spawning", "running", "collecting")
    call = in_thread if where == "in a thread" else lambda work: work()
    assert [call(waits[name]) for name in names] == [1, 2, 3, 4, "5", 6]


def test_a_collection_doesnt_wait_for_a_callback(waits: dict[str, Callable[..., Any]]) -> None:
    """The callback waits for the GIL, which the thread that collects holds."""
    begun, answers = threading.Event(), []

    def callback(x: float) -> float:
        begun.set()
        time.sleep(0.05)
        return x

    thread = threading.Thread(target=lambda: answers.append(waits["calling"](callback)), daemon=True)
    thread.start()
    assert begun.wait(60)
    assert waits["collecting"]() == 6
    thread.join(60)
    assert answers == [7.0]


@pytest.mark.parametrize("lane", ["isolated", "direct"])
def test_many_threads_at_once(lab: nif_lab.Lab, lane: Lane) -> None:
    """Texts, errors and frames are each call's own, also where others collect garbage."""
    seed = new_seed()
    print("seed", seed)
    done = julia_load.calls(lab, lane, 800, seed, seconds=300)
    assert (done["calls"], done["wrong"], done["hanging"]) == (800, [], 0)


FAULTHANDLER = """
import faulthandler, threading
faulthandler.enable()
import nif_lab
from nif_lab.errors import NifPanic
lab = nif_lab.Lab(["julia"], lane="direct")
f = lab.cell("julia", '''
collecting(n::Int64)::Int64 = (for _ in 1:n; string(n); GC.gc(false); end; n)
deep(n::Int64)::Int64 = n + deep(n + 1)
''', lane="direct").functions
def works():
    threads = [threading.Thread(target=f["collecting"], args=(20,)) for _ in range(3)]
    for it in threads: it.start()
    for it in threads: it.join()
    try:
        f["deep"](1)
    except NifPanic as error:
        print(type(error).__name__, flush=True)
works()
faulthandler.disable()
works()
faulthandler.enable()
works()
"""


@pytest.mark.slow
def test_faulthandler_leaves_julias_handlers_alone() -> None:
    """A collection stops threads by a bad access: it ended the process once pytest had ended faulthandler."""
    command = [sys.executable, "-c", FAULTHANDLER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["NifPanic"] * 3), done.stderr


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        ("f(x::Float64)::Float64 = 2\n\ng(x::Float64)::Float64 = x +\n", 3, "premature end of input"),
        ("f(x::Float64)::Float64 = (x +\n\n\nend", 4, "end"),
        ("f(x::Float64)::Float64 = x\ng(x::Float64)::Float64 = ]x\n", 2, "]"),
    ],
)
def test_a_syntax_error_is_one_line(lab: nif_lab.Lab, code: str, line: int, says: str) -> None:
    with pytest.raises(nif_lab.errors.CellError) as caught:
        lab.cell("julia", code)
    message = caught.value.messages[0]
    assert message.line == line
    assert says in message.text
    assert "Error @" not in message.text
    assert "ParseError" not in message.text
    assert "\n" not in message.text


@pytest.mark.parametrize("lane", ["isolated", "direct"])
def test_a_panic_names_the_cells_line(lab: nif_lab.Lab, lane: str) -> None:
    code = """\
function _deep(x)
    x > 0 && error("too large")
    return x
end
outer(x::Float64)::Float64 = _deep(x) + 1
"""
    outer = lab.cell("julia", code, lane=lane, replace=True).functions["outer"]
    assert outer(-1.0) == 0
    with pytest.raises(NifPanic, match=r"too large \(line 2\)"):
        outer(1.0)


@pytest.mark.parametrize("lane", ["isolated", "direct"])
def test_an_exception_keeps_its_kind(lab: nif_lab.Lab, lane: str) -> None:
    code = """\
failing(kind::Int64)::Float64 = _fail(Val(kind))
_fail(::Val{0}) = Dict("a" => 1.0)["b"]
_fail(::Val{1}) = sum([1.0, 2.0] + [1.0])
_fail(::Val{2}) = Int64("€uro"[2])
_fail(::Val{3}) = [1.0][2]
_fail(::Val{4}) = Float64(parse(Int, "one"))
_fail(::Val{5}) = Float64(Int64(1.5))
_fail(::Val{6}) = Float64(typemin(Int64) ÷ -1)
_fail(::Val{7}) = throw(OutOfMemoryError())
_fail(::Val{8}) = error("no kind of its own")
"""
    failing = lab.cell("julia", code, lane=lane, replace=True).functions["failing"]
    expected = (
        (NifValueError, "KeyError.*b"), (NifValueError, "DimensionMismatch"), (NifIndexError, "StringIndexError"),
        (NifIndexError, "BoundsError"), (NifValueError, "ArgumentError"), (NifValueError, "InexactError"),
        (NifPanic, "DivideError"), (NifMemoryError, "out of memory"), (NifPanic, "no kind of its own"),
    )  # fmt: skip
    for number, (kind, says) in enumerate(expected):
        with pytest.raises(kind, match=says) as caught:
            failing(number)
        assert type(caught.value) is kind, says
