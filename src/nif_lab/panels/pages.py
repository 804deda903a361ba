"""Pages with tabs, of which one is seen; a tab is chosen in the browser, with or without a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import anywidget
import ipywidgets as widgets
import traitlets

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Pages"]

_FOLDER: Final = Path(__file__).with_name("live")


class _Bar(anywidget.AnyWidget):
    """The tabs' names; the page's style sheet shows the page that it names."""

    _esm = (_FOLDER / "pages.js").read_text()
    _css = (_FOLDER / "pages.css").read_text()

    titles = traitlets.List(traitlets.Unicode()).tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)


class Pages(widgets.VBox):  # type: ignore[misc] # ipywidgets has no types
    """Pages below a row of tabs.

    ``ipywidgets.Tab`` isn't used. After a page reload its tabs do nothing in cells far down a notebook, because
    JupyterLab attaches their outputs late (its default windowing mode). Its tabs don't wrap in a narrow view either.

    Parameters
    ----------
    pages
        Each page's title and what is on it.

    Attributes
    ----------
    pages : tuple of Widget
        Without the tabs.
    chosen : int
        The page that is seen.
    """

    def __init__(self, pages: Mapping[str, widgets.Widget]) -> None:
        self._bar = _Bar(titles=list(pages))
        self.pages = tuple(pages.values())
        for page in self.pages:
            page.add_class("nif-page")
        super().__init__([self._bar, *self.pages])
        self.add_class("nif-pages")

    @property
    def chosen(self) -> int:
        return self._bar.chosen
