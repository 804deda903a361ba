"""All panels of a Lab as one widget: what happens on the first page, what can be done on the others."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from .backends import BackendsPanel
from .base import Panel
from .errors import ErrorsPanel
from .history import HistoryPanel
from .live import LiveView, after_cell
from .memory import MemoryPanel
from .pages import Pages
from .performance import PerformancePanel
from .processes import ProcessesPanel

if TYPE_CHECKING:
    from ..lab import Lab

__all__ = ["Dashboard"]


class Dashboard(Panel):
    """The panels of a Lab; ``lab.dashboard()`` makes one.

    Parameters
    ----------
    lab
        Whose.
    rate
        Updates a second; the page has a chooser for it.
    engine
        Of whose workers on other machines the telemetry is shown too, as for ``lab.processes``.

    Attributes
    ----------
    panels : tuple of Panel
        Each works alone too.

    The page that is seen first is made at once, the others when the cell that made the dashboard has ended, so that
    the page can draw the one while the kernel makes the others.
    """

    def __init__(self, lab: Lab, rate: float = 10.0, engine: Any = None) -> None:
        self._lab: Lab | None = lab
        telemetry = lab.telemetry
        live = (
            PerformancePanel(telemetry, rate),
            HistoryPanel(telemetry, rate),
            MemoryPanel(lab.memory, telemetry, rate),
            ErrorsPanel(telemetry, rate),
        )
        for panel in live:
            panel.live.bar = False  # one line for all
        if engine is not None:
            lab.processes(engine)
        self._processes = ProcessesPanel(lab.processes, lambda: lab._fleet, int(telemetry.segment.header["base_ticks"]))
        self._first = (*live, BackendsPanel({**lab.backends, **lab.libraries}))
        self._others: tuple[Panel, ...] = ()
        columns = "repeat(auto-fit, minmax(min(100%, 420px), 1fr))"
        pair = widgets.GridBox(live[-2:], layout=widgets.Layout(grid_template_columns=columns, grid_gap="8px 32px"))
        self._pages = {name: widgets.VBox() for name in ("Transfers", "Frames", "Faults", "Try it")}
        live_page = widgets.VBox([*live[:-2], pair])
        pages = {"Live": live_page, "Processes": self._processes, **self._pages, "Backends": self._first[-1]}
        self.tabs = Pages(pages)
        self._languages = ", ".join(lab.backends)
        super().__init__("nif_lab", [self.tabs], beside=[LiveView(telemetry.segment, rate=rate)])
        after_cell(lambda: self.attempt(self._complete))

    def _complete(self) -> None:
        """Make the pages that aren't seen first."""
        lab, self._lab = self._lab, None
        if lab is None:  # made already, or closed
            return
        from . import FaultPanel, InspectorPanel, TransferPanel, TryPanel

        self._others = (
            TransferPanel(lab.backends, lab.transfer, lab.transfer_matrix, lab.memory.empty),
            InspectorPanel(lab.backends, lab.wire),
            FaultPanel(lab),
            TryPanel(lab),
        )
        for page, panel in zip(self._pages.values(), self._others, strict=True):
            page.children = (panel,)

    @property
    def panels(self) -> tuple[Panel, ...]:
        self._complete()
        return (*self._first[:-1], self._processes, *self._others, self._first[-1])

    def refresh(self) -> None:
        for panel in self.panels:
            panel.refresh()

    def text(self) -> str:
        return "\n\n".join(panel.text() for panel in self.panels)

    def html(self) -> str:
        return "".join(map(_section, self.panels))

    def _fallback(self) -> tuple[str, str]:
        # Of the panels whose pages may not be made yet none has anything to say before somebody used it.
        return "\n\n".join(it.text() for it in self._first), "".join(map(_section, self._first))

    def close(self) -> None:
        self._lab = None
        super().close()

    def __repr__(self) -> str:
        return f"Dashboard({self._languages})"


def _section(panel: Panel) -> str:
    return f"<h3>{escape(panel.name)}</h3>{panel.html()}"
