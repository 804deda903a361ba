"""Worker processes for any Python callable, which may die: `nif_lab.Executor` and the server that forks its workers.

Nothing is imported here: the server has as few modules as it can.
"""

from __future__ import annotations

__all__ = ()
