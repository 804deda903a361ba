"""The processes of a Lab, on this machine and on others, as one tree: live."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anywidget
import traitlets

from ..fleet.collector import Collection
from ..fleet.show import html_of, text_of
from .base import Panel
from .live import after_cell, listen_while_busy
from .style import COLOURS, MARKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..fleet.channel import Fleet

__all__ = ["ProcessesPanel"]

_FOLDER: Final = Path(__file__).with_name("live")
#: So long a page may be silent before nothing more is sent to it, in seconds.
PATIENCE: Final = 35.0


def _module() -> str:
    named = {"COLOURS": COLOURS, "MARKS": MARKS}
    styles = (f"const {name} = {json.dumps(value)};\n" for name, value in named.items())
    return "".join((*styles, *((_FOLDER / f"{name}.js").read_text() for name in ("numbers", "processes"))))


class _Tree(anywidget.AnyWidget):
    """The tree in the browser; it asks for updates while somebody can see it."""

    _esm = _module()
    _css = (_FOLDER / "live.css").read_text() + (_FOLDER / "processes.css").read_text()

    still = traitlets.Unicode().tag(sync=True)

    def __init__(self, fleet: Callable[[], Fleet], **traits: Any) -> None:
        self._fleet, self._heard = fleet, 0.0
        self._listened: Fleet | None = None
        self._turn = threading.Lock()
        super().__init__(**traits)
        listen_while_busy(self.comm)
        self.on_msg(self._answer)

    def _answer(self, _: object, content: dict[str, Any], __: object) -> None:
        if content.get("ask") == "updates":
            self._heard = time.monotonic()
            threading.Thread(target=self._begin, name="nif_lab tree", daemon=True).start()
        elif content.get("ask") == "silence":
            self.stop()

    def _begin(self) -> None:
        """Start the collector, if it doesn't run, and send what it knows."""
        with self._turn:
            fleet = self._fleet()
            is_new = self._listened is not fleet
            if is_new:
                self._listened = fleet
                fleet.listen(self._take)
            self.send({}, [fleet.whole()])

    def _take(self, update: bytes) -> None:
        if time.monotonic() - self._heard > PATIENCE:
            self.stop()
        else:
            self.send({}, [update])

    def stop(self) -> None:
        """Send nothing more; the page may ask again."""
        fleet, self._listened = self._listened, None
        if fleet is not None:
            fleet.ignore(self._take)

    def close(self) -> None:
        self.stop()
        super().close()


class ProcessesPanel(Panel):
    """A tree of all processes: counters, errors with what was done about them, last calls; of all and of each.

    Parameters
    ----------
    fleet
        Returns what collects them, ``lab.processes``; called when somebody looks.
    started
        Returns what collects them already, or None.
    lab
        The Lab's ``base_ticks``.
    """

    def __init__(self, fleet: Callable[[], Fleet], started: Callable[[], Fleet | None], lab: int) -> None:
        self._started, self._lab = started, lab
        self.tree = _Tree(fleet)
        super().__init__("Processes", [self.tree])
        after_cell(self.refresh)

    def refresh(self) -> None:
        self.attempt(lambda: self.tree.set_trait("still", self.html()))

    def _look(self) -> dict[str, Any]:
        if (fleet := self._started()) is not None:
            return fleet.look()
        here = Collection(os.getpid(), self._lab)
        here.look()
        return here.update(whole=True) or {}

    def text(self) -> str:
        return "\n".join(["Processes", *(f"  {it}" for it in text_of(self._look()))])

    def html(self) -> str:
        return html_of(self._look())
