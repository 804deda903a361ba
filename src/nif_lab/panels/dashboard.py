"""All panels of a Lab, one below the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipywidgets as widgets

from .backends import BackendsPanel
from .base import Panel
from .performance import PerformancePanel
from .transfers import TransferPanel

if TYPE_CHECKING:
    from ..lab import Lab

__all__ = ["Dashboard"]


class Dashboard(Panel):
    """The panels of a Lab; ``lab.dashboard()`` makes one.

    Attributes
    ----------
    panels : tuple of Panel
        Each works alone too.
    """

    def __init__(self, lab: Lab) -> None:
        self._languages = ", ".join(lab.backends)
        performance = PerformancePanel(lab.snapshot)
        self.panels: tuple[Panel, ...] = (
            BackendsPanel(lab.backends),
            performance,
            TransferPanel(lab.backends, lab.transfer, lab.transfer_matrix, lab.memory.empty, performance.refresh),
        )
        self.refresh_button = widgets.Button(description="Refresh", tooltip="Read the counters again")
        self.refresh_button.on_click(lambda _: self.refresh())
        super().__init__("nif_lab", self.panels, beside=[self.refresh_button])

    def refresh(self) -> None:
        for panel in self.panels:
            panel.refresh()

    def text(self) -> str:
        return "\n\n".join(panel.text() for panel in self.panels)

    def html(self) -> str:
        return "".join(panel.html() for panel in self.panels)

    def __repr__(self) -> str:
        return f"Dashboard({self._languages})"
