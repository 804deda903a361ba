"""Input from other processes and from strangers' files: one clear answer, soon, and nothing waits or grows."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
import tracemalloc
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nif_lab import Lab, cli, monitor, segment
from nif_lab.errors import AbiError
from nif_lab.live.feed import Feed
from nif_lab.loading import library_file
from nif_lab.segment import ENTRY, ERROR, HEADER, Segment, SegmentError, attach, sensible
from nif_lab.telemetry import snapshot_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def lab() -> Lab:
    lab = Lab(["rust"])
    x = np.ones(10)
    for _ in range(100):
        lab.rust.dot(x, x)
    with pytest.raises(ValueError, match="expected"):
        lab.rust.dot(x, x[:3])
    return lab


class Forged:
    """A copy of a Lab's segment in which some words are others."""

    def __init__(self, lab: Lab) -> None:
        self.size = os.fstat(lab.telemetry.core.fileno()).st_size
        self.descriptor = os.memfd_create("nif_lab telemetry", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.write(self.descriptor, os.pread(lab.telemetry.core.fileno(), self.size, 0))
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)

    def close(self) -> None:
        os.close(self.descriptor)

    def put(self, field: str, value: float, place: int = 0) -> None:
        kind, at = HEADER.fields[field][:2]
        data = np.full(1, value, kind.base).tobytes()
        os.pwrite(self.descriptor, data, at + place * kind.base.itemsize)


@pytest.fixture
def forged(lab: Lab) -> Iterator[Forged]:
    with closing(Forged(lab)) as forged:
        yield forged


@pytest.mark.parametrize(("field", "value", "place"), [
    ("max_backends", 60_000, 0), ("max_backends", 2**32 - 1, 0), ("max_functions", 900_000, 0),
    ("max_shards", 2**32 - 1, 0),
    *(("at", value, place) for place in range(7) for value in (2**64 - 1, 2**40, 2**63, 13)),
])  # fmt: skip
def test_a_segment_whose_parts_dont_fit_is_refused_when_it_is_opened(
    forged: Forged, field: str, value: int, place: int
) -> None:
    forged.put(field, value, place)
    with pytest.raises(SegmentError, match="what can't be"):
        Segment(forged.descriptor)


def test_what_a_segment_says_later_costs_no_more(forged: Forged) -> None:
    """Numbers that are written after it was opened: more backends and functions than there is room for."""
    opened = Segment(forged.descriptor)
    feed = Feed(opened)
    for field in ("n_backends", "n_functions"):
        forged.put(field, 2**32 - 1)
    forged.put("heads", 2**62, 0)
    assert len(opened.backends()) == opened.max_backends
    assert len(opened.functions()) == opened.max_functions
    start = time.perf_counter()
    for _ in range(3):
        forged.put("peak", time.time_ns() % 2**60)
        feed.update()
    assert (time.perf_counter() - start) / 3 < 1


@pytest.mark.parametrize("ns", [float("nan"), float("inf"), 0.0, -1.0, 1e30])
def test_a_clock_that_cant_be_is_an_error_and_no_figure(forged: Forged, ns: float) -> None:
    opened = Segment(forged.descriptor)
    forged.put("ns_per_tick", ns)
    with pytest.raises(SegmentError, match="a tick of"):
        sensible(lambda: snapshot_of(opened))
    with pytest.raises(SegmentError):
        Feed(opened).update()


def test_numbers_without_a_word_are_shown_as_they_are(lab: Lab, forged: Forged) -> None:
    opened = Segment(forged.descriptor)
    at = int(opened.header["at"][6])
    for field, value in (("kind", 99), ("step", 77), ("outcome", 88)):
        kind, offset = ERROR.fields[field][:2]
        os.pwrite(forged.descriptor, value.to_bytes(kind.itemsize, "little"), at + offset)
    (told,) = opened.describe_errors(opened.errors()[:1])
    assert (told["kind"], told["step"], told["outcome"]) == ("unknown (99)", "unknown (77)", "unknown (88)")
    at = int(opened.header["at"][1]) + ENTRY.fields["lane"][1]
    for row in range(len(opened.functions())):
        os.pwrite(forged.descriptor, b"\7\0", at + row * ENTRY.itemsize)
    assert {it.lane for it in snapshot_of(opened)} == {"unknown (7)"}
    assert opened.describe_errors(lab.telemetry.segment.errors()[:1])[0]["kind"] == "NifValueError"
    assert lab.history().records["status"][-1] == "NifValueError"


