"""ipywidgets panels over a Lab's counters; ``lab.dashboard()`` shows all of them.

Each panel also works alone: ``PerformancePanel(lab.telemetry)``.
"""

from __future__ import annotations

from .backends import BackendsPanel
from .dashboard import Dashboard
from .errors import ErrorsPanel
from .faults import FaultPanel
from .history import HistoryPanel
from .inspector import InspectorPanel
from .live import LiveView
from .memory import MemoryPanel
from .performance import PerformancePanel
from .transfers import TransferPanel
from .tryit import TryPanel

__all__ = [
    "BackendsPanel",
    "Dashboard",
    "ErrorsPanel",
    "FaultPanel",
    "HistoryPanel",
    "InspectorPanel",
    "LiveView",
    "MemoryPanel",
    "PerformancePanel",
    "TransferPanel",
    "TryPanel",
]
