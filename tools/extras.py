"""Install what extras of the installed package need: ``python tools/extras.py docs test``.

``pip install '.[docs,test]'`` would build the package again.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

#: What has no wheel for a free-threaded Python and takes an hour to build; its tests skip themselves there.
NOT_FREE_THREADED = {"polars"} if sysconfig.get_config_var("Py_GIL_DISABLED") else set()


def needed(extras: list[str]) -> list[str]:
    """Return the requirements that the extras add."""
    wanted = []
    for it in map(Requirement, requires("nif_lab") or ()):
        asked = it.marker and any(it.marker.evaluate({"extra": extra}) for extra in extras)
        if asked and it.name not in NOT_FREE_THREADED:
            it.marker = None
            wanted.append(str(it))
    return wanted


if __name__ == "__main__":
    command = [sys.executable, "-m", "pip", "install", "--quiet", *needed(sys.argv[1:])]
    sys.exit(subprocess.run(command, check=False).returncode)
