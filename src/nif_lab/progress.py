"""What is being done, where it takes more than a second: a bar in a notebook or on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

__all__ = ["QUIET", "CallBar", "Progress", "late_bar", "tracked"]

#: Seconds before it shows anything.
QUIET: Final = 1.0
#: Seconds between two looks at the time that a step takes.
TICK: Final = 0.5

_T = TypeVar("_T")


def tracked(items: Collection[_T], what: str) -> Iterator[_T]:
    """Yield the items; a bar says how many of them are done."""
    with late_bar(total=len(items), desc=what) as bar:
        for number, item in enumerate(items):
            yield item
            bar(number + 1)


class Progress:
    """Steps that aren't known before: the last one is named, beside the time, which goes on while a step does.

    Parameters
    ----------
    quiet
        Seconds before it shows anything.

    Examples
    --------
    >>> with Progress() as show:
    ...     for step in steps:
    ...         show(step.name)
    """

    def __init__(self, quiet: float = QUIET) -> None:
        self._quiet = quiet
        self._text = ""
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        self._bars = late_bar(self._quiet, bar_format="{desc} [{elapsed}]")
        self._bar = self._bars.__enter__()
        self._ticker = threading.Thread(target=self._tick, name="nif_lab progress", daemon=True)
        self._ticker.start()
        return self

    def __call__(self, text: str) -> None:
        """Show what is being done now."""
        with self._lock:
            self._text = text
            self._bar(0, text)

    def _tick(self) -> None:
        pause = self._quiet
        while not self._ended.wait(pause):
            pause = TICK
            with self._lock, suppress(Exception):  # what can't be shown isn't
                self._bar(0, self._text)

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._ticker.join()
        self._bars.__exit__(*error)


class CallBar:
    """The bar of a call whose function says how far it is. The core makes one when the call takes long.

    Parameters
    ----------
    name : str
        The function's.
    seconds : float
        How long the call has taken already.
    is_main : bool, optional
        Whether the call was made by the main thread; none for the thread that asks.
    """

    def __init__(self, name: str, seconds: float, is_main: bool | None = None) -> None:
        self._bars = late_bar(_seconds=seconds, _is_main=is_main, desc=name, total=1)
        self._show = self._bars.__enter__()

    def __call__(self, done: int, total: int) -> None:
        """Show that so many of so many steps are done."""
        self._show(done, total=total)

    def close(self) -> None:
        """Leave nothing behind."""
        self._bars.__exit__(None, None, None)


@contextmanager
def late_bar(
    quiet: float = QUIET, *, _seconds: float = 0.0, _is_main: bool | None = None, **options: Any
) -> Iterator[Callable[..., None]]:
    """Give a function that shows how many are done; the bar is made when it is late enough to be shown.

    A notebook's bar is made of widgets: one that is never seen shouldn't leave any, in the kernel or in the saved file.
    """
    start = time.monotonic() - _seconds
    made: list[Any] = []
    # A panel's thread has no output of its own: a bar would land in that of whatever cell runs.
    is_main = threading.current_thread() is threading.main_thread() if _is_main is None else _is_main
    # A daemon has no stream: tqdm fails there with its lock held, and the next bar waits for ever.
    is_main = is_main and sys.stderr is not None

    def show(done: int, text: str = "", total: int | None = None) -> None:
        if not made and is_main and time.monotonic() - start >= quiet:
            # disable=None: not where standard error is a file or a pipe.
            made.append(_bars()(**options, leave=False, disable=None))
            made[0].start_t = time.time() - (time.monotonic() - start)
        for bar in made:
            bar.n = done
            if total is not None:
                bar.total = total
            if text:
                bar.set_description_str(text, refresh=False)
            bar.refresh()

    try:
        yield show
    finally:
        for bar in made:
            bar.close()
            box = getattr(bar, "container", None)
            for widget in (*box.children, box) if box else ():
                for part in (getattr(widget, "style", None), widget.layout, widget):
                    if part is not None:
                        part.close()


def _bars() -> Any:
    """Return tqdm's bars of widgets in a kernel, else those of letters.

    tqdm itself would take any process that has imported ipykernel for a kernel; our own panels import it.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None:
        from tqdm.std import tqdm
    else:
        from tqdm.auto import tqdm
    return _by_threads(tqdm)


@cache
def _by_threads(bars: type) -> type:
    """Return the bars with a lock for threads; tqdm's own, for processes too, starts one that stays in Python 3.14."""
    return type(bars.__name__, (bars,), {"_lock": threading.RLock()})
