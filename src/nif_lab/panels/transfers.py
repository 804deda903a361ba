"""A button for each pair of languages: hand an array over, and see what happened to it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from html import escape
from itertools import permutations
from typing import TYPE_CHECKING, Any, Final

import ipywidgets as widgets
import numpy as np

from ..arguments import WAYS
from ..text import format_ns, format_speed, table_html
from .action import Action
from .base import Panel
from .canvas import themed_image
from .pictures import copies_text, heat_map, heat_map_text
from .style import colour, title

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..lab import LoadedBackend
    from ..transfer import Transfer, TransferMatrix

__all__ = ["TransferPanel", "chooser", "sign", "status"]

SIZES: Final = {"8 KB": 8_000, "80 KB": 80_000, "1 MB": 1_000_000, "8 MB": 8_000_000, "64 MB": 64_000_000}
#: As wide as four cards of the performance panel.
GRID_WIDTH: Final = 966


class TransferPanel(Panel):
    """A square of buttons, from each language to each other.

    Parameters
    ----------
    backends
        ``lab.backends``; a language that isn't loaded has its buttons disabled.
    transfer, transfer_matrix
        ``lab.transfer`` and ``lab.transfer_matrix``.
    empty
        Makes the arrays: ``lab.memory.empty``, for values that needn't be copied.
    on_transfer
        Called after each transfer, if given.
    """

    def __init__(
        self,
        backends: Mapping[str, LoadedBackend],
        transfer: Callable[..., Transfer],
        transfer_matrix: Callable[..., TransferMatrix],
        empty: Callable[[int], np.ndarray] = np.empty,
        on_transfer: Callable[[], None] | None = None,
    ) -> None:
        self.backends = backends
        self._transfer, self._transfer_matrix, self._on_transfer = transfer, transfer_matrix, on_transfer
        self._empty = empty
        self.results: dict[tuple[str, str], Transfer] = {}
        self.size = chooser("Size", SIZES, SIZES["1 MB"], "How large the transferred array is")
        modes = "shared: read where it lies; wire: as a frame; mmap: through a mapped file"
        self.mode = chooser("Mode", WAYS, "shared", modes)
        self.all_pairs = self._action("all", self._run_all, self._show_all)
        self.all_pairs.tooltip = "Transfer between all pairs of loaded languages, and compare them"
        self.buttons = {pair: self._button(*pair) for pair in permutations(backends, 2)}
        # Two lines of text each, with or without: the grid stays where it is as results come.
        self.cells = {pair: widgets.HTML(layout=widgets.Layout(min_height="36px")) for pair in self.buttons}
        self.result = widgets.HTML()
        self.heat = widgets.HTML()
        beside = [self.size, self.mode, self.all_pairs]
        super().__init__("Transfers", [self._square(), self.result, self.heat], beside=beside)
        self.refresh()

    def _action(self, label: str, work: Callable[[], Any], show: Callable[[Any], None], **traits: Any) -> Action:
        return Action(label, work, show=partial(self._succeed, show), fail=partial(self._failed, label), **traits)

    def _button(self, source: str, target: str) -> Action:
        work, accents = partial(self._run, source, target), [colour(source), colour(target)]
        return self._action(f"{source} → {target}", work, self._show_one, accents=accents, wide=True)

    def _square(self) -> widgets.GridBox:
        """Return the buttons, with each language's name on the diagonal."""
        cells = []
        for source in self.backends:
            for target in self.backends:
                if source == target:
                    style = f"display:block;text-align:center;font-size:15px;color:{colour(source)}"
                    name = f'<b style="{style}">{escape(title(source))}</b>'
                    cells.append(widgets.HTML(name, layout=widgets.Layout(align_self="center")))
                else:
                    cells.append(widgets.VBox([self.buttons[source, target], self.cells[source, target]]))
        columns = f"repeat({len(self.backends)}, minmax(110px, 1fr))"
        layout = widgets.Layout(
            grid_template_columns=columns,
            grid_gap="12px",
            margin="8px 0",
            max_width=f"{GRID_WIDTH}px",
            overflow="auto",
        )
        return widgets.GridBox(cells, layout=layout)

    def refresh(self) -> None:
        self.attempt(self._show)

    def _show(self) -> None:
        """Enable what can be used, and say why the rest can't."""
        loaded = sum(it.loaded for it in self.backends.values())
        self.all_pairs.description = f"all {loaded * (loaded - 1)}"
        self.all_pairs.disabled = loaded < 2
        for (source, target), button in self.buttons.items():
            missing = [self.backends[name] for name in (source, target) if not self.backends[name].loaded]
            button.disabled = bool(missing)
            button.tooltip = "; ".join(f"{it.title} isn't loaded: {it.reason}" for it in missing) or (
                f"Hand an array from {title(source)} to {title(target)}"
            )
        if not self.results:
            self.result.value = status("Press a button to hand an array over.")

    def _value(self) -> np.ndarray:
        size: int = self.size.value
        value = self._empty(size // 8)
        np.random.default_rng(0).random(out=value)
        return value

    def _run(self, source: str, target: str) -> Transfer:
        self.fade(self.cells[source, target], self.result, self.heat)
        return self._transfer(source, target, self._value(), self.mode.value)

    def _run_all(self) -> TransferMatrix:
        self.fade(*self.cells.values(), self.result, self.heat)
        return self._transfer_matrix(self._value(), (self.mode.value,))

    def _show_one(self, done: Transfer) -> None:
        self._record(done)
        cell = self.cells[done.source, done.target]
        cell.value = f'<div style="text-align:center;line-height:1.3">{_cell(done)}</div>'
        self.heat.value = ""  # it has another number for that pair
        self.result.value = status(f"{sign(done.verified)} {str(done).splitlines()[0]}") + _ledger(done)

    def _show_all(self, matrix: TransferMatrix) -> None:
        for done in matrix:
            self._record(done)
            self.cells[done.source, done.target].value = ""  # the picture has all of them
        verified = sum(it.verified for it in matrix)
        self.result.value = status(
            f"{sign(verified == len(matrix))} {verified} of {len(matrix)} transfers verified, "
            f"{matrix.zero_copy:.0%} without a copy{_compiled(matrix)}"
        )
        self.heat.value = themed_image(partial(heat_map, tuple(matrix)), heat_map_text(tuple(matrix)))

    def _succeed(self, show: Callable[[Any], None], result: Any) -> None:
        self.complain(None)
        show(result)
        if self._on_transfer:
            self._on_transfer()

    def _failed(self, label: str, error: Exception) -> None:
        self.result.value = status(f"✗ {label} failed")
        self.complain(error)

    def _record(self, done: Transfer) -> None:
        # What arrived isn't kept: it may be large, and nobody reads it here.
        self.results[done.source, done.target] = replace(done, value=None)

    def text(self) -> str:
        return "\n".join(["Transfers", *(f"  {it}" for it in self.results.values())])

    def html(self) -> str:
        rows = []
        for source in self.backends:
            done = [self.results.get((source, target)) for target in self.backends]
            rows.append([f"<b>{escape(title(source))}</b>", *(_cell(it) if it else "–" for it in done)])
        return table_html(["from \\ to", *map(title, self.backends)], rows)


def chooser(label: str, options: Any, value: Any, tooltip: str) -> widgets.Dropdown:
    """Return a drop-down that is as wide as its words."""
    layout = widgets.Layout(width="max-content", max_width="100%", margin="2px 10px 2px 0")
    style = {"description_width": "auto"}
    return widgets.Dropdown(
        options=options, value=value, description=label, tooltip=tooltip, layout=layout, style=style
    )


def sign(good: bool) -> str:
    """Return a check mark or a cross: never colour alone."""
    return "✓" if good else "✗"


def _cell(it: Transfer) -> str:
    verified = "✓ verified" if it.verified else "✗ differs"
    return f"{format_ns(it.ns)} · {format_speed(it.gb_per_s)}<br>{copies_text(it)} · {verified}"


def _compiled(matrix: TransferMatrix) -> str:
    """Say how long first calls compiled, which isn't part of any time that is shown."""
    took = sum(it.compile_ns for it in matrix)
    return f"; first calls compiled for {format_ns(took)} before" if took else ""


def _ledger(it: Transfer) -> str:
    """Return the transfer's copies as a table; nothing where there was none."""
    rows = [[f"{copy.bytes:,} bytes", escape(copy.place), escape(copy.reason)] for copy in it.copies]
    return table_html(["copied", "in", "because"], rows) if rows else ""


def status(text: str) -> str:
    """Return a line that screen readers tell when it changes."""
    return f'<div role="status" style="line-height:1.5;overflow-wrap:anywhere">{escape(text)}</div>'
