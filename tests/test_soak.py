"""The soak's own arithmetic and three seconds of its load, and some kills of `make kills`."""

from __future__ import annotations

import json
import subprocess
import sys

import kills
import numpy as np
import soak


def figures(per_hour: float, wrong: list[str]) -> dict[str, object]:
    measure = {"first": 30.0, "last": 31.0, "per_hour": per_hour}
    return {"seconds": 3600.0, "wrong": wrong, "measures": {"memory_mb": measure, "workers_mb": measure}}


def test_a_leak_and_a_wrong_answer_fail_it() -> None:
    assert soak.faults_of(figures(0.9, [])) == []
    assert soak.faults_of(figures(1.1, [])) == ["memory_mb grew by 1.10 an hour"]
    assert soak.faults_of(figures(0.0, ["forks: no"])) == ["forks: no"]


def test_the_slope_is_that_of_the_line_whatever_a_few_counts_say() -> None:
    seconds = np.arange(0.0, 3600.0, 36.0)
    values = 30 + 2 * seconds / 3600
    values[::7] += 25  # another worker was there
    assert abs(soak.slope(seconds, values) - 2) < 0.2


def test_three_seconds_of_it_have_nothing_wrong() -> None:
    seed = int(np.random.default_rng().integers(2**32))
    print("seed", seed)
    done = soak.soak(3.0, seed, ["rust"])
    assert done["wrong"] == []
    assert done["done"].keys() >= {"direct calls", "isolated calls", "crashes", "forks", "frames", "mapped files"}


def test_thirty_kills_lose_nothing() -> None:
    seed = int(np.random.default_rng().integers(2**32))
    print("seed", seed)
    command = [sys.executable, kills.__file__, "--kills", "30", "--seed", str(seed)]
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    assert (done["kills"], done["lost"], done["left"]) == (30, 0, 0)
    assert done["acknowledged"] > 0
    assert "| 30 |" in kills.as_markdown(done)
