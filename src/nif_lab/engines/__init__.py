"""One Lab in each worker of another engine: made as the client's is, and ended with the worker.

Nothing needs this: a function that arrives in a worker finds its Lab there, or makes it. It moves the making to the
start of the worker, where a missing compiler is said once and the first task doesn't wait.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, Final

from ..errors import ArgumentTypeError, BackendError
from ..travel import LabSettings, lab_here, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..lab import Lab

__all__ = ["follow", "initializer"]

#: The module of each engine that has a channel of its own, by the first word of its module's name.
CHANNELS: Final = {"distributed": "dask", "ray": "ray"}


def _start(settings: LabSettings, lanes: tuple[tuple[str, str], ...]) -> None:
    """Make this process's Lab, with the languages and workers that the client's has opened."""
    lab = lab_here(settings)
    for name, lane in lanes:
        opened = getattr(lab, lane)[name]
        if not opened.loaded:
            raise BackendError(f"{opened.title} isn't loaded in this worker: {opened.reason}", opened.cure)


def _opened(lab: Lab) -> tuple[tuple[str, str], ...]:
    return tuple((name, lane) for (name, lane), it in lab._opened.copy().items() if it.loaded and name in lab.may_load)


def initializer(lab: Lab) -> Callable[[], None]:
    """Return what a pool's workers call first, so that each has a Lab like this one.

    For ``initializer=`` of `nif_lab.Executor`, loky and `concurrent.futures`. Where an engine has no initializer, a
    task may call it.

    Examples
    --------
    >>> loky.get_reusable_executor(4, initializer=engines.initializer(lab))
    """
    return functools.partial(_start, settings_of(lab), _opened(lab))


def follow(engine: Any, lab: Lab) -> None:
    """Have an engine's workers send their telemetry to this process, for `Lab.processes` and the dashboard.

    Parameters
    ----------
    engine
        A ``distributed.Client``, or the module ``ray`` after ``ray.init`` with `nif_lab.engines.ray.setup_hook`.
    lab
        Dask's workers get a Lab like this one; Ray's have got one by the hook.

    Raises
    ------
    ArgumentTypeError
        When the engine has no channel. Workers on this machine are seen without one.
    """
    name = CHANNELS.get((getattr(engine, "__name__", None) or type(engine).__module__).split(".")[0])
    if name is None:
        raise ArgumentTypeError(
            "engine", f"expected a distributed.Client or the module ray, got {type(engine).__name__}; workers of other "
            "engines are shown if they run on this machine"
        )  # fmt: skip
    importlib.import_module(f".{name}", __name__).follow(engine, lab)
