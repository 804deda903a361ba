"""Mapped files: access, what is reserved, what is refused."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nif_lab import Lab, _core
from nif_lab.errors import (
    AccessError,
    BufferReleased,
    MappingError,
    NifValueError,
)
from nif_lab.memory import MemoryManager


@pytest.fixture
def memory() -> MemoryManager:
    return MemoryManager()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "data.bin"  # type: ignore[return-value]


def test_a_temporary_file_is_memory_that_goes(memory: MemoryManager) -> None:
    with memory.map_file(size=8000, dtype="f8") as file:
        array = np.asarray(file)
        array[:] = 1
        assert (file.path, file.nbytes, array.shape) == (None, 8000, (1000,))
        assert _core.in_shared_memory(array.ctypes.data, array.nbytes)
    assert array.sum() == 1000, "a view keeps it"
    with pytest.raises(BufferReleased, match="closed"):
        np.asarray(file)


def test_a_named_file_keeps_what_was_written(memory: MemoryManager, path: Path) -> None:
    with memory.map_file(path, dtype="f4", shape=(10, 20)) as file:
        np.asarray(file)[:] = np.arange(200).reshape(10, 20)
        file.flush()
    assert path.stat().st_mode & 0o777 == 0o600
    assert np.fromfile(path, "f4").tolist() == list(range(200))
    with memory.map_file(path, access="read_only", dtype="f4") as file:
        assert np.asarray(file).tolist() == list(range(200))
    with memory.map_file(path, size=400, access="read_only", dtype="f4") as file:
        assert len(np.asarray(file)) == 100


def test_a_read_only_file_cannot_be_written_by_anybody(lab: Lab, backend, path: Path) -> None:
    path.write_bytes(bytes(80))
    file = lab.memory.map_file(path, access="read_only", dtype="f8")
    array = np.asarray(file)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)
    with pytest.raises(AccessError, match="map it read_write"):
        file.write(b"x")
    with pytest.raises(NifValueError, match="is read-only"):
        backend.axpy(1.0, np.ones(10), file)
    with pytest.raises(NifValueError, match="is read-only"):
        backend.axpy(1.0, np.ones(10), array)
    assert backend.sum(file) == 0


def test_a_write_only_file_cannot_be_read_by_anybody(lab: Lab, backend, path: Path) -> None:
    file = lab.memory.map_file(path, 80, access="write_only", dtype="f8")
    for read in (lambda: np.asarray(file), lambda: file.array):
        with pytest.raises(AccessError, match="write_only"):
            read()
    with pytest.raises(NifValueError, match="is write-only"):
        backend.sum(file)
    file.write(np.arange(10.0))
    file.write(b"\0" * 8, offset=72)
    with pytest.raises(ValueError, match="don't fit"):
        file.write(b"12", offset=79)
    file.close()
    assert np.fromfile(path).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]


@pytest.mark.parametrize(
    ("name", "make", "options", "says"),
    [
        ("missing/x", None, {"size": 10}, "check the path"),
        ("missing", None, {"access": "read_only"}, "missing"),
        ("link", lambda p: p.symlink_to("/etc/passwd"), {"access": "read_only"}, "link"),
        ("folder", lambda p: p.mkdir(), {"access": "read_only"}, "ordinary file"),
        ("fifo", os.mkfifo, {"access": "read_only", "size": 10}, "ordinary file"),
        ("short", lambda p: p.write_bytes(b"12"), {"access": "read_only", "size": 10}, "2"),
    ],
)
def test_files_that_cannot_be_mapped(
    memory: MemoryManager,
    tmp_path: Path,
    name: str,
    make: Callable[[Path], object] | None,
    options: dict[str, object],
    says: str,
) -> None:
    path = tmp_path / name
    if make:
        make(path)
    with pytest.raises((MappingError, FileNotFoundError), match=says):
        memory.map_file(path, **options)  # type: ignore[arg-type]


def test_a_full_disk_is_an_error_at_once(memory: MemoryManager, path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(MappingError):
            memory.map_file(path, 2 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists()
    with pytest.raises(MappingError):
        memory.map_file(path, 1 << 60)
    assert not path.exists()


@pytest.mark.parametrize("more", [0, 1])
def test_a_mapping_without_a_descriptor_left_says_so(memory: MemoryManager, path: Path, more: int) -> None:
    """The file needs one, and workers are sent another; whichever is refused, it is the same error."""
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, old[1]))
    try:
        with pytest.raises(MappingError, match="ulimit -n"):
            memory.map_file(path, 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
    assert not path.exists()
    with memory.map_file(path, 4096) as mapped:
        assert mapped.nbytes == 4096
