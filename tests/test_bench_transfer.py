"""`nif-lab bench transfer`: shapes, equal answers, nothing left. No test depends on how long anything takes."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from processes import TOKEN, in_time, marked

from nif_lab import backends, machine
from nif_lab.bench import report, transfer
from nif_lab.bench.carriers import CARRIERS
from nif_lab.bench.contender import WrongAnswer

if TYPE_CHECKING:
    from nif_lab.lab import Lab

pytestmark = pytest.mark.slow

SIZES = {"80 KB": 1000, "8 MB": 300_000}
SHAPES = {"80 KB": (30, 40), "4096 x 4096": (50, 50)}
OWN = {"reading", "nif_lab", "nif_lab_any"}
#: Contenders whose packages are of the extra `bench`.
OPTIONAL = {"pyarrow", "ray"}


def shared_files() -> set[str]:
    return set(os.listdir("/dev/shm"))


@pytest.fixture(scope="module")
def compared() -> dict[str, Any]:
    """With a look at what it left: processes, temporary files, shared memory."""
    before = shared_files()
    # Ray puts sockets there, whose paths have to be short.
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN, token := secrets.token_hex())
        patch.setenv("TMPDIR", folder)
        result = transfer.compare(2, 1, sizes=SIZES, shapes=SHAPES, loop_ms=0.05)
        gc.collect()  # without a GIL a Lab's functions, and so its workers, go with it alone
        assert in_time(lambda: not marked(token)), marked(token)
        assert not os.listdir(folder)
    assert in_time(lambda: shared_files() <= before), "other tests' come and go; its own would stay"
    return {**result, "machine": machine.describe(), "rounds": 2, "seed": 1}


def test_transfer_has_the_agreed_shape(compared: dict[str, Any]) -> None:
    pairs = {" -> ".join(it) for it in permutations(backends.names(), 2)}
    assert set(compared["pairs"]) == set(compared["moves"]) == set(SIZES)
    for ways in compared["pairs"].values():
        assert set(ways) == set(transfer.WAYS)
        for way, rows in ways.items():
            assert set(rows) == pairs
            told = ("told_ns", "id_ns", "again_ns") if way in transfer.HANDED else ()
            for row in rows.values():
                check_row(row, "gb_per_s", *told, alone={"zero_copy"})
    assert set(compared["copies"]) == set(SHAPES)
    for rows in (*compared["copies"].values(), *compared["moves"].values()):
        for row in rows.values():
            check_row(row, "ns", "ratio", "gb_per_s")
    assert set(compared["copies"]["80 KB"]) == set(transfer.COPIES)
    assert set(compared["copies"]["4096 x 4096"]) == {"memcpy", "transpose", "numpy_transpose"}
    assert json.loads(json.dumps(compared)) == compared


def check_row(row: dict[str, float], *keys: str, alone: set[str] = frozenset()) -> None:
    assert set(row) == {f"{quartile}{key}" for key in keys for quartile in ("", "q1_", "q3_")} | alone


def test_only_what_is_handed_over_is_not_copied(compared: dict[str, Any]) -> None:
    for ways in compared["pairs"].values():
        for way, rows in ways.items():
            assert {it["zero_copy"] for it in rows.values()} == {float(way in transfer.HANDED)}


def test_everybody_takes_part(compared: dict[str, Any]) -> None:
    """Who couldn't, for want of its package, is named with the reason."""
    unavailable = compared["unavailable"]
    assert set(unavailable) <= OPTIONAL
    assert all(name in reason for name, reason in unavailable.items())
    for rows in compared["moves"].values():
        assert set(rows) == set(compared["titles"]) == {*OWN, *CARRIERS} - set(unavailable)


def test_tables_name_everybody(compared: dict[str, Any]) -> None:
    for show in (report.as_text, report.as_markdown):
        text = show("transfer", compared)
        ways = [f"{title}, {size}" for _, title in transfer.WAYS.values() for size in SIZES]
        assert all(it in text for it in (*compared["titles"].values(), *transfer.COPIES.values(), *ways))
        assert all(f"{lane}, {it}" in text for lane in ("direct", "isolated") for it in ("rust -> zig", "id(x)"))


