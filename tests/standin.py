"""The stand-in for a GPU's driver and compiler: tests/fake_cuda.c, compiled once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).with_name("fake_cuda.c")


def library() -> Path:
    """Return the compiled stand-in."""
    key = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    file = Path(tempfile.gettempdir()) / f"nif_lab_standin_{os.getuid()}_{key}.so"
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}")
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(part), str(SOURCE), "-lm"]
        subprocess.run(command, check=True)
        part.replace(file)
    return file


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """Return the environment of a process whose GPU is the stand-in; its caches go below a folder."""
    file = str(library())
    ours = {"NIF_LAB_GPU_DRIVER": file, "NIF_LAB_NVRTC": file, "XDG_CACHE_HOME": str(folder)}
    return {**os.environ, **ours, **{f"FAKE_CUDA_{name.upper()}": str(value) for name, value in settings.items()}}


@contextlib.contextmanager
def here(folder: Path, **settings: object) -> Iterator[None]:
    """Give this process the stand-in, for as long as the context lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder, **settings).items():
            patch.setenv(name, value)
        yield


def run(code: str, folder: Path, **settings: object) -> str:
    """Run Python code in such a process; return what it printed."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment(folder, **settings), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
