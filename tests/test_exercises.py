"""The checks of the exercises: a plausible wrong answer is told what is wrong with it, in the words given here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from test_notebooks import tagged

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
#: Cells that a check needs to have been run, and what else it needs.
NEEDS: dict[str, list[str]] = {
    "05_faults_and_recovery": ["faults-02"],
    "07_who_is_faster": [],
}

IN_BLOCKS = """
def ratio(a, b, rounds, clock):
    times = []
    for job in (a, b):
        start = clock()
        for _ in range(rounds):
            job()
        times.append(clock() - start)
    return times[0] / times[1]
"""
MEAN = """
def ratio(a, b, rounds, clock):
    ratios = []
    for _ in range(rounds):
        start = clock()
        a()
        between = clock()
        b()
        ratios.append((between - start) / (clock() - between))
    return np.mean(ratios)
"""

WRONG = [
    ("05_faults_and_recovery", "policy = RecoveryPolicy()", "takes longer than half a second"),
    ("05_faults_and_recovery", "policy = RecoveryPolicy(timeout=0.4, failover=False)", "takes longer than half"),
    ("05_faults_and_recovery", "policy = RecoveryPolicy(timeout=0.2, retries=0, failover=False)", "nobody tried again"),
    ("05_faults_and_recovery", "policy = RecoveryPolicy(timeout=0.2)", "another language answered"),
    ("07_who_is_faster", IN_BLOCKS, "instead of 2; do a and b take turns?"),
    ("07_who_is_faster", MEAN, "instead of 2; do a and b take turns? do you use the median?"),
    ("07_who_is_faster", MEAN.replace("range(rounds)", "range(3)"), "21 rounds of two calls are 42, not 6"),
]


@pytest.fixture(scope="module")
def prepared() -> Any:
    """Return what runs the cells a check needs, once for each notebook."""
    spaces: dict[str, dict[str, Any]] = {}

    def prepare(name: str) -> dict[str, Any]:
        if name not in spaces:
            cells = {it.id: it.source for it in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells}
            spaces[name] = {"np": np, "time": time}
            for needed in NEEDS[name]:
                exec(cells[needed], spaces[name])
        return spaces[name]

    return prepare


@pytest.mark.parametrize(("name", "answer", "expected"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(
    name: str, answer: str, expected: str, prepared: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    space = prepared(name)
    exec(answer, space)
    capsys.readouterr()
    exec(tagged(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4), "check").source, space)
    said = capsys.readouterr().out.strip()
    assert said.startswith("not yet: ")
    assert expected in said
