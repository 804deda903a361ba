"""A view of a Lab that lives in the browser: the figures come past the kernel where they can, else from it.

docs/live.md describes both paths. Whatever is shown is drawn by the browser; all the kernel has to do here is to send
updates where no server extension does.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anywidget
import traitlets

from ..errors import ToolchainMissing
from ..live.feed import ALIVE, Feed
from ..live.renderer import Renderer
from .style import COLOURS, GRID, MARKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..segment import Segment

__all__ = ["LiveView", "after_cell", "listen_while_busy"]

_FOLDER: Final = Path(__file__).with_name("live")
_PARTS: Final = ("numbers", "hub", "bar", "functions", "trend", "performance", "memory", "errors", "history", "view")

#: What sending may take of the kernel's time, and how often it sends at most while a cell runs.
SHARE, BUSY_HZ = 0.01, 3.0
#: Seconds without another message after which the page is told that its figures are the newest.
BEAT: Final = 1.0
#: So long an idle kernel goes on for a page that has fallen silent, in seconds.
PATIENCE: Final = 30.0


def _module() -> str:
    """Return the views' JavaScript as one ES module, as anywidget wants it."""
    named = {"COLOURS": COLOURS, "MARKS": MARKS, "GRID": GRID}
    styles = (f"const {name} = {json.dumps(value)};\n" for name, value in named.items())
    return "".join((*styles, *((_FOLDER / f"{name}.js").read_text() for name in _PARTS)))


def _kernel_id() -> str:
    """Return the id under which a server knows this kernel, or an empty text."""
    with suppress(Exception):  # not in a kernel, or one of another make
        from ipykernel.connect import get_connection_file

        if found := re.fullmatch(r"kernel-(.+)", Path(get_connection_file()).stem):
            return found[1]
    return ""


class _Cells:
    """Whether a cell runs: then the interpreter's lock is wanted elsewhere."""

    def __init__(self) -> None:
        self.busy, self.ended = False, 0.0
        self._watching = False
        self._later: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Begin to watch; whoever calls this for the first time is a cell."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is not None and not self._watching:
            self._watching = self.busy = True
            shell.events.register("pre_run_cell", self._begin)
            shell.events.register("post_run_cell", self._end)

    def _begin(self, *_: object) -> None:
        self.busy = True

    def _end(self, *_: object) -> None:
        with self._lock:
            self.busy, self.ended = False, time.monotonic()
            later, self._later = self._later, []
        for work in later:
            work()

    def after(self, work: Callable[[], None]) -> None:
        """Run work when the cell that runs has ended, or at once where none runs."""
        self.watch()
        with self._lock:
            if self.busy:
                self._later.append(work)
                return
        work()


_cells: Final = _Cells()


def after_cell(work: Callable[[], None]) -> None:
    """Put work off until what the running cell made is shown; where no cell runs, do it at once.

    The page draws meanwhile, and the next cell finds the work done.
    """
    _cells.after(work)


def listen_while_busy(comm: Any) -> None:
    """Have a page's messages handled while a cell runs, where ipykernel can: 7.4 sends them behind the cell instead."""
    if hasattr(comm, "_reply_subshell_for"):  # private, so it may go
        comm._reply_subshell_for = lambda _, asked: asked


