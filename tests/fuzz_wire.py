"""Fuzz the codecs: damaged frames, each read by a native codec and by the reference, which have to say the same.

    python tests/fuzz_wire.py [LANGUAGE ...] [--seed N]

Each language works in a process of its own for FUZZ_SECONDS (60). A frame lies at the end of readable memory, so that
reading one byte too many ends the process. It also lies in a file, so that what ended the process, or never came to an
end, or was judged in two ways, is put into tests/corpus; from there it is read first, ever after.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import itertools
import mmap
import os
import random
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from conformance.test_codecs import GOLDEN, answer

from nif_lab import Lab, _core, backends, wire
from nif_lab.wire import rules
from nif_lab.wire.decoder import Decoder
from nif_lab.wire.examples import LIVE
from nif_lab.wire.schema import DIALECTS, MAGIC, Dialect
from nif_lab.wire.xxh3 import checksum

__all__ = ["Finding", "Frame", "State", "mutants", "seeds", "watch", "work"]

CORPUS: Final = Path(__file__).with_name("corpus")
#: The longest frame; longer ones are cut.
LONGEST: Final = 64 << 10
#: Of the file's beginning: how many frames so far, the last one's length, dialect and version.
HEAD: Final = 4 * 8
#: A frame that takes so long hangs; loading a language may take as long.
PATIENCE_S: Final = 30.0
#: A worker's exit status at its end, and when the codecs disagree. Any other, 0 included, is a crash.
DONE: Final = 40
DISAGREE: Final = 41
#: What a worker may allocate: the first large table makes the pool map 100 MiB, and garbage collectors need some room.
MEMORY: Final = 256 << 20
PROT_NONE: Final = 0
HANDLES: Final = np.array(LIVE, np.int64)
#: Numbers near limits; powers of two and their neighbours come on top.
ODD: Final = (0, 1, 2, 3, 5, 7, 60, 65, 254, 511, 513)

Decode = Callable[[np.ndarray, int, int, np.ndarray], np.ndarray]
Field = tuple[int, int]


class Finding(Exception):
    """A codec that isn't as it should be."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes, and as what they are read: dialect and version by code, 0 for the frame's own version.

    `fields` has offset and length of the numbers in it.
    """

    octets: bytes
    dialect: int
    version: int
    fields: tuple[Field, ...] = ()


class State:
    """The file that holds the frame a worker is at, and the worker's view of it.

    Parameters
    ----------
    path
        The file; it is made unless it is there.
    """

    def __init__(self, path: Path) -> None:
        page = mmap.PAGESIZE
        size = -(-(HEAD + LONGEST) // page) * page
        with path.open("a+b") as file:
            file.truncate(size + page)
            octets = np.frombuffer(mmap.mmap(file.fileno(), size + page), np.uint8)
        self._head = octets[:HEAD].view(np.int64)
        self._room = octets[HEAD:size]
        guard = ctypes.c_void_p(octets.ctypes.data + size)
        if ctypes.CDLL(None, use_errno=True).mprotect(guard, ctypes.c_size_t(page), PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, frame: Frame) -> np.ndarray:
        """Write a frame down before it is read; return its bytes, behind which nothing can be read."""
        size = len(frame.octets)
        place = self._room[len(self._room) - size :]
        place[:] = np.frombuffer(frame.octets, np.uint8)
        self._head[:] = self._head[0] + 1, size, frame.dialect, frame.version
        return place

    @property
    def count(self) -> int:
        """How many frames were put."""
        return int(self._head[0])

    @property
    def last(self) -> Frame:
        """The last frame that was put."""
        _, size, dialect, version = self._head.tolist()
        return Frame(self._room[len(self._room) - size :].tobytes(), dialect, version)


def seeds() -> list[Frame]:
    """Return every frame of tests/golden and tests/corpus, read in every way."""
    made = []
    for path in sorted([*GOLDEN.glob("*.bin"), *CORPUS.glob("*.bin")]):
        octets = path.read_bytes()[:LONGEST]
        for dialect in DIALECTS.values():
            made += [Frame(octets, dialect.code, version, _fields(octets, dialect, version)) for version in (0, 1, 2)]
    return made


def _fields(octets: bytes, dialect: Dialect, version: int) -> tuple[Field, ...]:
    """Return where a frame's numbers are, as far as it can be read."""
    try:
        decoder = Decoder(memoryview(octets), dialect, version, LIVE)
    except wire.WireError:
        return ()
    with contextlib.suppress(wire.WireError):
        decoder.decode()
    return tuple((it.offset, it.length) for it in decoder.spans if it.value is not None)


def _flip(draw: random.Random, octets: bytearray, *_: Any) -> None:
    if octets:
        octets[draw.randrange(min(len(octets), draw.choice((16, 100, LONGEST))))] = draw.choice(
            (0, 1, draw.randrange(256))
        )


def _number(draw: random.Random, octets: bytearray, frame: Frame, _: Sequence[Frame]) -> None:
    at, size = draw.choice(frame.fields or ((0, 1),))
    old = int.from_bytes(octets[at : at + size], "little")
    power = 1 << draw.randrange(8 * size)
    new = draw.choice((*ODD, old + 1, old - 1, old * 2, power, power - 1, power + 1, -power))
    octets[at : at + size] = (new % 256**size).to_bytes(size, "little")


def _cut(draw: random.Random, octets: bytearray, *_: Any) -> None:
    at = draw.randrange(len(octets) + 1)
    del octets[at : draw.choice((at + 1, at + 64, LONGEST))]


def _grow(draw: random.Random, octets: bytearray, *_: Any) -> None:
    at, size = draw.choice((len(octets), draw.randrange(len(octets) + 1))), draw.choice((1, 2, 8, 64))
    octets[at:at] = draw.choice((bytes(size), draw.randbytes(size), octets[at : at + size]))


