"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ToolchainMissing
from .peers import compiler, has_avx2

__all__ = ["describe"]


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