class LiveView(anywidget.AnyWidget):
    """One view of a Lab, renewed while cells run.

    Parameters
    ----------
    segment
        ``lab.telemetry.segment``.
    view
        ``"performance"``, ``"memory"``, ``"errors"``, ``"history"``, or empty for the status line alone.
    still
        HTML to show until the first figures come, and where none do.
    make_details
        Makes the HTML that only the kernel can, for `renew`; the page asks for that now and then, of a free kernel.
    rate
        Updates a second, 0.1 to 30.

    Attributes
    ----------
    bar : bool
        Whether the status line is shown: by which path the figures come and how often, rate and pause.
    path : str
        ``"auto"``, or ``"comm"`` for updates by the kernel in any case.
    """

    _esm = _module()
    _css = (_FOLDER / "live.css").read_text()

    view = traitlets.Unicode().tag(sync=True)
    kernel = traitlets.Unicode().tag(sync=True)
    lab = traitlets.Unicode().tag(sync=True)
    rate = traitlets.Float(10.0, min=0.1, max=30.0).tag(sync=True)
    path = traitlets.Enum(["auto", "comm"], "auto").tag(sync=True)
    bar = traitlets.Bool(True).tag(sync=True)
    still = traitlets.Unicode().tag(sync=True)
    details = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        segment: Segment,
        view: str = "",
        *,
        still: str = "",
        make_details: Callable[[], str] | None = None,
        **traits: Any,
    ) -> None:
        self._segment, self._make_details = segment, make_details
        self._sender: _Sender | None = None
        base = str(int(segment.header["base_ticks"]))
        super().__init__(view=view, kernel=_kernel_id(), lab=base, still=still, **traits)
        listen_while_busy(self.comm)
        _cells.watch()
        self.on_msg(self._answer)

    def _answer(self, _: object, content: dict[str, Any], __: object) -> None:
        """Do what the page asks for."""
        if content.get("ask") == "details":
            self.send({"cost": self.renew()})
        elif content.get("ask") == "updates":
            if self._sender is None or not self._sender.is_alive():
                self._sender = _Sender(self, Feed(self._segment))
            self._sender.hear(content.get("picture"))
        elif content.get("visible") is False:
            self.stop()

    def renew(self) -> float:
        """Make the details again; return the seconds that it took."""
        start = time.perf_counter()
        if self._make_details:
            self.details = self._make_details()
        return time.perf_counter() - start

    def stop(self) -> None:
        """End the updates that this kernel sends; the page may ask for them again."""
        if self._sender is not None:
            self._sender.stopped.set()
            self._sender = None

    def close(self) -> None:
        """Close the widget, and end its updates."""
        self.stop()
        super().close()


class _Sender(threading.Thread):
    """Sends a view's updates from the kernel, as seldom as it must to cost no more than `SHARE` of its time."""

    def __init__(self, view: LiveView, feed: Feed) -> None:
        super().__init__(name="nif_lab live", daemon=True)
        self._view, self._feed = weakref.ref(view), feed
        self.stopped = threading.Event()
        self._heard = time.monotonic()
        self._wanted: dict[str, Any] | None = None
        self._drawn: dict[str, Any] | None = None
        self._renderer: Renderer | None = None
        self.start()

    def hear(self, picture: dict[str, Any] | None) -> None:
        """Note that a page still looks, and at which picture."""
        self._heard, self._wanted = time.monotonic(), picture

    def run(self) -> None:
        wait = due = sent = 0.0
        while not self.stopped.wait(wait) and (_cells.busy or time.monotonic() - self._last_sign() < PATIENCE):
            if (view := self._view()) is None:
                break
            start, now, messages = time.thread_time(), time.monotonic(), []
            if now >= due:
                messages = [it for it in (self._feed.update(), self._picture(int(view.lab))) if it is not None]
            if not messages and now - sent >= BEAT:
                messages = [ALIVE]
            if messages:
                view.send({}, messages)
                sent = now
            if now >= due:
                fastest = min(view.rate, BUSY_HZ) if _cells.busy else view.rate
                due = time.monotonic() + max(1 / fastest, (time.thread_time() - start) / SHARE)
            wait = min(max(due - time.monotonic(), 0.0), BEAT)
            del view  # only the page and the user keep it
        self._draw(0, None)

    def _last_sign(self) -> float:
        """Return when the page last spoke, or could at last be heard."""
        return max(self._heard, _cells.ended)

    def _picture(self, lab: int) -> bytes | None:
        """Return the newest picture that is wanted, if there is a new one."""
        if self._wanted != self._drawn:
            self._draw(lab, self._wanted)
        if self._renderer is None:
            return None
        try:
            return self._renderer.frame()
        except EOFError:  # it said why on standard error; the page shows the numbers
            self._renderer = None
            return None

    def _draw(self, lab: int, picture: dict[str, Any] | None) -> None:
        """Have another picture drawn, or none."""
        if self._renderer is not None:
            self._renderer.close()
        self._drawn, self._renderer = picture, None
        if picture is not None:
            look = str(picture["theme"]), int(picture["width"]), float(picture["scale"])
            with suppress(ToolchainMissing):  # a frozen program: the page shows the numbers
                self._renderer = Renderer(os.getpid(), lab, *look)
