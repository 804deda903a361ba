"""Buffers of devices in transfers and frames, and their benchmark, against a stand-in for the driver."""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import standin
import xxhash

from nif_lab import errors, wire
from nif_lab.lab import Lab

SEED = int(os.environ.get("NIF_LAB_SEED", random.randrange(1 << 32)))
LANGUAGES = ("rust", "zig", "nim", "julia")
MIB = 1 << 20


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in standin.environment(tmp_path_factory.mktemp("cache"), devices=2).items():
            patch.setenv(name, value)
        yield Lab()


def test_frames_carry_numbers_of_live_buffers(lab: Lab) -> None:
    flat = lab.memory.to_device(np.arange(6.0), ["rust"])
    image = lab.memory.to_device(np.arange(24, dtype="u1").reshape(2, 4, 3), ["zig"], device="gpu:1")
    for dialect, version, by in itertools.product(("rust", "julia"), (1, 2), ("python", "rust", "zig", "nim")):
        chosen = {"dialect": dialect, "by": by}
        read = lab.wire.decode(lab.wire.encode(flat, version=version, **chosen), version=version, **chosen)
        assert read == wire.GpuBuffer(flat.number, 48, 0)
        assert lab.memory.devices.find(read.handle) is flat
        frame = lab.wire.encode(image, version=version, **chosen)
        assert lab.wire.decode(frame, version=version, **chosen) == wire.GpuTexture(image.number, 2, 4, 3, "uint8", 1)
        for live, code in (([], "HANDLE"), ([(image.number & 0xFFFF_FFFF, 1, 24, 1)], "STALE")):
            with pytest.raises(wire.WireError) as caught:
                lab.wire.decode(frame, version=version, live=live, **chosen)
            assert caught.value.code == code
    fill = wire.KernelDescriptor("gpu_fill", (1, 1, 1), (1, 1, 1), {"to": flat, "value": 2.5})
    lab.wire.launch(lab.wire.encode(fill), "zig")
    assert (flat.numpy() == 2.5).all()
    gone, never = lab.wire.encode(flat), lab.wire.encode(wire.GpuBuffer(12345 << 32 | 7, 48))
    too_long = lab.wire.encode(wire.GpuBuffer(image.number, 25, 1))
    flat.close()
    for frame, code in ((gone, "STALE"), (never, "HANDLE"), (too_long, "HANDLE")):
        for by in ("python", "rust"):
            with pytest.raises(wire.WireError) as caught:
                lab.wire.decode(frame, by=by)
            assert caught.value.code == code
    with pytest.raises(errors.HandleError, match="was released"):
        lab.memory.devices.find(int.from_bytes(bytes(gone[64:72]), "little"))


def test_transfers_between_all_pairs_leave_it_where_it_lies(lab: Lab) -> None:
    x = np.random.default_rng(SEED).random(4097)
    buffer = lab.memory.to_device(x, ["python"])
    before = lab.memory.core.copy_count
    for source, target in itertools.permutations(LANGUAGES, 2):
        for mode, lane in (("auto", "direct"), ("wire", "direct"), ("auto", "isolated")):
            done = lab.transfer(source, target, buffer, mode, lane=lane)
            assert done.value is buffer
            assert (done.verified, done.target_checksum) == (True, xxhash.xxh3_64_intdigest(x.tobytes()))
            assert (done.copied, done.mode) == (False, "wire" if mode == "wire" else "shared")
    assert lab.memory.core.copy_count == before
    framed = lab.transfer("zig", "nim", buffer, "wire", lane="isolated")
    assert framed.verified
    assert all(it.bytes < 200 for it in framed.copies), "the frame alone is copied to a worker"
    assert buffer.owners == {"python": 1}
    with pytest.raises(errors.ArgumentValueError, match="can't be put into a file"):
        lab.transfer("rust", "zig", buffer, "mmap")


@pytest.mark.slow
def test_the_benchmark_has_the_agreed_shape(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from nif_lab.bench import gpu

    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(gpu, "CALLS", dict.fromkeys(gpu.CALLS, 2))
    for sizes in ("COPIES", "HOST_COPIES"):
        monkeypatch.setattr(gpu, sizes, {"1 MiB": MIB})
    monkeypatch.setattr(gpu, "SIZES", {"4 KiB": 4096})
    result = gpu.compare(2, SEED, ["rust", "zig"])
    assert "CuPy" in result["unavailable"]
    shown = dict(gpu.tables(result))
    assert {"start of a kernel without arguments", "a block of 4 KiB and its release"} <= set(shown)
    assert [row[0] for row in shown["device to device, 1 MiB"]] == ["device to device, 1 MiB", "rust.gpu_copy"]
    assert all(low > 0 for group in result["groups"].values() for row in group.values() for low, *_ in row.values())
