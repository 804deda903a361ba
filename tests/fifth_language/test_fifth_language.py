"""One folder and one file add a language: C passes the whole conformance suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_c_passes_the_conformance_suite() -> None:
    """The plugin sees to it that it is as many tests as Zig's; none of them may be skipped."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path]),
        "PYTEST_PLUGINS": "fifth_language.plugin",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/conformance", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0 or not re.search(r"^\d+ passed, \d+ deselected in ", done.stdout, re.M):
        pytest.fail(done.stdout, pytrace=False)