@pytest.mark.parametrize("kind", ["fifo", "file", "device"])
def test_a_file_that_is_named_like_a_segment_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A process can mount what it likes over its root: a FIFO of that name would be waited for, by the server."""
    path = tmp_path / "memfd:nif_lab telemetry"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "file":
        path.write_bytes(bytes(1 << 20))
    else:
        path.symlink_to("/dev/zero")
    monkeypatch.setattr(segment, "NAME", str(path.resolve()))
    mine = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        start = time.perf_counter()
        with pytest.raises(SegmentError, match="has no Lab"):
            attach(os.getpid())
        assert time.perf_counter() - start < 5
    finally:
        os.close(mine)


def test_a_process_with_one_broken_segment_shows_the_others(lab: Lab, forged: Forged) -> None:
    forged.put("max_backends", 60_000)
    mine = int(lab.telemetry.segment.header["base_ticks"])
    assert mine in [int(it.header["base_ticks"]) for it in attach(os.getpid())]


@pytest.mark.parametrize("json_", [True, False])
def test_the_monitor_says_in_a_line_that_a_segment_makes_no_sense(
    forged: Forged, capsys: pytest.CaptureFixture[str], json_: bool
) -> None:
    forged.put("ns_per_tick", float("nan"))
    assert monitor.run(os.getpid(), interval=0.05, once=True, json_=json_) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("nif-lab monitor: the segment says of itself what can't be: a tick of nan ns")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("path", ["fifo", "/dev/zero", "/dev/null", ".", "missing", "/proc/self/mem", "large", "n\0l"])
def test_inspect_reads_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with open("large", "wb") as file:
        file.truncate(1 << 40)
    assert cli.main(["inspect", path]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    if path != "/proc/self/mem":  # it says that it is empty, and so is the frame
        assert said.err.count("\n") == 1
        assert said.err.startswith(f"nif-lab inspect: {path}")


def test_inspect_goes_on_showing_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nif_lab import wire

    (tmp_path / "frame").write_bytes(wire.encode(np.arange(3.0)))
    assert cli.main(["inspect", "--json", str(tmp_path / "frame")]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]


def elf(path: Path, symbols: int, name: bytes, tables: int = 1) -> Path:
    """Write a shared library of nothing but a table of symbols, all of one name."""
    head = bytearray(64)
    head[:6] = b"\x7fELF\x02\x01"
    texts, table = 64, 64 + len(name) + 8
    struct.pack_into("<Q", head, 40, table + 24 * symbols)
    struct.pack_into("<HH", head, 58, 64, 1 + tables)
    sections = struct.pack("<4xI16xQQI20x", 3, texts, len(name), 0)
    sections += tables * struct.pack("<4xI16xQQI20x", 11, table, 24 * symbols, 0)
    path.write_bytes(bytes(head) + name + bytes(8) + struct.pack("<I2xH16x", 0, 1) * symbols + sections)
    return path


@pytest.mark.parametrize(("symbols", "name", "tables"), [
    (40_000, b"a" * 1_000_000, 1), (40_000, b"__tvm_ffi_" + b"a" * 1_000_000, 1), (20_000, b"__tvm_ffi_x", 60_000),
])  # fmt: skip
def test_a_library_costs_no_more_than_its_length(tmp_path: Path, symbols: int, name: bytes, tables: int) -> None:
    file = elf(tmp_path / "libevil.so", symbols, name, tables)
    tracemalloc.start()
    try:
        start = time.perf_counter()
        with suppress(AbiError):
            library_file(file)
        seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6
    assert seconds < 20


def test_a_whole_library_is_known_by_its_symbols(tmp_path: Path) -> None:
    assert type(library_file(elf(tmp_path / "liba.so", 3, b"nif_init"))).__name__ == "LibraryFile"
    found = library_file(elf(tmp_path / "libb.so", 3, b"__tvm_ffi_double"))
    assert found._functions == ["double"]  # type: ignore[attr-defined]
    with pytest.raises(AbiError, match="neither a NIF library"):
        library_file(elf(tmp_path / "libc.so", 3, b"nif_init_not"))
