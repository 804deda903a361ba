"""Call any function from a form that is made of its signature."""

from __future__ import annotations

import ast
import os
import re
import signal
import sys
import time
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import ipywidgets as widgets
import numpy as np
from matplotlib import colormaps
from PIL import Image

from ..errors import WorkerCrashed
from ..text import format_ns
from .action import Action
from .base import Panel, tree
from .canvas import data_url, png
from .style import title
from .transfers import chooser, sign, status

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core import Nif
    from ..lab import Lab

__all__ = ["TryPanel", "array_of"]

#: ``x: mut f64[m,n]`` in a signature.
_PARAMETER: Final = re.compile(r"(\w+): (mut )?(\w+)(\[[^\]]*\])?(\?| = )?")
#: Numbers that give something to look at.
_START: Final = {
    "width": 240, "height": 160, "iterations": 80, "x_min": -2.0, "x_max": 1.0, "y_min": -1.0, "y_max": 1.0,
    "dx": 30.0, "dy": 30.0, "azimuth": 315.0, "altitude": 45.0, "low": 0.0, "high": 1.0, "passes": 3, "activation": 1,
}  # fmt: skip
#: The ways to make an array in the form: no other name means anything there.
_MAKERS: Final[dict[str, Callable[..., Any]]] = {
    "random": lambda *shape: np.random.default_rng(0).random(shape),
    "zeros": lambda *shape: np.zeros(shape),
    "ones": lambda *shape: np.ones(shape),
    "arange": np.arange,
    "linspace": np.linspace,
}
#: Arrays of the form have at most so many elements, so that a slip of the finger costs nothing.
_MOST: Final = 8_000_000
#: Functions of `lab.wire` that take tables which no form makes up; the page Frames shows what they do.
_TABLES: Final = frozenset({"decode", "encode"})
#: A picture of a result is about so wide or high at most.
_PIXELS: Final = 480
#: A call from the form may take so long, in seconds, where it can be ended.
_DEADLINE: Final = 10.0


class TryPanel(Panel):
    """Choose a language and a function, fill in its parameters, call it.

    Parameters
    ----------
    lab
        Whose functions; they are called in a worker, where a mistake costs nothing.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        loaded = [(title(it.name), it.name) for it in lab.backends.values() if it.loaded]
        self.language = chooser("Language", loaded, loaded[0][1] if loaded else None, "Whose function")
        self.function = chooser("Function", [], None, "What to call")
        self.form = widgets.VBox()
        self.fields: dict[str, widgets.Widget] = {}
        self._fills = False
        self._signature = ""
        self._running = ""  # the language whose worker runs the form's call
        self._is_stopped = False
        self.call = Action("Call", self._run, show=self._show, fail=self._failed, stop=self._stop)
        self.doc, self.result = widgets.HTML(), widgets.HTML(status("The result appears here."))
        self.language.observe(lambda _: self.attempt(self._offer), "value")
        self.function.observe(lambda _: self.attempt(self._ask), "value")
        row = widgets.HBox(
            [self.language, self.function], layout=widgets.Layout(flex_flow="row wrap", grid_gap="4px 12px")
        )
        super().__init__("Try it", [row, self.doc, self.form, self.call, self.result])
        self.call.disabled = not loaded
        self.refresh()

    def refresh(self) -> None:
        self.attempt(self._offer)

    def _offer(self) -> None:
        """Offer the language's functions; the one that was chosen stays, if it has that."""
        if self.language.value is None:
            self.doc.value = status("No language is loaded.")
            return
        names = [it for it in self._lab.backends[self.language.value].kernels if it not in _TABLES]
        kept = self.function.value if self.function.value in names else "dot" if "dot" in names else names[0]
        self._fills = True  # the list chooses its first function for a moment, whose form would drop what was typed
        self.function.options = names
        self.function.value = kept
        self._fills = False
        self._ask()

    def _ask(self) -> None:
        """Make the form of the function."""
        if self.function.value is None or self._fills:
            return
        nif = self._nif()
        self.doc.value = f"<code>{escape(nif.signature)}</code><div>{escape(nif.doc)}</div>"
        if nif.signature == self._signature:
            return  # another language's: what was typed is for it too
        self._signature = nif.signature
        for part in [it for field in self.fields.values() for it in tree(field)]:
            part.close()
        self.fields = {it.name: _field(it) for it in _parameters(nif.signature) if not it.is_output}
        for field in self.fields.values():
            field.layout.max_width = "calc(100% - 4px)"  # it has margins
        self.form.children = tuple(self.fields.values())
        self.listen()

    def _run(self) -> tuple[str, str, Any, float]:
        self.fade(self.result)
        name, function = self.language.value, self.function.value
        parameters = [it for it in _parameters(self._nif().signature) if not it.is_output]
        typed = [self.fields[it.name].value for it in parameters]
        typed = [it.split() if of.kind == "texts" else it for it, of in zip(typed, parameters, strict=True)]
        arguments = [
            _argument(text, _dtype(it.kind)) if it.axes else text for it, text in zip(parameters, typed, strict=True)
        ]
        start = time.perf_counter_ns()
        # The language that was chosen answers, or none does; each further try would have a deadline of its own.
        options: dict[str, Any] = {"timeout": _DEADLINE, "retries": 0, "failover": False}
        lane = getattr(self._lab.isolated, name).find_function(function).lane_name
        if lane == "direct":
            del options["timeout"]  # a cell that asked for this process: nothing can end its call
        self._running, self._is_stopped = name if lane == "isolated" else "", False
        answer = self._lab.call(name, function, *arguments, lane="isolated", **options)
        ns = float(time.perf_counter_ns() - start)
        written = [value for it, value in zip(parameters, arguments, strict=True) if it.is_mutable]
        said = [
            _code(text, _dtype(it.kind)) if it.axes else repr(text) for it, text in zip(parameters, typed, strict=True)
        ]
        place = "lab.isolated" if lane == "isolated" and self._lab.backends[name].lane == "direct" else "lab"
        code = f"{place}.{name}.{function}({', '.join(said)})"
        return code, lane, written[0] if answer is None and written else answer, ns

    def _stop(self) -> None:
        """End the call by ending its worker; the next call gets another one."""
        if not self._running:
            self.complain(RuntimeError("this function runs in this process, where nothing can end its call"))
            return
        self._is_stopped = True
        workers = getattr(self._lab.isolated, self._running).workers
        for pid in workers.pids:  # the spares too: which of them works can change meanwhile
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _nif(self) -> Nif:
        return self._lab.backends[self.language.value].functions[self.function.value]

    def _show(self, done: tuple[str, str, Any, float]) -> None:
        code, lane, answer, ns = done
        self.complain(None)
        self.result.value = (
            status(f"{sign(True)} {format_ns(ns)} {'in this process' if lane == 'direct' else 'in a worker'}")
            + f'<pre style="white-space:pre-wrap;margin:4px 0;user-select:all">{escape(code)}</pre>'
            + _shown(answer)
        )

    def _failed(self, error: Exception) -> None:
        is_stopped = self._is_stopped and isinstance(error, WorkerCrashed)
        self.result.value = status(
            "■ stopped: its worker was ended" if is_stopped else f"{sign(False)} the call failed"
        )
        self.complain(None if is_stopped else error)

    def text(self) -> str:
        return f"Try it\n  lab.{self.language.value}.{self.function.value}"

    def html(self) -> str:
        return f"{self.doc.value}{self.result.value}"


