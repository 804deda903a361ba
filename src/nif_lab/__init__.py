"""Rust, Zig, Nim and Julia functions called from a notebook as if they were Python.

>>> import nif_lab
>>> lab = nif_lab.Lab()
>>> lab.rust.dot(x, y)

Importing this package starts nothing: the core and the languages are loaded by `Lab`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .lab import Lab as Lab
    from .loading import library_path as library_path
    from .pool.executor import Executor as Executor
    from .recovery import RecoveryPolicy as RecoveryPolicy
    from .telemetry import FunctionStats as FunctionStats
    from .telemetry import Snapshot as Snapshot
    from .transfer import Transfer as Transfer
    from .transfer import TransferMatrix as TransferMatrix

__version__: Final = "0.2.0"
__all__ = [
    "Executor",
    "FunctionStats",
    "Lab",
    "RecoveryPolicy",
    "Snapshot",
    "Transfer",
    "TransferMatrix",
    "get_include",
    "library_path",
]

_HOME: Final = {
    "Executor": ".pool.executor",
    "FunctionStats": ".telemetry",
    "Lab": ".lab",
    "RecoveryPolicy": ".recovery",
    "Snapshot": ".telemetry",
    "Transfer": ".transfer",
    "TransferMatrix": ".transfer",
    "library_path": ".loading",
}


def get_include() -> str:
    """Return the folder of ``nif_lab.h``, for a C compiler's ``-I``."""
    return str(Path(__file__).parent / "include")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add ``%%rust``, ``%%zig``, ``%%nim``, ``%%julia`` and ``%%nif``: IPython calls it for ``%load_ext nif_lab``."""
    from .cells.magics import Magics
    from .cells.output import settle

    Magics(shell)
    shell.events.register("post_run_cell", settle)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "nif_lab.server"}]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module 'nif_lab' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
