"""Work on a real device, in both lanes: skipped where there is none, with the reason that `GpuUnavailable` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.gpu

PROGRAM = """
import sys
import numpy as np
import xxhash
from nif_lab import errors
from nif_lab.lab import Lab
from nif_lab.recovery import RecoveryPolicy

language, lane = sys.argv[1:]
lab = Lab([language], lane=lane, policy=RecoveryPolicy(timeout=30.0, crashes=None, failover=False))
functions = lab.backends[language]
values = np.random.default_rng(1).random(100_000)
x, y = lab.memory.to_device(values, [language]), lab.memory.allocate(values.shape, languages=[language], device="gpu")
functions.gpu_copy(x, y)
assert np.array_equal(y.numpy(), values)
assert functions.gpu_checksum(y) == xxhash.xxh3_64_intdigest(values.tobytes())
lab.gpu.launch(lab.gpu.kernel("axpy"), 100, 256, 2.0, x, y, values.size, language=language, lane=lane)
assert np.array_equal(y.numpy(), 2.0 * values + values)
functions.gpu_fill(y, -1.5)
assert (y.numpy() == -1.5).all()
if lane == "isolated":
    for kind in ("gpu_illegal", "gpu_endless"):
        report = lab.faults.inject(language, kind, policy=RecoveryPolicy(timeout=1.0, crashes=None, failover=False))
        assert (report.outcome, report.answered_by, report.disturbed) == ("recovered", "retry", ()), report
    assert np.array_equal(x.numpy(), values)
"""


@pytest.mark.parametrize("lane", ["direct", "isolated"])
@pytest.mark.parametrize("language", ["rust", "zig", "nim", "julia"])
def test_every_language_works_there(language: str, lane: str) -> None:
    command = [sys.executable, "-c", PROGRAM, language, lane]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