class _Parameter(NamedTuple):
    name: str
    kind: str
    axes: int
    is_mutable: bool
    has_default: bool

    @property
    def is_output(self) -> bool:
        """Whether it may be left out."""
        return self.has_default or (self.is_mutable and self.name == "out")


def _parameters(signature: str) -> list[_Parameter]:
    inside = signature[signature.index("(") + 1 : signature.rindex(") -> ")]
    found = _PARAMETER.finditer(inside)
    return [
        _Parameter(it[1], "texts", 0, is_mutable=False, has_default=bool(it[5]))
        if it[3] == "str" and it[4]
        else _Parameter(it[1], it[3], it[4].count(",") + 1 if it[4] else 0, bool(it[2]), bool(it[5]))
        for it in found
    ]


def _field(it: _Parameter) -> widgets.Widget:
    style = {"description_width": "80px"}
    if it.axes:
        shape = ", ".join(["64"] * it.axes)
        field = widgets.Text(f"random({shape})", description=it.name, style=style)
        field.tooltip = "random(8, 8), zeros(8), ones(8), arange(8), linspace(0, 1, 8), [1, 2, 3], or a variable's name"
        return field
    if it.kind == "bool":
        return widgets.Checkbox(description=it.name, indent=False)
    if it.kind in {"f32", "f64"}:
        return widgets.FloatText(_START.get(it.name, 1.0), description=it.name, style=style)
    if it.kind[0] in "iu" and it.kind[1:].isdigit():
        return widgets.IntText(int(_START.get(it.name, 8)), description=it.name, style=style)
    if it.kind == "texts":
        field = widgets.Text("one two", description=it.name, style=style)
        field.tooltip = "words: a list of them is passed"
        return field
    return widgets.Text("text", description=it.name, style=style)


def _dtype(kind: str) -> str:
    """Return NumPy's name of an element type: ``int64`` of ``i64``."""
    if kind in {"any", "bool"}:
        return {"any": "float64", "bool": "bool"}[kind]
    words = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
    return words[kind[0]] + kind[1:]


