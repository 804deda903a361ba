"""``make version TO=0.2.0``: write the version into every file that has it; without one, print the one there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTENSION = "wheel/data/share/jupyter/labextensions/nif_lab"
#: Files that have the version, and what stands before it. Each compiler and packager reads its own.
PLACES = {
    "pyproject.toml": 'version = "',
    "rust/Cargo.toml": 'version = "',
    "src/nif_lab/__init__.py": '__version__: Final = "',
    "julia/Project.toml": 'version = "',
    "julia/src/nif/export.jl": 'const LIBRARY_VERSION = "',
    f"{EXTENSION}/package.json": '"version": "',
    f"{EXTENSION}/static/remoteEntry.js": 'const VERSION = "',
}


def found() -> dict[str, str]:
    """Return the version that each file has."""
    return {name: _pattern(before).search((ROOT / name).read_text())[2] for name, before in PLACES.items()}  # type: ignore[index]


def write(version: str) -> None:
    """Write a version into all of them, and into Cargo's lock file."""
    for name, before in PLACES.items():
        path = ROOT / name
        path.write_text(_pattern(before).sub(rf"\g<1>{version}", path.read_text(), count=1))
    subprocess.run(["cargo", "update", "--quiet", "--offline", "--workspace"], cwd=ROOT / "rust", check=True)


def _pattern(before: str) -> re.Pattern[str]:
    return re.compile(rf"(^\s*{re.escape(before)})([^\"]+)", re.M)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        if not re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", sys.argv[1]):
            sys.exit(f"{sys.argv[1]!r} is no version; for example 0.2.0")
        write(sys.argv[1])
    for name, version in found().items():
        print(f"{version}  {name}")
