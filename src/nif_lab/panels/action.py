"""A button that answers at once, also while a cell runs, and does its work beside it.

The click is noted in the browser ("queued"), taken by the kernel as soon as that handles messages, which newer
ipykernels do while a cell runs, and worked off on a thread: neither the cell nor the page waits for it. Nothing there
prints or draws with pyplot, which are the user's.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anywidget
import traitlets

from .live import listen_while_busy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Action"]

_FOLDER: Final = Path(__file__).with_name("live")

#: One thing at a time: two transfers at once would time each other.
_worker = ThreadPoolExecutor(1, "nif_lab action")


class Action(anywidget.AnyWidget):
    """A button, and the state of what it does.

    Parameters
    ----------
    description
        What is on the button, and its name for screen readers.
    work
        What a click does. From the browser: on a thread that does one thing at a time, so it must have a deadline of
        its own.
    show
        Gets what ``work`` returned.
    fail
        Gets what it raised.
    stop
        Ends the work early, called on the thread that hears of it: then there is a Stop button while it runs.
    accents
        Colours of the left and the right edge.
    wide
        Whether the button takes all the room that there is.

    Attributes
    ----------
    phase : str
        ``"idle"``, ``"running"``, ``"done"`` or ``"failed"``.
    taken : int
        The last of the page's clicks that the kernel has heard of; the page shows the others as queued.
    """

    _esm = (_FOLDER / "action.js").read_text()
    _css = (_FOLDER / "action.css").read_text()

    description = traitlets.Unicode().tag(sync=True)
    tooltip = traitlets.Unicode().tag(sync=True)
    accents = traitlets.List(traitlets.Unicode()).tag(sync=True)
    wide = traitlets.Bool(False).tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)
    stoppable = traitlets.Bool(False).tag(sync=True)
    phase = traitlets.Enum(["idle", "running", "done", "failed"], "idle").tag(sync=True)
    taken = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        description: str,
        work: Callable[[], Any],
        *,
        show: Callable[[Any], None],
        fail: Callable[[Exception], None],
        stop: Callable[[], None] | None = None,
        **traits: Any,
    ) -> None:
        self._work, self._show, self._fail, self._stop = work, show, fail, stop
        self._pending: Future[None] | None = None
        self._turn = threading.Lock()
        super().__init__(description=description, stoppable=stop is not None, **traits)
        listen_while_busy(self.comm)
        self.on_msg(self._hear)

    def _hear(self, _: object, content: dict[str, Any], __: object) -> None:
        """Take a click of the page; one that comes while the last is worked off is only noted."""
        if content.get("stop") is True:
            self.stop()
        if not isinstance(number := content.get("click"), int):
            return
        with self._turn:
            self.taken = number
            if self.disabled or (self._pending is not None and not self._pending.done()):
                return
            self.phase = "running"
            self._pending = _worker.submit(self._run)

    def click(self) -> None:
        """Do the work now, and return when it is done."""
        self.phase = "running"
        self._run()

    def stop(self) -> None:
        """End the work early, if it runs and can be ended."""
        if self._stop is not None and self.phase == "running":
            self._stop()

    def wait(self, seconds: float = 30.0) -> None:
        """Wait for what the page's last click began."""
        if self._pending is not None:
            self._pending.result(seconds)

    def _run(self) -> None:
        try:
            self._show(self._work())
        except Exception as error:
            self._fail(error)
            self.phase = "failed"
        else:
            self.phase = "done"

    def __repr__(self) -> str:
        return f"Action({self.description!r})"
