"""What a page is told of a Lab: each number, and nothing when nothing is new; and pictures of it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from processes import wait_for

from nif_lab import Lab
from nif_lab.bench.jupyter import Update
from nif_lab.errors import NifError, kind_name
from nif_lab.live.feed import CALLS_SENT, SAMPLES_SENT, Feed
from nif_lab.live.renderer import Renderer
from nif_lab.memory import MemoryMetrics
from nif_lab.segment import attach

pytestmark = pytest.mark.slow

BUSY = "end = time.time() + {}\nwhile time.time() < end: lab.rust.dot(x, x)"
MAKE = "import nif_lab, numpy as np, os, time; lab = nif_lab.Lab(['rust']); x = np.ones(100)"


class Page:
    """What a client has put together from the updates of a feed."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.history = np.empty((0, 6))
        self.memory = np.empty((0, 3))
        self.head: dict[str, Any] = {}
        self.next = self.lost = 0

    def take(self, message: bytes | None) -> Page:
        if message is None:
            return self
        it = Update(message)
        assert it.head["kind"] == "update"
        self.head, self.names = it.head, it.head.get("names", self.names)
        values = np.frombuffer(it.rest, "<f8")
        tables = it.head["tables"]
        calls, samples = tables["history"]["rows"], tables["memory"]["rows"]
        assert len(values) == calls * 6 + samples * 3
        self.lost += tables["history"]["first"] - self.next
        self.next = tables["history"]["first"] + calls
        rows = np.concatenate([self.history, values[: calls * 6].reshape(6, calls).T])
        self.history = rows[np.argsort(rows[:, 0], kind="stable")][-CALLS_SENT:]
        self.memory = np.concatenate([self.memory, values[calls * 6 :].reshape(3, samples).T])
        return self

    def calls(self) -> list[tuple[Any, ...]]:
        backends = [it["name"] for it in self.head["backends"]]
        return [
            (start, backends[int(b)], self.names[int(f)], ns, kind_name(int(status)), int(cell))
            for start, ns, b, f, status, cell in self.history
        ]


def history(lab: Lab) -> list[tuple[Any, ...]]:
    names = ("time", "backend", "function", "duration_ns", "status", "cell")
    return [tuple(it[name] for name in names) for it in lab.history(CALLS_SENT).records]


