"""What is being done, where it takes more than a second: a bar in a notebook or on a terminal, nothing elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Progress", "tracked"]

#: Seconds before it shows anything.
QUIET: Final = 1.0

_T = TypeVar("_T")


def tracked(items: Iterable[_T], what: str) -> Iterator[_T]:
    """Yield the items; a bar says how many of them are done."""
    from tqdm.auto import tqdm

    # disable=None: not where standard error is a file or a pipe.
    yield from tqdm(items, desc=what, delay=QUIET, miniters=1, leave=False, disable=None)


class Progress:
    """Steps that aren't known before: the last one is named, beside the time.

    Examples
    --------
    >>> with Progress() as show:
    ...     for step in steps:
    ...         show(step.name)
    """

    def __enter__(self) -> Progress:
        from tqdm.auto import tqdm

        form = "{desc} [{elapsed}]"
        self._bar = tqdm(bar_format=form, delay=QUIET, miniters=1, mininterval=0, leave=False, disable=None)
        return self

    def __call__(self, text: str) -> None:
        """Show what is being done now."""
        self._bar.set_description_str(text, refresh=False)
        self._bar.update()

    def __exit__(self, *_: object) -> None:
        self._bar.close()
