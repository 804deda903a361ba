"""Shared buffers: owners, views, protocols and handles."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from nif_lab import _core
from nif_lab.errors import (
    BufferReleased,
    HandleError,
    OwnershipError,
)
from nif_lab.memory import MemoryManager, Pool

SMALL = (Pool("small", 4096, 16, 1 << 20), Pool("large", 1 << 20, 4, 8 << 20))


@pytest.fixture
def memory() -> MemoryManager:
    return MemoryManager()


def active(memory: MemoryManager) -> tuple[int, int]:
    """Bytes and blocks in use."""
    gc.collect()
    metrics = memory.metrics()
    return metrics.active, metrics.blocks


def test_a_buffer_is_freed_by_its_last_owner(memory: MemoryManager) -> None:
    buffer = memory.allocate((3, 4), "f4", languages=["rust", "zig"])
    assert (buffer.reference_count, buffer.owners) == (2, {"rust": 1, "zig": 1})
    assert not np.asarray(buffer).any()
    buffer.retain("nim")
    for language in ("rust", "nim"):
        buffer.release(language)
    assert active(memory) == (48, 1)
    assert not buffer.released
    buffer.release("zig")
    assert buffer.released
    assert active(memory) == (0, 0)
    assert repr(buffer) == "<SharedBuffer, released>"


def test_ownership_that_is_not_there_cannot_be_released(memory: MemoryManager) -> None:
    buffer = memory.allocate(5, languages=["rust", "zig"])
    with pytest.raises(OwnershipError, match="nim doesn't own this buffer; its owners are rust, zig"):
        buffer.release("nim")
    buffer.release("rust")
    with pytest.raises(OwnershipError, match="rust has released this buffer before; its owners are zig"):
        buffer.release("rust")
    assert buffer.reference_count == 1
    buffer.release("zig")
    for late in (lambda: buffer.release("zig"), buffer.retain, lambda: np.asarray(buffer), lambda: buffer[0]):
        with pytest.raises(BufferReleased):
            late()
    with pytest.raises(ValueError, match="the name of one language or more"):
        memory.allocate(5, languages=[])


def test_views_outlive_the_release(memory: MemoryManager) -> None:
    with memory.allocate(1000, languages="julia") as buffer:
        view = np.asarray(buffer)
        view[:] = 3
    assert buffer.released
    other = memory.allocate(1000)
    other[:] = 4
    assert (view == 3).all(), "the block isn't used again while a view is there"
    assert active(memory) == (16_000, 2)
    del view, other
    assert active(memory)[0] in (0, 8000)  # the second waits for the collector: nobody released it
    memory.collect()
    assert active(memory) == (0, 0)


def test_every_protocol_gives_the_same_memory(memory: MemoryManager) -> None:
    buffer = memory.from_array(np.arange(12, dtype="i4").reshape(3, 4).T, languages=["zig"])
    views = (np.asarray(buffer), np.asarray(memoryview(buffer)), np.from_dlpack(buffer), buffer.array)
    for view in views:
        assert view.ctypes.data == buffer.address
        assert np.array_equal(view, np.arange(12).reshape(3, 4).T)
    buffer[0, 0] = 77
    assert all(view[0, 0] == 77 for view in views)
    assert buffer.__dlpack_device__() == (1, 0)
    assert (buffer.shape, buffer.dtype, len(buffer), buffer.nbytes) == ((4, 3), np.dtype("i4"), 4, 48)
    assert np.array(buffer, dtype="f8", copy=True).dtype == np.float64


def test_from_array_copies_once_and_takes_any_layout(memory: MemoryManager) -> None:
    source = np.arange(24.0).reshape(2, 3, 4)
    for value in (source, source[::-1, :, ::2], source.T, source.astype(">f8"), [1, 2, 3], 5.0):
        buffer = memory.from_array(value)
        assert np.array_equal(np.asarray(buffer), np.asarray(value))
        assert np.asarray(buffer).flags.c_contiguous


def test_handles_lead_to_live_blocks_only(memory: MemoryManager) -> None:
    buffers = [memory.allocate(n) for n in (1, 500, 600, 200_000)]
    for buffer in buffers:
        assert memory.resolve(buffer.handle) == (buffer.address, buffer.nbytes)
        for bit in range(128):
            segment, generation, offset = buffer.handle
            damaged = (segment | generation << 32 | offset << 64) ^ 1 << bit
            with pytest.raises(HandleError):
                memory.resolve((damaged & 0xFFFFFFFF, damaged >> 32 & 0xFFFFFFFF, damaged >> 64))
        with pytest.raises(HandleError):
            MemoryManager().resolve(buffer.handle)
    handle = buffers[1].handle
    buffers[1].close()
    with pytest.raises(HandleError, match="was released"):
        memory.resolve(handle)
    again = memory.allocate(500)
    assert again.handle[2] == handle[2], "the block is used again"
    with pytest.raises(HandleError, match="was released"):
        memory.resolve(handle)


def test_closing_a_released_buffer_leaves_the_next_one_in_its_place_alone(memory: MemoryManager) -> None:
    first = memory.allocate(100, "u1", ["rust"])
    first.release("rust")
    second = memory.allocate(100, "u1", ["rust"])
    assert second.address == first.address
    first.close()
    del first
    assert memory.metrics().languages["rust"] == (1, 100)


class Ownership(RuleBasedStateMachine):
    """Random owners, views and releases, against a model that counts in Python."""

    buffers: Bundle[object] = Bundle("buffers")
    LANGUAGES = st.sampled_from(["rust", "zig", "nim", "julia"])

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryManager(SMALL)
        self.model: dict[int, tuple[dict[str, int], int]] = {}
        self.views: list[tuple[np.ndarray, int]] = []

    @rule(
        target=buffers,
        size=st.integers(0, 9000),
        owners=st.lists(LANGUAGES, min_size=1, max_size=5),
        mark=st.integers(1, 255),
    )
    def allocate(self, size: int, owners: list[str], mark: int) -> object:
        buffer = self.memory.allocate(size, "u1", owners)
        assert not np.asarray(buffer).any()
        buffer.array[:] = mark
        counts = {name: owners.count(name) for name in owners}
        self.model[id(buffer)] = (counts, mark)
        return buffer

    @rule(buffer=buffers, language=LANGUAGES)
    def retain(self, buffer: object, language: str) -> None:
        counts, _ = self.model[id(buffer)]
        if not sum(counts.values()):
            with pytest.raises(BufferReleased):
                buffer.retain(language)  # type: ignore[attr-defined]
            return
        buffer.retain(language)  # type: ignore[attr-defined]
        counts[language] = counts.get(language, 0) + 1

    @rule(buffer=buffers, language=LANGUAGES)
    def release(self, buffer: object, language: str) -> None:
        counts, _ = self.model[id(buffer)]
        if not sum(counts.values()):
            error: type[Exception] | None = BufferReleased
        else:
            error = None if counts.get(language) else OwnershipError
        if error:
            with pytest.raises(error):
                buffer.release(language)  # type: ignore[attr-defined]
            return
        buffer.release(language)  # type: ignore[attr-defined]
        counts[language] -= 1

    @rule(buffer=buffers)
    def view(self, buffer: object) -> None:
        counts, mark = self.model[id(buffer)]
        if sum(counts.values()):
            self.views.append((np.asarray(buffer), mark))

    @rule(data=st.data())
    def drop_view(self, data: st.DataObject) -> None:
        if self.views:
            self.views.pop(data.draw(st.integers(0, len(self.views) - 1)))

    @rule(buffer=consumes(buffers))
    def close(self, buffer: object) -> None:
        buffer.close()  # type: ignore[attr-defined]
        counts, _ = self.model[id(buffer)]
        counts.clear()

    @rule()
    def trim(self) -> None:
        self.memory.trim()

    @invariant()
    def every_view_has_its_mark(self) -> None:
        assert all((view == mark).all() for view, mark in self.views)

    @invariant()
    def languages_own_what_the_model_says(self) -> None:
        totals: dict[str, int] = {}
        for counts, _ in self.model.values():
            for name, count in counts.items():
                if count:
                    totals[name] = totals.get(name, 0) + 1
        assert {name: count for name, (count, _) in self.memory.metrics().languages.items()} == totals


TestOwnership = Ownership.TestCase
TestOwnership.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_a_buffer_knows_who_owns_it_and_which_line_allocated_it() -> None:
    memory = MemoryManager()
    first, second = memory.allocate(100, "f8", languages=["rust", "zig"]), memory.from_array(np.ones(1000))
    line = sys._getframe().f_lineno - 1
    assert [(it.bytes, it.owners, it.place) for it in memory.buffers()] == [
        (8000, ("python",), f"test_buffers.py, line {line}"),
        (800, ("rust", "zig"), f"test_buffers.py, line {line}"),
    ]
    first.release("zig")
    assert memory.buffers()[1].owners == ("rust",)
    assert f'<td style="text-align:left">test_buffers.py, line {line}</td>' in memory._repr_html_()
    second.release()
    first.release("rust")
    del first, second
    memory.collect()
    assert memory.buffers() == ()


def test_notes_of_buffers_that_are_freed_do_not_pile_up() -> None:
    memory = MemoryManager()
    for _ in range(3000):
        memory.allocate(1).release()
    assert len(memory._places._noted) <= 1024


def test_a_buffer_of_a_notebook_names_its_cell() -> None:
    code = compile("buffer = memory.allocate(10)", "/tmp/ipykernel_7/123.py", "exec")
    telemetry = _core.Telemetry()
    telemetry.cell = 5
    given = {"memory": MemoryManager(telemetry=telemetry), "__name__": "__main__"}
    exec(code, given)
    assert [it.place for it in given["memory"].buffers()] == ["cell 5, line 1"]  # type: ignore[attr-defined]