def same_calls(page: Page, lab: Lab) -> bool:
    """The clock's rate is known better from look to look, so that times differ by some billionths."""
    mine, theirs = page.calls(), history(lab)
    words = [[(it[1], it[2], *it[4:]) for it in calls] for calls in (mine, theirs)]
    times = [[(it[0] - theirs[0][0], it[3]) for it in calls] for calls in (mine, theirs)]
    return words[0] == words[1] and np.allclose(*times, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def own() -> Lab:
    """A Lab whose calls are this module's alone."""
    return Lab(["rust", "zig"])


def fail(lab: Lab) -> None:
    with pytest.raises(NifError):
        lab.zig.dot(np.ones(3), np.ones(4))


# The feed


def test_each_number_is_the_labs() -> None:
    lab = Lab(["rust", "zig"])
    x = np.ones(100)
    for _ in range(300):
        lab.rust.dot(x, x)
    lab.zig.sum(x)
    fail(lab)
    kept = lab.empty((1000, 1000)) if hasattr(lab, "empty") else lab.memory.empty((1000, 1000))
    wait_for(lambda: len(lab.telemetry.segment.samples()))
    page, now = Page(), lab.snapshot()
    head = page.take(Feed(lab.telemetry.segment).update()).head
    assert (head["number"], head["pid"], head["enabled"], head["cell"]) == (1, os.getpid(), True, 0)
    assert abs(head["time"] - time.time()) < 5
    assert [it["name"] for it in head["backends"]] == ["rust", "zig"]
    for it in head["backends"]:
        theirs = now.backend(it["name"])
        rest = {key: value for key, value in it.items() if key not in {"name", "calls_per_s", "recent_p99_ns"}}
        assert rest == pytest.approx({key: getattr(theirs, key) for key in rest})
        assert it["calls_per_s"] == it["recent_p99_ns"] == 0  # nothing to compare with yet
    assert [(it["backend"], it["function"], it["calls"]) for it in head["functions"]][:1] == [("rust", "dot", 300)]
    for it in head["functions"]:
        theirs = now.function(it["backend"], it["function"], it["lane"])
        assert (it["calls"], it["errors"]) == (theirs.calls, theirs.errors)
        assert it["mean_ns"] == pytest.approx(theirs.mean_ns)
    (error,) = head["errors"]
    assert (error["backend"], error["function"], error["kind"], error["argument"]) == ("zig", "dot", "NifValueError", 1)
    assert error["message"].startswith("expected f64[n] with n = 3")
    assert error["step"] == ""
    assert same_calls(page, lab)
    assert page.lost == 0
    metrics = lab.memory.metrics()
    assert isinstance(metrics, MemoryMetrics)
    memory = head["memory"]
    assert (memory["bytes"], memory["blocks"], memory["pressure"]) == (kept.nbytes, 1, "normal")
    assert (memory["peak"], memory["committed"]) == (metrics.peak, sum(it.committed for it in metrics.pools))
    assert page.memory[-1, 1] == kept.nbytes


def test_collections_are_told(own: Lab) -> None:
    before = Page().take(Feed(own.telemetry.segment).update()).head["memory"]["collections"]
    own.memory.collect()
    wait_for(lambda: Page().take(Feed(own.telemetry.segment).update()).head["memory"]["collections"] > before)


def test_nothing_new_makes_no_update(own: Lab) -> None:
    feed = Feed(own.telemetry.segment)
    x = np.ones(10)
    own.rust.dot(x, x)
    first = Page().take(feed.update())
    assert feed.update() is None
    own.rust.dot(x, x)
    second = Page().take(feed.update())
    assert second.head["number"] == first.head["number"] + 1
    assert second.head["backends"][0]["calls"] == first.head["backends"][0]["calls"] + 1
    assert "names" not in second.head
    assert second.head["backends"][0]["calls_per_s"] > 0
    assert len(second.history) == second.head["tables"]["history"]["rows"] <= 1
    # Whoever has stopped is shown to have stopped, once.
    told = wait_for(lambda: time.sleep(0.1) or feed.update())
    assert Page().take(told).head["backends"][0]["calls_per_s"] == 0
    time.sleep(0.3)
    assert feed.update() is None
    assert feed.update(force=True) is not None
    own.telemetry.enabled = False
    assert Page().take(feed.update()).head["enabled"] is False
    own.telemetry.enabled = True


CALLS = {
    "rust.dot": lambda lab: lab.rust.dot(np.ones(5), np.ones(5)),
    "zig.sum": lambda lab: lab.zig.sum(np.ones(5)),
    "error": fail,
    "many": lambda lab: [lab.rust.smooth(np.ones((9, 9)), 1) for _ in range(400)],
    "step": lambda lab: lab.telemetry.recorder("step")(0.001),
}


@settings(max_examples=30)
@given(st.lists(st.one_of(st.sampled_from(sorted(CALLS)), st.just("look")), max_size=40), st.randoms())
def test_a_page_has_the_last_calls_whatever_they_are(what: list[str], random: Any) -> None:
    """Looked at seldom or often, through one feed or a new one for each connection."""
    lab, page = the_lab(), Page()
    feed = Feed(lab.telemetry.segment)
    for it in what:
        if it != "look":
            CALLS[it](lab)
        elif random.random() < 0.2:
            feed, page = Feed(lab.telemetry.segment), Page()
        else:
            page.take(feed.update())
    page.take(feed.update(force=True))
    assert same_calls(page, lab), what


_LABS: list[Lab] = []


def the_lab() -> Lab:
    if not _LABS:
        _LABS.append(Lab(["rust", "zig"]))
    return _LABS[0]


def test_a_gap_is_told(own: Lab) -> None:
    feed, page = Feed(own.telemetry.segment), Page()
    page.take(feed.update())
    lost = page.lost  # of before this page
    for _ in range(3000):
        fail(own)  # each is recorded
    page.take(feed.update())
    assert page.lost - lost == 2000
    assert same_calls(page, own)


def test_memory_is_thinned_and_keeps_its_peaks(own: Lab) -> None:
    feed = Feed(own.telemetry.segment)
    records = np.zeros(5000, own.telemetry.segment.samples().dtype)
    records["commit"] = np.arange(1, 5001)
    records["bytes"] = 10
    records["bytes"][2345] = 1000
    columns = feed._memory(records)
    assert len(columns[1]) == SAMPLES_SENT
    assert columns[1].max() == 1000
    assert columns[1].min() == 10


@contextmanager
def another_process(code: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout
        try:
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


@pytest.mark.serial
def test_another_process_is_watched_while_it_is_busy() -> None:
    code = f"{MAKE}; print('ready', flush=True)\n{BUSY.format(20)}"
    with another_process(code) as child:
        feed, page, updates = Feed(attach(child.pid)[-1]), Page(), 0
        page.take(feed.update())
        for _ in range(20):
            time.sleep(0.05)
            message = feed.update()
            updates += message is not None
            page.take(message)
        assert updates == 20
        assert page.head["pid"] == child.pid
        assert page.head["backends"][0]["calls_per_s"] > 1000
        assert (np.diff(page.history[:, 0]) >= 0).all()
        assert set(page.history[:, 3]) == {page.names.index("dot")}


@pytest.mark.serial
def test_an_update_is_cheap(own: Lab) -> None:
    feed, x, times = Feed(own.telemetry.segment), np.ones(10), []
    feed.update()
    for _ in range(100):
        for _ in range(50):
            own.rust.dot(x, x)
        start = time.thread_time()
        assert feed.update()
        times.append(time.thread_time() - start)
    assert np.median(times) < 2e-3  # 0.4 ms on the machine of docs/live.md


# The renderer


def picture_of(message: bytes) -> tuple[dict[str, Any], Image.Image]:
    it = Update(message)
    image = Image.open(io.BytesIO(it.rest))
    assert image.size == (it.head["width"], it.head["height"])
    assert image.get_format_mimetype() == it.head["mime"]
    return it.head, image


def test_pictures_are_jpeg_while_things_change_and_then_one_png(own: Lab) -> None:
    lab_ticks = int(own.telemetry.segment.header["base_ticks"])
    renderer = Renderer(os.getpid(), lab_ticks, "dark", 640, 1.5)
    process = renderer._process
    try:
        x, kinds, figures, end = np.ones(10), [], set(), time.monotonic() + 15
        while time.monotonic() < end and kinds.count("image/jpeg") < 3:
            own.rust.dot(x, x)
            if (message := renderer.frame()) is not None:
                head, image = picture_of(message)
                kinds.append(head["mime"])
                figures.add(head["figures"])
            time.sleep(0.05)
        assert kinds.count("image/jpeg") >= 3
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
        frames: list[bytes] = []
        wait_for(lambda: frames.append(it) if (it := renderer.frame()) and b"image/png" in it[:200] else frames)
        head, image = picture_of(frames[0])
        assert (head["kind"], head["theme"], image.width) == ("picture", "dark", 960)
        # A page that comes later is told that the last picture shows what it is told: it isn't old.
        page = Page().take(Feed(own.telemetry.segment).update())
        assert page.head["figures"] == head["figures"]
        assert len(figures) > 1
        assert image.getpixel((2, image.height - 2)) == (0x11, 0x11, 0x11)  # the page's own colour
        # A second after the last call its rate is zero, which is a change; after that nothing comes.
        time.sleep(2.0)
        renderer.frame()
        time.sleep(1.0)
        assert renderer.frame() is None
    finally:
        renderer.close()
    assert process.poll() is not None
    with pytest.raises((EOFError, OSError, ValueError)):
        renderer.frame()


def test_a_renderer_ends_with_whoever_started_it() -> None:
    code = (
        f"{MAKE}; from nif_lab.live.renderer import Renderer\n"
        "it = Renderer(os.getpid(), int(lab.telemetry.segment.header['base_ticks']), 'light', 400, 1)\n"
        "while it.frame() is None: time.sleep(0.05)\n"
        "print(it._process.pid, flush=True)\nos._exit(1)"
    )
    answer = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=60)
    folder = Path(f"/proc/{int(answer.stdout)}")
    wait_for(lambda: not folder.exists() or "\nState:\tZ" in (folder / "status").read_text())


def test_the_grid_writes_what_matplotlib_writes(own: Lab) -> None:
    """Letter by letter: a number lies within two pixels of the same number drawn by matplotlib."""
    from nif_lab.live.grid import Grid, _Letters
    from nif_lab.panels.canvas import Canvas

    grid = Grid("light", 400, 2.0)
    update = Page().take(Feed(own.telemetry.segment).update()).head
    assert grid.draw(update).shape[1] == 800
    letters = _Letters(11, False, 2.0)
    text = "12,345.6 ns / 78 us"
    canvas = Canvas(300, 30, grid.theme, 2.0)
    canvas.text(0, 20, text, size=11)
    ink = np.flatnonzero(canvas.pixels()[..., 3].max(axis=0) > 40)
    assert abs(sum(map(letters.advance, text)) - ink[-1]) <= 3
