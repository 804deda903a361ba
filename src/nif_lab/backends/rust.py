"""Rust: one `cargo build` of the kernels and of the worker, by any cargo that is new enough for the sources."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from ..errors import ToolchainMissing
from .base import WORKER, Backend, Compiler, find_program, run, source_root

__all__ = ["Rust"]

#: Package -> what cargo makes of it. The worker serves the isolated lane of every language.
ARTIFACTS: Final = {"nif-kernels": "libnif_kernels.so", "nif-worker": WORKER}

#: What another cargo, whose build script may be running this, means for itself. `--target` and `--target-dir` override
#: two more; the profile in rust/Cargo.toml says the rest.
ENVIRONMENT: Final = {"CARGO_ENCODED_RUSTFLAGS": "", "RUSTC_WORKSPACE_WRAPPER": ""}


def _oldest() -> tuple[int, int] | None:
    """Return the rust-version of the sources, if there are sources."""
    root = source_root()
    found = root and re.search(r'^rust-version = "(\d+)\.(\d+)', (root / "rust" / "Cargo.toml").read_text(), re.M)
    return (int(found[1]), int(found[2])) if found else None


def _programs() -> list[str]:
    """Every cargo that may be the right one; a build script's own comes first, rustup's folder needn't be on PATH."""
    rustup = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "bin" / "cargo"
    candidates = (os.environ.get("CARGO"), find_program("cargo"), shutil.which(rustup))
    return list(dict.fromkeys(program for program in candidates if program))


def _describe(cargo: str) -> dict[str, str]:
    """Return what cargo says of itself: its ``release`` and ``host``, say. Empty if it doesn't start."""
    try:
        asked = subprocess.run(
            [cargo, "-vV"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )  # fmt: skip
    except OSError:
        return {}
    return dict(re.findall(r"^(\w+): (.+)$", asked.stdout, re.M)) if asked.returncode == 0 else {}


def _cache(source: Path) -> Path:
    """Return the folder for cargo's files: never that of another cargo, which may be waiting for this one to end."""
    if "CARGO_MANIFEST_DIR" in os.environ and "OUT_DIR" in os.environ:
        return Path(os.environ["OUT_DIR"]) / "cargo"  # in a build script: cleaned with the rest of that build
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # Not shared by checkouts: cargo tells files of one apart by their times alone.
    return base / "nif_lab" / "cargo" / hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:16]


class Rust(Backend):
    """The Rust backend."""

    name = "rust"
    title = "Rust"
    rank = 1

    def compiler(self) -> Compiler:
        oldest = _oldest()
        needed = "Rust {}.{} or newer".format(*oldest) if oldest else "Rust"
        cure = f"install {needed}: `rustup update stable`, or your system's package cargo"
        problems = []
        for program in _programs():
            version = _describe(program).get("release", "")
            numbers = re.match(r"(\d+)\.(\d+)", version)
            if numbers and (oldest is None or (int(numbers[1]), int(numbers[2])) >= oldest):
                return Compiler((program,), version)
            problems.append(f"{program} is cargo {version}" if numbers else f"{program} doesn't start")
        if problems:
            raise ToolchainMissing(f"{' and '.join(problems)}, but {needed} is needed", cure)
        raise ToolchainMissing("no cargo in this environment or on PATH", cure)

    def build(self, source: Path, target: Path) -> None:
        cargo = self.compiler().command
        # Named, so that the place of the result doesn't depend on anybody's configuration.
        host = _describe(cargo[0])["host"]
        cache = _cache(source)
        cache.mkdir(parents=True, exist_ok=True)
        packages = [word for package in ARTIFACTS for word in ("--package", package)]
        command = [
            *cargo, "build", "--release", "--locked", "--quiet", *packages,
            "--manifest-path", str(source / "Cargo.toml"), "--target-dir", str(cache), "--target", host,
        ]  # fmt: skip
        with open(cache / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the copy is made; cargo's own lock ends with cargo
            run(command, env=ENVIRONMENT)
            made = cache / host / "release"
            for artifact, final in zip(ARTIFACTS.values(), (target, target.with_name(WORKER)), strict=True):
                _replace(made / artifact, final)


def _replace(source: Path, target: Path) -> None:
    """Copy a file to where another may be in use, in one step."""
    unfinished = target.absolute().with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copy(source, unfinished)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
