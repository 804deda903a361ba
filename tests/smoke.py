"""What an installed wheel must do, on any machine: ``python tests/smoke.py``. It needs nothing beside the wheel.

`tools/emulate.py` runs it under emulation. Julia is left out: the wheel has its sources alone.
"""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nif_lab
from nif_lab import wire
from nif_lab.arguments import LANES
from nif_lab.errors import NifError, NifPanic, WorkerCrashed
from nif_lab.recovery import RecoveryPolicy
from nif_lab.wire.examples import LIVE
from nif_lab.wire.schema import DIALECTS
from nif_lab.wire.xxh3 import checksum

LANGUAGES = ("rust", "zig", "nim")
GOLDEN = Path(__file__).resolve().parent / "golden"


def say(*command: str) -> dict[str, Any]:
    """What one of nif-lab's commands says as JSON; its status is about Julia too."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "nif_lab.cli", *command, "--json"]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def refusal(function: Callable[..., Any], *arguments: Any) -> NifError:
    """The error that a call ends with."""
    try:
        answer = function(*arguments)
    except NifError as error:
        return error
    raise AssertionError(f"answered {answer!r}")


def doctor(lab: nif_lab.Lab) -> str:
    said = say("doctor")
    assert said["machine"] == platform.machine()
    counts = {name: said["backends"][name]["functions"] for name in LANGUAGES}
    assert len({*counts.values()}) == 1, counts
    return f"{said['machine']}, {counts['rust']} functions in each language"


def demo(lab: nif_lab.Lab) -> str:
    said = say("demo")
    assert said["equal"]
    assert said["transfers"]
    assert all(it["verified"] for it in said["transfers"])
    return f"{len(said['transfers'])} transfers, largest difference {said['max_difference']:.1e}"


def calls(lab: nif_lab.Lab) -> str:
    """Both lanes, and arrays of every length that vectors may stumble over."""
    rng = np.random.default_rng(1)
    for lane in LANES:
        for name in LANGUAGES:
            backend = getattr(lab, lane)[name]
            for size in (*range(40), 1000, 100_003):
                x, y = rng.normal(size=(2, size))
                assert np.isclose(backend.dot(x, y), x @ y, rtol=1e-12, atol=1e-12), (lane, name, size)
                before, scaled = y.copy(), backend.axpy(2.0, x, y)
                assert np.array_equal(y if scaled is None else scaled, 2.0 * x + before), (lane, name, size)
    return f"{', '.join(LANES)}"


def checksums(lab: nif_lab.Lab) -> str:
    """Of short and of long inputs, and of some that are copied past the caches, where there is such a way."""
    sizes = (*range(0, 260, 7), 1024, 4096, 4097, 65_536, 100_001)
    octets = np.random.default_rng(2).integers(256, size=20 << 20, dtype=np.uint8)
    for lane in LANES:
        backends = [getattr(lab, lane)[name] for name in LANGUAGES]
        for size in sizes:
            expected = checksum(octets[:size].tobytes())
            assert {it.checksum(octets[:size]) for it in backends} == {expected}, (lane, size)
        assert len({it.checksum(octets) for it in backends}) == 1
    assert wire.decode(lab.wire.encode(octets)).tobytes() == octets.tobytes()
    return f"{len(sizes)} sizes"


def codecs(lab: nif_lab.Lab) -> str:
    """The golden frames: read, and written again byte for byte; bad ones are refused in the same words."""
    good = json.loads((GOLDEN / "index.json").read_text("utf-8"))
    bad = json.loads((GOLDEN / "bad.json").read_text("utf-8"))
    live = np.array(LIVE, np.int64)
    for lane in LANES:
        for name in LANGUAGES:
            backend = getattr(lab, lane)[name]
            for frame_name, it in good.items():
                frame, code = np.fromfile(GOLDEN / f"{frame_name}.bin", np.uint8), DIALECTS[it["dialect"]].code
                nodes = backend.decode(frame, code, it["version"], live)
                assert nodes.tolist() == it["nodes"], (lane, name, frame_name)
                summed = it["version"] == 1 or frame[9] == 1
                again = backend.encode(nodes, frame, code, it["version"], it["alignment"], bool(summed))
                assert again[len(again) - len(frame) :].tobytes() == frame.tobytes(), (lane, name, frame_name)
            for frame_name, it in bad.items():
                frame = np.frombuffer(bytes.fromhex(it["frame"]), np.uint8)
                error = refusal(backend.decode, frame, DIALECTS[it["dialect"]].code, it["version"], live)
                assert error.reason == it["error"], (lane, name, frame_name)
    return f"{len(good)} frames written again, {len(bad)} refused"


def faults(lab: nif_lab.Lab) -> str:
    """A panic ends the call, and a null store the worker: both are errors, and the next call is answered."""
    x = np.arange(5.0)
    for name in LANGUAGES:
        for lane in LANES:
            panic = refusal(getattr(lab, lane)[name].panic, "on purpose")
            assert isinstance(panic, NifPanic), panic
            assert "on purpose" in str(panic)
        crash = lab.faults.inject(name, "null_store", policy=RecoveryPolicy(retries=0, failover=False)).error
        assert isinstance(crash, WorkerCrashed), crash
        assert (crash.backend, crash.signal, crash.address) == (name, signal.SIGSEGV, 0)
        assert lab.isolated[name].dot(x, x) == 30.0
    return "panics, null stores"


def pools(lab: nif_lab.Lab) -> str:
    """Arrays in shared memory: a worker writes in place, what is used again is zeros, and all goes back."""
    before = lab.memory.metrics().active
    for size in (1, 1000, 300_000, 3_000_001):
        for name in LANGUAGES:
            y = lab.memory.zeros(size)
            lab.isolated[name].axpy(1.0, np.full(size, 3.0), y)
            assert (y == 3.0).all(), (name, size)
            del y
            assert not lab.memory.zeros(size).any(), (name, size)
    lab.memory.trim()
    metrics = lab.memory.metrics()
    assert metrics.active == before, metrics
    return f"{metrics.peak} bytes at most, {metrics.committed} kept"


CHECKS: tuple[Callable[[nif_lab.Lab], str], ...] = (doctor, demo, calls, checksums, codecs, faults, pools)


def main() -> int:
    """Run all checks; return how many failed."""
    lab, failed = nif_lab.Lab(LANGUAGES), 0
    for check in CHECKS:
        start = time.monotonic()
        try:
            said = check(lab)
        except Exception as error:
            failed += 1
            said = f"FAILED: {type(error).__name__}: {error}"
        print(f"{check.__name__:<10} {time.monotonic() - start:6.1f} s  {said}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
