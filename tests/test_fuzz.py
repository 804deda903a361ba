"""`make fuzz`: a second of it for each language, and that it finds what there is to find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fuzz_wire
import numpy as np
import pytest
from conformance.test_codecs import answer

import nif_lab.backends
from nif_lab import wire
from nif_lab.wire.examples import LIVE
from nif_lab.wire.schema import ERRORS

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
#: Workers whose codec fails at the first frame of four bytes.
FAULTS = {
    "crash": ("os.kill(os.getpid(), 11)", "exit status -11"),
    "exit": ("os._exit(0)", "exit status 0"),
    "hang": ("time.sleep(100)", "no answer within 2 s"),
    "other answer": ("return np.zeros((1, 14), int)", "the codecs disagree"),
    "memory": ("bytearray(4 << 30)", "the codecs disagree"),
    "one byte too many": ("return ctypes.string_at(frame.ctypes.data, 5)", "exit status -11"),
}
WORKER = """
import ctypes, os, sys, time, pathlib, numpy as np, fuzz_wire as fuzz
from nif_lab import wire
def decode(frame, dialect, version, live):
    if frame.tobytes() == b"\\x01\\x05\\x01\\x00":
        {fault}
    return wire.decode_nodes(frame, dialect, version, live.tolist())
fuzz.seeds = lambda: [fuzz.Frame(bytes([1, 5, 1]), 0, 1), fuzz.Frame(bytes([1, 5, 1, 0]), 2, 1)]
fuzz.work(decode, fuzz.State(pathlib.Path(sys.argv[1])), 0.5, 1)
"""


@pytest.mark.parametrize("language", nif_lab.backends.names())
def test_no_codec_disagrees(language: str) -> None:
    command = [sys.executable, fuzz_wire.__file__, language]
    done = subprocess.run(command, env={**os.environ, "FUZZ_SECONDS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(rf"{language}, seed \d+: [\d,]+ frames, [\d,]+ a second\n", done.stdout)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_found_is_kept(fault: str, tmp_path: Path) -> None:
    statement, words = FAULTS[fault]
    path, corpus = tmp_path / "state", tmp_path / "corpus"
    command = [sys.executable, "-c", WORKER.format(fault=statement), str(path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        with pytest.raises(fuzz_wire.Finding, match=words) as found:
            fuzz_wire.watch(command, fuzz_wire.State(path), corpus, patience_s=2)
    (kept,) = corpus.iterdir()
    assert kept.read_bytes() == b"\x01\x05\x01\x00"
    assert f"{kept} as dialect 2, version 1" in str(found.value)


def test_the_seeds_meet_every_refusal() -> None:
    said = {
        str(answer(wire.decode_nodes, np.frombuffer(it.octets, np.uint8), it.dialect, it.version, LIVE)).partition(":")[
            0
        ]
        for it in fuzz_wire.seeds()
    }
    assert said >= set(ERRORS)
