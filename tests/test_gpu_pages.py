"""Blocks of the host's pools, locked in place by copies to a device: against a stand-in that counts them.

The stand-in refuses a copy of memory of which only a part is locked, as the driver does.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin

from nif_lab.lab import Lab
from nif_lab.memory import Pool

SEED = int(os.environ.get("NIF_LAB_SEED", random.randrange(1 << 32)))
MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("two_devices")


@pytest.fixture
def driver() -> ctypes.CDLL:
    return ctypes.CDLL(str(standin.library()))


def upload(lab: Lab, values: np.ndarray) -> None:
    there = lab.memory.to_device(values, ["rust"])
    assert np.array_equal(there.numpy(), values)
    there.close()


def test_a_copy_locks_a_block_until_its_pages_go(driver: ctypes.CDLL) -> None:
    lab = Lab([])
    before = driver.fake_locked()
    lab.memory.to_device(np.ones(4 * MIB, "u1")).close()
    small = lab.memory.allocate(MIB // 2, "u1")
    lab.memory.to_device(small.array).close()
    assert driver.fake_locked() == before, "NumPy's memory, and small blocks, are left alone"

    block = lab.memory.allocate(3 * MIB + 5, "u1")
    count = driver.fake_registered()
    for start in (0, MIB, 0):
        lab.memory.to_device(block.array[start:]).close()
    assert driver.fake_locked() - before == 3 * MIB + 4096, "whole pages, all of the block's"
    assert driver.fake_registered() == count + 1, "once"
    block.close()
    again = lab.memory.allocate(3 * MIB + 5, "u1")
    lab.memory.to_device(again.array).close()
    assert driver.fake_registered() == count + 1, "the next block of that size has its place, which is locked"
    lab.memory.trim()
    assert driver.fake_locked() - before == 3 * MIB + 4096, "a live block stays"
    again.close()
    lab.memory.trim()
    assert driver.fake_locked() == before, "its pages went back to the system"

    large = lab.memory.allocate(70 * MIB, "u1")
    lab.memory.to_device(large.array).close()
    assert driver.fake_locked() - before == 70 * MIB
    large.close()
    assert driver.fake_locked() == before, "a segment of its own goes with the block"


def test_copies_to_the_host_lock_a_block_too(driver: ctypes.CDLL) -> None:
    lab = Lab([])
    there = lab.memory.to_device(np.arange(2 * MIB, dtype="f4").reshape(2, MIB))
    before, target = driver.fake_locked(), lab.memory.empty((2, MIB), "f4")
    for _ in range(2):
        target[:] = 0
        there.copy_to(target)
        assert np.array_equal(target, there.numpy())
    assert driver.fake_locked() - before == 8 * MIB
    assert [it[1:] for it in lab.memory.core.copies_since(lab.memory.core.copy_count - 2, True)] == [
        ("gpu", "device to host")
    ] * 2


def test_a_lab_that_is_gone_leaves_nothing_locked(driver: ctypes.CDLL) -> None:
    before = driver.fake_locked()
    lab = Lab([])
    lab.memory.to_device(lab.memory.empty(2 * MIB)).close()
    assert driver.fake_locked() > before
    del lab
    gc.collect()
    assert driver.fake_locked() == before


@pytest.mark.parametrize("pools", [None, [Pool("one", 16 * MIB, 8, 1 << 30)]], ids=["default", "one pool"])
def test_no_copy_ever_meets_pages_that_are_partly_locked(driver: ctypes.CDLL, pools: list[Pool] | None) -> None:
    """Also in a pool that serves all sizes, where large blocks may share pages with small ones."""
    print(f"NIF_LAB_SEED={SEED}")
    random_, before, seen = random.Random(SEED), driver.fake_locked(), 0
    lab = Lab([]) if pools is None else Lab([], pools=pools)
    live: list[Any] = []
    for step in range(400):
        action = random_.random()
        if live and (action < 0.35 or len(live) > 12):
            live.pop(random_.randrange(len(live))).close()
        elif action < 0.4:
            lab.memory.trim()
        elif live and action < 0.6:
            block = random_.choice(live)
            start = random_.randrange(block.nbytes)
            upload(lab, block.array[start : start + random_.randrange(1, 4 * MIB)])
        else:
            size = random_.choice((random_.randrange(1, 9000), random_.randrange(MIB, 6 * MIB), 2 * MIB))
            live.append(lab.memory.allocate(size, "u1"))
            live[-1].array[:] = step % 251
            upload(lab, live[-1].array)
        seen = max(seen, driver.fake_locked() - before)
    assert seen > 2 * MIB, "some were locked"
    for it in live:
        it.close()
    lab.memory.trim()
    assert driver.fake_locked() == before


FORK = """
import ctypes, os
import standin
from nif_lab.lab import Lab
lab = Lab([])
driver = ctypes.CDLL(str(standin.library()))
x = lab.memory.allocate(2 << 20, "u1")
there = lab.memory.to_device(x.array)
child = os.fork()
if child == 0:
    before = driver.fake_locked()
    lab.memory.trim()
    print(before == driver.fake_locked() == 2 << 20, lab.memory.metrics().languages, flush=True)
    del lab, x, there
    os._exit(0)
os.waitpid(child, 0)
x.close()
lab.memory.trim()
print(driver.fake_locked())
"""


def test_a_child_of_fork_lets_nothing_of_its_parent_go(tmp_path: Path) -> None:
    code = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n" + FORK
    assert standin.run(code, tmp_path).split("\n") == ["True {}", "0", ""]
