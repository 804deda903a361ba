"""Each language's own tests and its own style, run by its own tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nif_lab.backends.base import find_program
from nif_lab.backends.julia import find_julia

ROOT = Path(__file__).resolve().parent.parent
ZIG = [sys.executable, "-m", "ziglang"]
NIM = find_program("nim") or "nim"
CARGO = ["cargo", "--locked"]
MANIFEST = ["--manifest-path", "rust/Cargo.toml"]


def check(command: list[str], **env: str) -> None:
    """Run a tool in the checkout; its own words are the failure."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYO3_PYTHON": sys.executable, "NIF_LAB_BUILD": "core", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-6000:]}", pytrace=False)


@pytest.mark.slow
def test_rust() -> None:
    check([*CARGO, "test", "--quiet", "--workspace", *MANIFEST])


@pytest.mark.slow
def test_zig() -> None:
    blocks = ("--dep", "blocks", "-Mroot=zig/src/lib.zig", "-Mblocks=zig/src/xxh3/blocks.zig")
    check([*ZIG, "test", "-lc", "zig/src/nif/guard.c", *blocks])


@pytest.mark.slow
@pytest.mark.parametrize("mm", ["arc", "orc"])
def test_nim(mm: str) -> None:
    check([NIM, "r", "--hints:off", f"--mm:{mm}", "nim/tests/test_all.nim"])


@pytest.mark.slow
def test_julia() -> None:
    check([find_julia().program, "--startup-file=no", "--project=julia", "julia/test/runtests.jl"])


def test_rust_style() -> None:
    check(["cargo", "fmt", "--all", "--check", *MANIFEST])
    check([*CARGO, "clippy", "--quiet", "--workspace", "--all-targets", *MANIFEST, "--", "-D", "warnings"])


def test_zig_style() -> None:
    check([*ZIG, "fmt", "--check", "zig"])


def test_nim_style() -> None:
    check([NIM, "check", "--hints:off", "--styleCheck:error", "nim/src/lib.nim"])


def test_python_style() -> None:
    check([sys.executable, "-m", "ruff", "format", "--check", "src", "tests", "julia"])
    check([sys.executable, "-m", "ruff", "check", "src", "tests", "julia"])


def test_python_types() -> None:
    check([sys.executable, "-m", "mypy"])
