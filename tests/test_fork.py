"""A child of fork computes right results, has its own memory, and changes nothing of its parent's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(scenario: str) -> Any:
    script = Path(__file__).with_name("fork_client.py")
    command = [sys.executable, script, scenario]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_a_fork_pool_computes_right_results() -> None:
    assert run("pool") == [True] * 8


def test_a_child_never_writes_into_its_parents_arrays() -> None:
    assert run("arrays") == [[True, True, True, True], True, True, True]


def test_an_inherited_buffer_is_read_only_and_the_childs_own_work() -> None:
    told, owners, total = run("buffers")
    read, stored, released, written, own, active, says_so = told
    assert (read, own, active, says_so) == (8.0, 56.0, [64], True)
    assert stored[0] == released[0] == "OwnershipError"
    assert written[0] == "NifValueError"
    for _, words in (stored, released, written):
        assert "forked" in words
        assert "numpy.array(buffer)" in words
    assert (owners, total) == ({"python": 1, "rust": 1}, 8.0)


def test_a_parents_runtime_says_so_in_a_child() -> None:
    told, after = run("bound")
    assert [kind for kind, _ in told] == ["NifError", "NifError", "Lab"]
    for _, words in told:
        assert "forked" in words
    assert '"spawn"' in told[0][1]
    assert after == 7.0


def test_no_child_waits_for_a_lock_of_its_parents_threads() -> None:
    assert run("busy") == [1000.0] * 20


def test_a_grandchild_has_memory_of_its_own() -> None:
    assert run("grandchild") == [[100.0, 12.0], 100.0]
