"""ipywidgets panels over a Lab's counters; ``lab.dashboard()`` shows all of them.

Each panel also works alone: ``PerformancePanel(lab.telemetry)``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from .backends import BackendsPanel
from .dashboard import Dashboard
from .errors import ErrorsPanel
from .history import HistoryPanel
from .live import LiveView
from .memory import MemoryPanel
from .performance import PerformancePanel
from .processes import ProcessesPanel

if TYPE_CHECKING:
    from .faults import FaultPanel
    from .inspector import InspectorPanel
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
    "ProcessesPanel",
    "TransferPanel",
    "TryPanel",
]

#: These need matplotlib, whose import would double the time until a dashboard's first page is there.
_LATER: Final = {
    "FaultPanel": "faults",
    "InspectorPanel": "inspector",
    "TransferPanel": "transfers",
    "TryPanel": "tryit",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
