"""What all panels have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets as widgets

from .live import LiveView, after_cell, listen_while_busy

if TYPE_CHECKING:
    from ..telemetry import Telemetry

__all__ = ["LivePanel", "Panel", "tree"]


class Panel(widgets.VBox):  # type: ignore[misc] # ipywidgets has no types
    """A titled box of widgets that shows its own errors and closes all it made.

    A panel that is saved, printed or shown without a kernel falls back to `text` and `html`.
    """

    def __init__(
        self, title: str, children: Sequence[widgets.Widget], *, beside: Sequence[widgets.Widget] = ()
    ) -> None:
        self.problem = widgets.HTML()
        heading = widgets.HTML(f'<h3 style="margin:0 12px 0 0">{escape(title)}</h3>')
        head = widgets.HBox([heading, *beside], layout=widgets.Layout(align_items="center", flex_flow="row wrap"))
        super().__init__([head, *children, self.problem], layout=widgets.Layout(padding="8px 0"))
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

    def _fallback(self) -> tuple[str, str]:
        """Return what a notebook keeps of the panel: text and HTML."""
        return self.text(), self.html()


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
