"""ipywidgets panels over a Lab's counters; ``lab.dashboard()`` shows all of them.

Each panel also works alone: ``PerformancePanel(lab.snapshot)``.
"""

from __future__ import annotations

from .backends import BackendsPanel
from .dashboard import Dashboard
from .performance import PerformancePanel
from .transfers import TransferPanel

__all__ = ["BackendsPanel", "Dashboard", "PerformancePanel", "TransferPanel"]
