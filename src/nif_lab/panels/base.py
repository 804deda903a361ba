"""What all panels have in common."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import ipywidgets as widgets

from ..folders import written
from .live import LiveView, after_cell, listen_while_busy

if TYPE_CHECKING:
    from ..telemetry import Telemetry

__all__ = ["LivePanel", "Panel", "tree"]

#: What a panel looks like without its kernel: CSS alone, because nothing else acts then.
_CSS: Final = Path(__file__).with_name("live").joinpath("panel.css").read_text()
#: What `save` writes.
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>nif_lab</title><style>
body {{ font: 14px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 24px auto; padding: 0 16px;
  color-scheme: light dark }}
table {{ border-collapse: collapse; margin: 8px 0 24px }}
td, th {{ padding: 3px 14px 3px 0; border-bottom: 1px solid #8884 }}
</style></head><body><h1>nif_lab</h1><p>{when}</p>
{body}
</body></html>
"""
#: The panel as HTML, in an output of its own; live.css hides it where the widget is shown.
_STILL: Final = '<div class="nif-still">{}</div>'
_FADED: Final = '<div style="opacity:0.4" aria-hidden="true">'


class Panel(widgets.VBox):  # type: ignore[misc] # ipywidgets has no types
    """A titled box of widgets that shows its own errors and closes all it made.

    A panel that is saved, printed or shown without a kernel falls back to `text` and `html`.
    """

    def __init__(
        self, title: str, children: Sequence[widgets.Widget], *, beside: Sequence[widgets.Widget] = ()
    ) -> None:
        self.name = title
        self.problem = widgets.HTML()
        heading = widgets.HTML(f'<style>{_CSS}</style><h3 style="margin:0 12px 0 0">{escape(title)}</h3>')
        head = widgets.HBox([heading, *beside], layout=widgets.Layout(align_items="center", flex_flow="row wrap"))
        super().__init__([head, *children, self.problem], layout=widgets.Layout(padding="8px 0"))
        self.add_class("nif-panel")
        self.problem.layout.display = "none"
        self.listen()

    def listen(self) -> None:
        """Have what is typed and chosen in the panel taken while a cell runs, where ipykernel can."""
        for widget in tree(self):
            listen_while_busy(widget.comm)

    def refresh(self) -> None:
        """Show what is true now."""
        raise NotImplementedError

    def text(self) -> str:
        """Return the panel as plain text."""
        raise NotImplementedError

    def html(self) -> str:
        """Return the panel as HTML that needs neither a kernel nor JavaScript."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what the panel shows now as one HTML file that needs neither a kernel nor a network.

        Parameters
        ----------
        path : str or path
            Where to; a file that is there is replaced.

        Returns
        -------
        Path
            The file.
        """
        target, now = Path(path), time.strftime("%Y-%m-%d %H:%M:%S")
        with written(target):
            target.write_text(_PAGE.format(when=now, body=self.html()), encoding="utf-8")
        return target

    def attempt(self, action: Callable[[], None]) -> None:
        """Run what a button asks for; an error appears in the panel instead of getting lost."""
        try:
            action()
        except Exception as error:
            self.complain(error)
        else:
            self.complain(None)

    def complain(self, error: Exception | None) -> None:
        """Show an error, or that there is none any more."""
        self.problem.layout.display = None if error else "none"
        self.problem.value = error_html(error) if error else ""

    @staticmethod
    def fade(*shown: widgets.HTML) -> None:
        """Grey what a button showed last: the button runs again, and its old results don't hold any more."""
        for it in shown:
            if it.value and not it.value.startswith(_FADED):
                it.value = f"{_FADED}{it.value}</div>"

    def close(self) -> None:
        """Close the panel and every widget in it."""
        for widget in tree(self):
            if widget is not self:
                widget.close()
        super().close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any] | None:
        bundle: dict[str, Any] | None = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle["text/plain"], bundle["text/html"] = self._fallback()
        return bundle

    def _ipython_display_(self) -> None:
        """In a run without a page (nbconvert, papermill, Voila) also show the HTML that needs no JavaScript.

        nbconvert writes a widget's view alone, which is empty where the page can't fetch the widgets' code.
        """
        bundle = self._repr_mimebundle_() if _is_unattended() else None
        if bundle is None:
            raise NotImplementedError  # IPython takes `_repr_mimebundle_` then
        from IPython.display import display

        still = {"text/plain": bundle["text/plain"], "text/html": _STILL.format(bundle.pop("text/html"))}
        display({**bundle, "text/plain": repr(self)}, raw=True)  # type: ignore[no-untyped-call]
        display(still, raw=True)  # type: ignore[no-untyped-call]

    def _fallback(self) -> tuple[str, str]:
        """Return what a notebook keeps of the panel: text and HTML."""
        return self.text(), self.html()


def _is_unattended() -> bool:
    """Whether a program runs the notebook: JupyterLab lets a cell ask for input, nbclient doesn't."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    allowed: bool | None = request.get("content", {}).get("allow_stdin")
    return allowed is False


def error_html(error: Exception) -> str:
    """Return an error as HTML that screen readers announce."""
    return (
        '<div role="alert" style="border-left:4px solid var(--jp-error-color1,#d32f2f);padding:4px 10px;'
        f'white-space:pre-wrap;line-height:1.4"><b>{type(error).__name__}</b>: {escape(str(error))}</div>'
    )


class LivePanel(Panel):
    """A panel whose figures are renewed while cells run.

    Parameters
    ----------
    telemetry
        ``lab.telemetry``: where the figures are.
    rate
        Updates a second.
    make_details
        Makes the part that only the kernel can; shown below the figures.

    Attributes
    ----------
    title, view : str
        Its name, and which `LiveView` shows it.

    What stands there until the first figures come is `html`, and `still` once the cell that made the panel has ended.
    """

    title: ClassVar[str]
    view: ClassVar[str]

    def __init__(self, telemetry: Telemetry, rate: float = 10.0, make_details: Callable[[], str] | None = None) -> None:
        self.telemetry, self._make_details = telemetry, make_details
        details = self._details if make_details else None
        self.live = LiveView(telemetry.segment, self.view, rate=rate, make_details=details)
        super().__init__(self.title, [self.live])
        self.attempt(lambda: self.live.set_trait("still", self.html()))
        after_cell(self.refresh)

    def _details(self) -> str:
        """Return the details, or an empty text when they can't be made: the error is then in the panel."""
        made = ""

        def make() -> None:
            nonlocal made
            if self._make_details:
                made = self._make_details()

        self.attempt(make)
        return made

    def refresh(self) -> None:
        self.attempt(self._refresh)

    def _refresh(self) -> None:
        self.live.still = self.still()
        self.live.renew()

    def still(self) -> str:
        """Return HTML that looks like the live view."""
        return self.html()


def tree(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    """Yield a widget and all that belong to it: children, layouts and styles."""
    for child in getattr(widget, "children", ()):
        yield from tree(child)
    for part in ("layout", "style"):
        if isinstance(owned := getattr(widget, part, None), widgets.Widget):
            yield owned
    yield widget
