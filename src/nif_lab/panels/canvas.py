"""A picture in pixels: matplotlib as a plain drawing surface.

Everything is set explicitly and nothing goes through pyplot or rcParams, which belong to the user: a panel may draw on
another thread while the user's own figure is half done.
"""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.transforms import Affine2D
from PIL import Image

from .style import THEMES, Theme

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Canvas", "data_url", "png", "themed_image"]

#: Pictures are drawn at twice their size, for sharp screens.
SCALE: Final = 2
_POINTS: Final = 72.0

#: The page's theme picks one of the two pictures; without a hint the light one shows.
_CHOOSE: Final = (
    "<style>.nif-lab-dark{display:none}"
    ':is(body[data-jp-theme-light="false"],body.vscode-dark) .nif-lab-dark{display:inline}'
    ':is(body[data-jp-theme-light="false"],body.vscode-dark) .nif-lab-light{display:none}</style>'
)


class Canvas:
    """A transparent picture whose unit is the pixel and whose origin is the upper left corner."""

    def __init__(self, width: float, height: float, theme: Theme, scale: float = SCALE) -> None:
        self.width, self.height, self.theme, self.scale = width, height, theme, scale
        self.figure = Figure((width / _POINTS, height / _POINTS), dpi=_POINTS * scale)
        self.figure.set_layout_engine("none")
        self.figure.patch.set_visible(False)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 12,
        colour: str | None = None,
        bold: bool = False,
        align: Literal["left", "center", "right"] = "left",
    ) -> None:
        """Write a line of text with its baseline at ``y``."""
        self.figure.text(
            x / self.width, 1 - y / self.height, text, fontsize=size, color=colour or self.theme.text, ha=align,
            va="baseline", family="DejaVu Sans", weight="bold" if bold else "normal", usetex=False, parse_math=False,
        )  # fmt: skip

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, *, line: str | None = None, radius: float = 0
    ) -> None:
        """Draw a rectangle with round corners."""
        radius = min(radius, width / 2, height / 2)
        box = FancyBboxPatch(
            (x + radius, self.height - y - height + radius),
            width - 2 * radius,
            height - 2 * radius,
            boxstyle="square,pad=0" if radius <= 0 else f"round,pad={radius},rounding_size={radius}",
            facecolor=fill,
            edgecolor=line or "none",
            linewidth=1.0 if line else 0.0,
            transform=Affine2D().scale(self.scale),
        )
        self.figure.add_artist(box)

    def pixels(self) -> np.ndarray:
        """Return the picture: uint8, shape (height, width, 4), red, green, blue and opacity."""
        # Not `savefig`, which does what rcParams say.
        canvas: Any = FigureCanvasAgg(self.figure)  # Any: its methods have no types
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())

    def png(self) -> bytes:
        """Return the picture as a PNG file."""
        return png(Image.fromarray(self.pixels()))


def png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    target = io.BytesIO()
    image.save(target, format="png")
    return target.getvalue()


def data_url(png: bytes) -> str:
    """Return a PNG file as a URL that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def themed_image(draw: Callable[[Theme], Canvas], alt: str) -> str:
    """Return HTML that shows a picture in the notebook's theme, light or dark."""
    images = []
    for theme in THEMES:
        canvas = draw(theme)
        images.append(
            f'<img class="nif-lab-{theme.name}" alt="{escape(alt)}" src="{data_url(canvas.png())}" '
            f'style="width:{canvas.width:.0f}px;max-width:100%;height:auto">'
        )
    return _CHOOSE + "".join(images)
