"""All panels of a Lab as one widget: what happens on the first page, what can be done on the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipywidgets as widgets

from .backends import BackendsPanel
from .base import Panel
from .errors import ErrorsPanel
from .faults import FaultPanel
from .history import HistoryPanel
from .inspector import InspectorPanel
from .live import LiveView
from .memory import MemoryPanel
from .performance import PerformancePanel
from .transfers import TransferPanel
from .tryit import TryPanel

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

    Attributes
    ----------
    panels : tuple of Panel
        Each works alone too.
    """

    def __init__(self, lab: Lab, rate: float = 10.0) -> None:
        self._languages = ", ".join(lab.backends)
        telemetry = lab.telemetry
        live = (
            PerformancePanel(telemetry, rate),
            HistoryPanel(telemetry, rate),
            MemoryPanel(lab.memory, telemetry, rate),
            ErrorsPanel(telemetry, rate),
        )
        pages: dict[str, tuple[Panel, ...]] = {
            "Live": live,
            "Transfers": (TransferPanel(lab.backends, lab.transfer, lab.transfer_matrix, lab.memory.empty),),
            "Frames": (InspectorPanel(lab.backends, lab.wire),),
            "Faults": (FaultPanel(lab),),
            "Try it": (TryPanel(lab),),
            "Backends": (BackendsPanel(lab.backends),),
        }
        self.panels = tuple(panel for page in pages.values() for panel in page)
        for panel in live:
            panel.live.bar = False  # one line for all
        self.tabs = widgets.Tab([_page(page) for page in pages.values()], titles=tuple(pages))
        self.tabs.add_class("nif-tabs")
        super().__init__("nif_lab", [self.tabs], beside=[LiveView(telemetry.segment, rate=rate)])

    def refresh(self) -> None:
        for panel in self.panels:
            panel.refresh()

    def text(self) -> str:
        return "\n\n".join(panel.text() for panel in self.panels)

    def html(self) -> str:
        return "".join(panel.html() for panel in self.panels)

    def __repr__(self) -> str:
        return f"Dashboard({self._languages})"


def _page(panels: tuple[Panel, ...]) -> widgets.Widget:
    """Return panels as a page: the last two side by side where there is room, the others as wide as it is."""
    if len(panels) == 1:
        return panels[0]
    columns = "repeat(auto-fit, minmax(min(100%, 420px), 1fr))"
    pair = widgets.GridBox(panels[-2:], layout=widgets.Layout(grid_template_columns=columns, grid_gap="8px 32px"))
    return widgets.VBox([*panels[:-2], pair])