def _splice(draw: random.Random, octets: bytearray, _: Frame, others: Sequence[Frame]) -> None:
    other = draw.choice(others).octets
    at = draw.randrange(len(octets) + 1)
    octets[at:] = other[draw.choice((at, draw.randrange(len(other) + 1))) :]


#: Most errors hide behind the numbers of a header.
EDITS: Final = (_number, _number, _number, _flip, _flip, _cut, _grow, _splice)


def _seal(draw: random.Random, octets: bytearray) -> None:
    """Make a version 2 frame's checksum right, or take it away: behind a wrong one nothing else is checked."""
    how = draw.randrange(3)
    if octets[:4] == MAGIC and len(octets) >= 64 and how:
        octets[9] = how - 1
        total = rules.checksum_of(bytes(octets[:56]), checksum(memoryview(bytes(octets[64:])))) if octets[9] else 0
        octets[56:64] = total.to_bytes(8, "little")


def mutants(found: Sequence[Frame], draw: random.Random) -> Iterator[Frame]:
    """Damage frames, for ever; of each, those readings come in question that see most of its numbers."""
    most: dict[bytes, int] = {}
    for it in found:
        most[it.octets] = max(most.get(it.octets, 0), len(it.fields))
    read = [it for it in found if len(it.fields) == most[it.octets]]
    while True:
        frame = draw.choice(read)
        octets = bytearray(frame.octets)
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            draw.choice(EDITS)(draw, octets, frame, read)
        _seal(draw, octets)
        dialect, version = frame.dialect, frame.version
        if draw.random() < 0.1:
            dialect, version = draw.randrange(-1, 5), draw.randrange(-1, 4)
        yield Frame(bytes(octets[:LONGEST]), dialect, version)


def _limit_memory() -> None:
    """Let the process have `MEMORY` more than now: who believes the size in a header gets none."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + MEMORY,) * 2)


def work(decode: Decode, state: State, seconds: float, seed: int) -> NoReturn:
    """Read the seeds, and damaged ones until the time is over; exit with `DONE`, or with `DISAGREE` at once."""
    found = seeds()
    if not found:
        sys.exit("there are no frames in tests/golden and tests/corpus")
    _limit_memory()
    frames = itertools.chain(found, mutants(found, random.Random(seed)))
    begin = time.monotonic()
    while state.count < len(found) or time.monotonic() - begin < seconds:
        frame = next(frames)
        _compare(decode, state.put(frame), frame)
    print(f"{state.count:,} frames, {state.count / (time.monotonic() - begin):,.0f} a second")
    sys.exit(DONE)


def _compare(decode: Decode, octets: np.ndarray, frame: Frame) -> None:
    native = answer(decode, octets, frame.dialect, frame.version, HANDLES)
    expected = answer(wire.decode_nodes, octets, frame.dialect, frame.version, LIVE)
    same = str(native) == expected if isinstance(expected, str) else np.array_equal(native, expected)
    _require(same, native, expected)
    if frame.version in {0, 2} and 0 <= frame.dialect < len(DIALECTS):
        _compare_view(octets, expected)


def _compare_view(octets: np.ndarray, expected: np.ndarray | str) -> None:
    """The core reads some frames itself, all of version 2."""
    view = _core.view_frame(octets)
    if view is not None:
        value = expected if isinstance(expected, str) else wire.build(expected, octets)
        same = isinstance(value, np.ndarray) and (view.shape, view.dtype) == (value.shape, value.dtype)
        _require(same and view.tobytes() == value.tobytes(), view, value)


def _require(same: Any, native: Any, expected: Any) -> None:
    if not same:
        print(f"native:    {native}\nreference: {expected}", flush=True)
        sys.exit(DISAGREE)


def watch(command: Sequence[str], state: State, corpus: Path = CORPUS, patience_s: float = PATIENCE_S) -> str:
    """Run a worker to its end and return what it has to say.

    Raises
    ------
    Finding
        It crashed, hung, or disagreed with the reference. The frame is in the corpus.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    seen, since, why = -1, 0.0, ""
    while True:
        try:
            output, _ = process.communicate(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            if state.count != seen:
                seen, since = state.count, time.monotonic()
            elif time.monotonic() - since > patience_s:
                why = f"no answer within {patience_s:g} s"
                process.kill()
    if process.returncode == DONE:
        return output
    why = why or ("the codecs disagree" if process.returncode == DISAGREE else f"exit status {process.returncode}")
    if not state.count:
        raise Finding(f"{why}, before the first frame\n{output}")
    frame = state.last
    corpus.mkdir(exist_ok=True)
    path = corpus / f"{hashlib.sha256(frame.octets).hexdigest()[:16]}.bin"
    path.write_bytes(frame.octets)
    raise Finding(f"{why}: {path} as dialect {frame.dialect}, version {frame.version}\n{output}")


def main() -> int:
    """Fuzz each language in turn; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description="Fuzz the wire protocol's codecs, FUZZ_SECONDS (60) each.")
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help="all unless given")
    parser.add_argument("--seed", type=int, metavar="N", help="drawn and printed unless given")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    if given.worker:
        backend = Lab(given.languages, lane="direct").backends[given.languages[0]]
        work(backend.decode, State(given.worker), seconds, seed)
    failed = 0
    for language in given.languages or backends.names():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state")
            command = [sys.executable, __file__, language, "--seed", str(seed), "--worker", str(path)]
            try:
                words = watch(command, State(path))
            except Finding as finding:
                failed, words = 1, str(finding)
        print(f"{language}, seed {seed}: {words.strip()}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
