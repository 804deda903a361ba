"""The Lab as its users meet it: what it shows, how it fails, what it remembers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nif_lab import Lab, Snapshot, backends
from nif_lab.backends.base import HOST, Backend, Compiler
from nif_lab.errors import AbiError, BackendNotLoaded, BuildError, NifValueError, ToolchainMissing
from nif_lab.lab import LoadedBackend
from nif_lab.telemetry import FunctionStats
from nif_lab.text import format_ns


class Broken(Backend):
    """A language whose loading fails in a chosen way."""

    name = "broken"
    title = "Broken"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def compiler(self) -> Compiler:
        raise self.error

    def build(self, source: Path, target: Path, machine: str = HOST) -> None:
        raise self.error


def test_call_by_name_is_the_attribute(lab: Lab) -> None:
    x = np.arange(5.0)
    assert lab.call("rust", "dot", x, y=x) == lab.rust.dot(x, x) == 30.0


def test_unknown_names_say_what_there_is(lab: Lab) -> None:
    with pytest.raises(AttributeError, match="did you mean matmul"):
        _ = lab.rust.matmull
    with pytest.raises(AttributeError, match=r"it has .*axpy"):
        _ = lab.rust.zzzz
    with pytest.raises(AttributeError, match="no attribute or language 'cobol'"):
        _ = lab.cobol
    with pytest.raises(BackendNotLoaded, match="no backend 'cobol'"):
        lab.call("cobol", "dot")
    with pytest.raises(ValueError, match="no language 'cobol'; there are rust"):
        Lab(["cobol"])


def test_a_lab_of_some_languages() -> None:
    small = Lab(["zig"])
    assert list(small.backends) == ["zig"]
    with pytest.raises(BackendNotLoaded, match="this Lab was made without rust"):
        _ = small.rust


@pytest.mark.parametrize(
    ("error", "reason", "cure"),
    [
        (ToolchainMissing("no compiler", "install it"), "not built: no compiler", "install it"),
        (RuntimeError("the loader broke"), "RuntimeError: the loader broke", "nif-lab doctor"),
    ],
    ids=["missing", "anything"],
)
def test_a_backend_that_fails_shows_why_and_stops_nothing(error: Exception, reason: str, cure: str) -> None:
    broken = LoadedBackend(Broken(error)).load()
    assert (broken.loaded, broken.reason, broken.cure) == (False, reason, cure)
    with pytest.raises(BackendNotLoaded, match=f"Broken isn't loaded: {reason}") as caught:
        broken.dot(1, 2)
    assert caught.value.cure == cure
    assert reason in repr(broken)
    assert reason in broken._repr_html_()


def test_reprs_are_useful_and_have_no_addresses(lab: Lab) -> None:
    for text in (repr(lab), lab._repr_html_(), repr(lab.zig), lab.zig._repr_html_(), repr(lab.zig.functions["dot"])):
        assert "0x" not in text
    assert f"Lab: {len(lab.backends)} of {len(lab.backends)} backends loaded" in repr(lab)
    assert "dot(x: f64[n], y: f64[n]) -&gt; f64" in lab.zig._repr_html_()


def test_completion_lists_kernels_and_hides_faults(lab: Lab) -> None:
    assert {"dot", "hillshade", "checksum"} <= set(dir(lab.nim))
    assert "panic" not in dir(lab.nim)
    assert "panic" in lab.nim.functions
    assert {"rust", "zig", "nim", "julia", "transfer"} <= set(dir(lab))


def test_snapshot_counts(lab: Lab) -> None:
    before = lab.snapshot().function("zig", "add")
    for _ in range(10):
        lab.zig.add(1, 2)
    with pytest.raises(NifValueError):
        lab.zig.dot(np.ones(2), np.ones(3))
    snapshot = lab.snapshot()
    assert isinstance(snapshot, Snapshot)
    after = snapshot.function("zig", "add")
    assert after.calls - before.calls == 10
    assert 0 < after.min_ns <= after.mean_ns <= after.max_ns
    total = snapshot.backend("zig")
    assert total.calls == sum(it.calls for it in snapshot if it.backend == "zig")
    assert total.errors >= 1
    assert 0 < total.error_rate < 1
    assert "zig.add" in str(snapshot)
    with pytest.raises(KeyError):
        snapshot.function("zig", "nothing")


def test_an_empty_snapshot_has_zeros() -> None:
    nothing = Snapshot(())
    assert nothing.backend("rust") == FunctionStats("rust", "", 0, 0, 0, 0.0, 0.0)
    assert (nothing.backend("rust").mean_ns, nothing.backend("rust").error_rate) == (0.0, 0.0)
    assert str(nothing) == "no calls yet"


@pytest.mark.parametrize(
    ("ns", "text"), [(0, "0 ns"), (73.2, "73.2 ns"), (4200, "4.2 µs"), (999_600, "1 ms"), (2.5e9, "2.5 s")]
)
def test_times_read_well(ns: float, text: str) -> None:
    assert format_ns(ns) == text


def test_listing_is_the_list() -> None:
    assert backends.names() == ("rust", "zig", "nim", "julia")
    assert [backends.find(name).title for name in backends.names()] == ["Rust", "Zig", "Nim", "Julia"]


def without_programs(tmp_path: Path, **env: str) -> dict[str, str]:
    return {**os.environ, "PATH": str(tmp_path), "HOME": str(tmp_path), **env}


def test_a_julia_that_is_missing_or_too_old_is_named(tmp_path: Path) -> None:
    old = tmp_path / "julia"
    old.write_text("#!/bin/sh\nprintf '1.0.5\\n/opt\\n/opt/libjulia.so\\n/opt/sys.so\\n'\n")
    old.chmod(0o755)
    code = "from nif_lab.backends.julia import Julia; Julia().compiler()"
    for julia, says in ((str(old), "Julia 1.0.5"), ("/none/julia", "isn't a program"), ("/bin/false", "doesn't start")):
        env = {**os.environ, "NIF_LAB_JULIA": julia}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        assert "ToolchainMissing" in done.stderr
        assert says in done.stderr
        assert "make julia" in done.stderr


def test_a_compiler_that_refuses_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "rust").mkdir()
    with pytest.raises(BuildError) as caught:
        backends.find("rust").build(tmp_path / "rust", tmp_path / "lib.so")
    assert caught.value.detail
    assert not (tmp_path / "lib.so").exists()


def test_an_unbuilt_library_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zig = backends.find("zig")
    monkeypatch.setattr(type(zig), "library", property(lambda self: tmp_path / "libnif_zig.so"))
    loaded = LoadedBackend(zig).load()
    assert "is missing" in loaded.reason
    assert loaded.cure == "nif-lab build zig"
    (tmp_path / "libnif_zig.so").write_bytes(b"no library")
    with pytest.raises(AbiError, match="not a whole shared library"):
        zig.open()
