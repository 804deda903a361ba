"""How much memory is in use, how that went, and where in the pools it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import LivePanel

if TYPE_CHECKING:
    from ..memory import MemoryManager
    from ..telemetry import Telemetry

__all__ = ["MemoryPanel"]


class MemoryPanel(LivePanel):
    """Bytes in use and their course, peak, collections and pressure, live, and a map of the pools.

    Parameters
    ----------
    memory
        ``lab.memory``.
    telemetry
        ``lab.telemetry``.
    rate
        Updates a second.
    """

    title = "Memory"
    view = "memory"

    def __init__(self, memory: MemoryManager, telemetry: Telemetry, rate: float = 10.0) -> None:
        self.memory = memory
        super().__init__(telemetry, rate, self._pools)

    def _pools(self) -> str:
        return self.memory._repr_html_()

    def still(self) -> str:
        return ""  # the pools are shown as details

    def text(self) -> str:
        return f"Memory\n{self.memory}"

    def html(self) -> str:
        return self._pools()