def variable(text: str) -> Any:
    """Return the notebook's variable of that name; None if there is none, or if the text is no name.

    Names are looked up; nothing is evaluated. Names with a leading underscore are private and not found.
    """
    name = text.strip()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not name.isidentifier() or name.startswith("_"):
        return None
    return shell.user_ns.get(name)


def _argument(text: str, dtype: str) -> Any:
    """Return the array that a text describes, or whatever array a variable of the notebook is."""
    found = variable(text)
    return array_of(text, dtype) if found is None else found


def array_of(text: str, dtype: str = "float64", most: int = _MOST) -> np.ndarray:
    """Return the array that a text of the form describes.

    The page's text is never evaluated as Python: whoever may look at a dashboard may not therefore run code.

    Parameters
    ----------
    text
        ``random(8, 8)``, ``zeros(8)``, ``ones(8)``, ``arange(8)``, ``linspace(0, 1, 8)``, or a list of numbers.
    dtype
        Of the array.
    most
        Elements that it may have.

    Raises
    ------
    ValueError
        It is none of these, or too large.
    """
    makers = ", ".join(_MAKERS)
    cure = f"write a list, [1, 2, 3], a variable's name, or one of {makers}: random(8, 8); its elements are {dtype}"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id in _MAKERS:
            numbers = [ast.literal_eval(it) for it in tree.args]
            if tree.keywords or not numbers or not all(type(it) in {int, float} for it in numbers):
                raise ValueError
            _check_size(tree.func.id, numbers, most)
            return np.asarray(_MAKERS[tree.func.id](*numbers)).astype(dtype)
        value = ast.literal_eval(tree)
        made = np.array(value, dtype)
        if made.dtype.kind in "iu" and not np.array_equal(made, np.asarray(value)):
            raise ValueError
        return made
    except _TooLarge:
        raise ValueError(f"{text} has more than {most:,} elements; use a cell for as many") from None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError, ZeroDivisionError):
        raise ValueError(f"'{text[:60]}' is no array: {cure}") from None


def _code(text: str, dtype: str) -> str:
    """Return the Python that makes what `_argument` does, for a cell that has imported numpy as np."""
    if variable(text) is not None:
        return text.strip()
    tree = ast.parse(text.strip(), mode="eval").body
    if not isinstance(tree, ast.Call):
        return f"np.array({ast.unparse(tree)}, {dtype!r})"
    maker, numbers = ast.unparse(tree.func), ", ".join(map(ast.unparse, tree.args))
    if maker not in {"arange", "linspace"}:
        numbers = f"({numbers})" if len(tree.args) > 1 else numbers
    name = "np.random.default_rng(0).random" if maker == "random" else f"np.{maker}"
    return f"{name}({numbers}).astype({dtype!r})"


class _TooLarge(Exception):
    """More elements than a form should make."""


def _check_size(maker: str, numbers: list[Any], most: int) -> None:
    if maker == "arange":
        first, last = (0, numbers[0]) if len(numbers) == 1 else numbers[:2]
        count = abs((last - first) / (numbers[2] if len(numbers) > 2 else 1))
    else:
        count = float(numbers[2]) if maker == "linspace" and len(numbers) > 2 else 1.0
        for it in numbers if maker != "linspace" else ():
            count *= it
    if count > most:
        raise _TooLarge


def _shown(answer: Any) -> str:
    """Return a result as HTML: an image of what is as large as one, else its words."""
    if isinstance(answer, np.ndarray) and answer.ndim == 2 and min(answer.shape) >= 8 and answer.dtype.kind in "fiu":
        finite = answer[np.isfinite(answer)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        step = -(-max(answer.shape) // _PIXELS)
        some = answer[tuple(slice(None, None, max(1, min(step, length // 8))) for length in answer.shape)]
        # Halves: the difference of two numbers may be too large for one. What isn't finite is drawn as it lies.
        scaled = (np.clip(some, low, high) / 2 - low / 2) / (high / 2 - low / 2 or 1.0)
        pixels = Image.fromarray(colormaps["viridis"](np.nan_to_num(scaled), bytes=True)[..., :3])
        odd = f", {answer.size - finite.size:,} not finite" if finite.size < answer.size else ""
        words = f"{answer.dtype} array of {' × '.join(map(str, answer.shape))}, from {low:.4g} to {high:.4g}{odd}"
        look = "image-rendering:pixelated;min-width:160px"
        return f'<img alt="{escape(words)}" src="{data_url(png(pixels))}" style="{look}"><div>{escape(words)}</div>'
    text = np.array2string(answer, threshold=60, precision=6) if isinstance(answer, np.ndarray) else repr(answer)
    about = f"<div>{answer.dtype} array of shape {answer.shape}</div>" if isinstance(answer, np.ndarray) else ""
    return f'<pre style="white-space:pre-wrap;margin:4px 0">{escape(text)}</pre>{about}'
