"""One Lab in each worker of another engine: made as the client's is, and ended with the worker.

Nothing needs this: a function that arrives in a worker finds its Lab there, or makes it. It moves the making to the
start of the worker, where a missing compiler is said once and the first task doesn't wait.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..errors import BackendError
from ..travel import LabSettings, lab_here, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..lab import Lab

__all__ = ["initializer"]


def _start(settings: LabSettings, lanes: tuple[tuple[str, str], ...]) -> None:
    """Make this process's Lab, with the languages and workers that the client's has opened."""
    lab = lab_here(settings)
    for name, lane in lanes:
        opened = getattr(lab, lane)[name]
        if not opened.loaded:
            raise BackendError(f"{opened.title} isn't loaded in this worker: {opened.reason}", opened.cure)


def _opened(lab: Lab) -> tuple[tuple[str, str], ...]:
    return tuple((name, lane) for (name, lane), it in lab._opened.items() if it.loaded and name in lab.may_load)


def initializer(lab: Lab) -> Callable[[], None]:
    """Return what a pool's workers call first, so that each has a Lab like this one.

    For ``initializer=`` of `nif_lab.Executor`, loky and `concurrent.futures`. Where an engine has no initializer, a
    task may call it.

    Examples
    --------
    >>> loky.get_reusable_executor(4, initializer=engines.initializer(lab))
    """
    return functools.partial(_start, settings_of(lab), _opened(lab))
