"""Install what extras of the installed package need: ``python tools/extras.py docs test``.

``pip install '.[docs,test]'`` would build the package again.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement


def needed(extras: list[str]) -> list[str]:
    """Return the requirements that the extras add."""
    wanted = []
    for text in requires("nif_lab") or ():
        it = Requirement(text)
        if it.marker and any(it.marker.evaluate({"extra": extra}) for extra in extras):
            it.marker = None
            wanted.append(str(it))
    return wanted


if __name__ == "__main__":
    command = [sys.executable, "-m", "pip", "install", "--quiet", *needed(sys.argv[1:])]
    sys.exit(subprocess.run(command, check=False).returncode)