def test_the_slowest_pair_is_named(compared: dict[str, Any]) -> None:
    slow = {"gb_per_s": 0.001, "q1_gb_per_s": 0.0005, "q3_gb_per_s": 0.002}
    found = json.loads(json.dumps(compared))
    found["pairs"]["8 MB"]["mmap"]["nim -> zig"] |= slow
    assert re.search(r"mmap, 8 MB +nim -> zig +0\.00", report.as_text("transfer", found))


def test_who_can_not_take_part_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(transfer, "CARRIERS", {it: CARRIERS[it] for it in ("pickle", "pyarrow")})
    tables, titles, unavailable = transfer.moves(1, 1, {"one": 10}, 0.01)
    assert set(tables["one"]) == set(titles) == {*OWN, "pickle"}
    assert set(unavailable) == {"pyarrow"}
    assert "pyarrow" in unavailable["pyarrow"]


@pytest.mark.parametrize(
    "name", sorted(it for it in set(CARRIERS) - {"ray"} if it not in OPTIONAL or importlib.util.find_spec(it))
)
def test_a_carrier_carries_any_array(name: str, rng: np.random.Generator) -> None:
    before = shared_files()
    with CARRIERS[name]() as (_, move):
        for size in (1, 7, 10_000, 300_000):
            x = rng.integers(0, 1 << 20, size).astype(np.float64)
            assert move(x) == x.sum()
            assert in_time(lambda: shared_files() <= before), "other tests' come and go; its own would stay"
    with pytest.raises(OSError, match="closed"):
        move(x)


def test_a_way_that_errs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"nif_lab": ("nif_lab", lambda: 1.5)}
    monkeypatch.setattr(transfer, "CARRIERS", {})
    monkeypatch.setattr(transfer, "ours", lambda *_: wrong)
    with pytest.raises(WrongAnswer, match=r"nif_lab: the sum is 1\.5, not"):
        transfer.moves(1, 1, {"one": 10}, 0.01)


@pytest.mark.parametrize("wrong", ["copy", "checksum"])
def test_a_copy_that_errs_is_refused(lab: Lab, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy_array(source: np.ndarray, target: np.ndarray, checksum: bool = False) -> int | None:
        target[...] = source
        if wrong == "copy":
            target[-1, -1] += 1
        return lab.rust.checksum(target) ^ (wrong == "checksum") if checksum else None

    monkeypatch.setattr(transfer, "_core", SimpleNamespace(copy_array=copy_array))
    with pytest.raises(WrongAnswer, match="differs" if wrong == "copy" else "checksum is"):
        transfer.copies(lab, 1, 1, {"80 KB": (3, 4)}, 0.01)


@pytest.mark.parametrize("wrong", ["value", "checksum"])
def test_a_transfer_that_errs_is_refused(lab: Lab, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def err(*given: Any, **options: Any) -> Any:
        done = honest(*given, **options)
        return replace(done, **({"value": done.value + 1} if wrong == "value" else {"target_checksum": 1}))

    honest = lab.transfer
    monkeypatch.setattr(lab, "transfer", err)
    with pytest.raises(WrongAnswer, match="something else" if wrong == "value" else "checksums differ"):
        transfer.pairs(lab, 1, 1, {"one": 10})


def test_all_processes_end_with_a_benchmark_that_is_killed() -> None:
    token = secrets.token_hex()
    script = (
        "from nif_lab.bench import transfer\nif __name__ == '__main__': transfer.compare(10**6, 1, sizes={'one': 1000})"
    )
    # The last that it starts are Ray's, where there is Ray.
    born = ["_Reader"] if importlib.util.find_spec("ray") else ["nif_worker", "spawn_main"]
    with TemporaryDirectory() as folder:  # for Ray's files, which nobody is left to remove
        surroundings = {**os.environ, TOKEN: token, "TMPDIR": folder}
        benchmark = subprocess.Popen([sys.executable, "-c", script], env=surroundings, stderr=subprocess.DEVNULL)
        try:
            assert in_time(lambda: all(any(it in line for line in marked(token)) for it in born)), marked(token)
        finally:
            benchmark.send_signal(signal.SIGKILL)
            benchmark.wait()
        assert in_time(lambda: not marked(token), 5.0), marked(token)
