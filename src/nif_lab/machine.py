"""What figures were measured on: processor, system, compiler of C, versions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .errors import ToolchainMissing

__all__ = ["compiler", "describe", "has_avx2", "notes"]


def describe() -> dict[str, Any]:
    """Return processor, system, load and versions."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "avx2": has_avx2(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "compiler": _compiler(),
        "nif_lab": __version__,
    }


def notes(result: dict[str, Any]) -> list[str]:
    """Return what a result was measured on, and who couldn't take part, each as a line.

    Parameters
    ----------
    result
        With ``machine`` (of `describe`), ``rounds`` and ``seed``; ``unavailable`` has why each of those is missing.
    """
    it = result["machine"]
    first = (
        f"{it['cpu']}, {it['cores']} cores, load {it['load']}; {it['system']}; Python {it['python']}, "
        f"NumPy {it['numpy']}, {it['compiler']}; nif_lab {it['nif_lab']}. "
        f"{result['rounds']} rounds, seed {result['seed']}."
    )
    # A compiler's words may have many lines.
    missing = result.get("unavailable", {}).items()
    return [first, *(f"Not compared: {name}: {' '.join(why.split())}" for name, why in missing)]


@cache
def has_avx2() -> bool:
    """Whether the processor has AVX2, which the backends use where there is one."""
    try:
        return "avx2" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


@cache
def compiler(variable: str) -> str:
    """Find the compiler of C (``"CC"``) or C++ (``"CXX"``): what that variable says, else what is on PATH.

    Raises
    ------
    ToolchainMissing
        With what to install.
    """
    usual = {"CC": ("cc", "gcc", "clang"), "CXX": ("c++", "g++", "clang++")}[variable]
    for name in (os.environ.get(variable, ""), *usual):
        if found := name and shutil.which(name):
            return found
    language = {"CC": "C", "CXX": "C++"}[variable]
    raise ToolchainMissing(f"no {language} compiler", "install gcc or clang")


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _compiler() -> str:
    try:
        command = [compiler("CC"), "--version"]
    except ToolchainMissing as missing:
        return missing.reason
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("\n")[0]
