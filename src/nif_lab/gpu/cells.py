"""``%%cuda``: CUDA C++ in a cell, whose kernels become functions of ``lab.gpu``."""

from __future__ import annotations

import inspect
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .. import _core
from ..cells.cell import Request, check_request, check_text, plain, reporting
from ..device_memory import device_number
from ..errors import ArgumentValueError, BuildError, CellError, Message
from .launch import Kernel, kernels_of, launch
from .nvrtc import compiled

if TYPE_CHECKING:
    from ..arguments import Lane

__all__ = ["CellKernel", "CudaCell", "CudaCells"]

#: What NVRTC's messages call a cell.
NAME: Final = "cell.cu"
SAID: Final = re.compile(rf"^{re.escape(NAME)}\((\d+)\): (error|warning)[^:]*: (.*)$")
CARET: Final = re.compile(r"^(\s*)\^\s*$")
EXAMPLE: Final = """\
extern "C" __global__ void scale(double *x, double factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= factor;
}"""


class CellKernel:
    """A kernel of a cell: ``lab.gpu.scale(x, 2.0, n, grid=4, block=256)``. It starts what the cell has become.

    Attributes
    ----------
    kernel : Kernel
        As it is now.
    cell : str
        The name of its cell.
    lane : str
        Where it runs unless a call says otherwise.
    """

    __slots__ = ("__weakref__", "_function", "cell", "kernel", "lane")

    def __init__(self, function: Callable[[str, str, Lane], Any], kernel: Kernel, cell: str, lane: Lane) -> None:
        self._function = function
        self.kernel = kernel
        self.cell = cell
        self.lane = lane

    @_core.plain
    def __call__(
        self,
        *args: Any,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        shared: int = 0,
        language: str = "rust",
        lane: Lane | None = None,
    ) -> None:
        """Start it.

        Parameters
        ----------
        *args
            Numbers, and arrays on the kernel's device.
        grid, block
            Blocks, and threads of a block: a number, or one for each of up to three directions.
        shared
            Bytes that a block's threads share.
        language
            Language whose ``gpu_launch`` starts it.
        lane
            ``"isolated"`` or ``"direct"``; the cell's unless given.

        Raises
        ------
        ArgumentTypeError
            When an argument isn't what the kernel takes.
        GpuFault
            When the driver refuses, or the kernel fails.
        """
        launch(self._function, self.kernel, (grid, block, shared), args, language, lane or self.lane)

    def becomes(self, other: CellKernel) -> CellKernel:
        """Start from now on what another one starts."""
        self.kernel, self.cell, self.lane = other.kernel, other.cell, other.lane
        return self

    @property
    def __name__(self) -> str:
        return self.kernel.name

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return f"{self.kernel.signature}\n\nA kernel of {self.cell}, {self.lane} lane: call it with grid= and block=."

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.POSITIONAL_ONLY
        given = [inspect.Parameter(it.name, kind) for it in self.kernel.parameters]
        options = inspect.signature(type(self).__call__).parameters.values()
        return inspect.Signature([*given, *(it for it in options if it.kind is it.KEYWORD_ONLY)])

    def __repr__(self) -> str:
        return f"<gpu.{self.kernel.signature}, from {self.cell}>"


@dataclass(frozen=True, slots=True)
class CudaCell:
    """A cell of CUDA C++.

    Attributes
    ----------
    name : str
        What its errors call it.
    functions : mapping of str to CellKernel
        Its kernels, which are attributes of ``lab.gpu`` too.
    seconds : float
        From its text to its kernels.
    notes : tuple of str
        Which names it took from other cells.
    """

    name: str
    functions: dict[str, CellKernel]
    seconds: float
    notes: tuple[str, ...] = ()

    def listed(self, lab: str = "lab") -> str:
        """Return what there is now, a line for each kernel: ``lab.gpu.scale(double *x, int n), 0.21 s``."""
        lines = [f"{lab}.gpu.{it.kernel.signature}" for it in self.functions.values()]
        lines[-1] += f", {self.seconds:.2f} s"
        return "\n".join([*lines, *self.notes])

    __str__ = __repr__ = listed


class CudaCells:
    """The cells of CUDA C++ of a Lab.

    Parameters
    ----------
    function
        Returns a function of a language by its name and lane.
    reserved
        Names that no kernel of a cell can have: ``lab.gpu`` has them.
    """

    def __init__(self, function: Callable[[str, str, Lane], Any], reserved: frozenset[str]) -> None:
        self._function = function
        self._reserved = reserved
        self._turn = threading.Lock()
        self._cells: dict[str, dict[str, CellKernel]] = {}

    @property
    def functions(self) -> dict[str, CellKernel]:
        """The kernels of all cells by their names."""
        return {name: it for cell in self._cells.values() for name, it in cell.items()}

    def run(self, request: Request, device: str = "gpu") -> CudaCell:
        """Compile a cell, or find it compiled, and make its kernels functions of ``lab.gpu``."""
        start = time.perf_counter()
        check_request(request)
        text, margin = plain(request.code)
        with reporting(request, margin):
            check_text(text)
            kernels = self._compile(text, device_number(device), request.options.flags)
        name, key = request.name or next(iter(kernels)), request.key or next(iter(kernels))
        with self._turn:
            former = dict(self._cells.get(key, {}))
            others = {it: dict(cell) for it, cell in self._cells.items() if it != key}
            notes = []
            for cell in others.values():
                for taken in kernels.keys() & cell.keys():
                    former[taken] = cell.pop(taken)
                    notes.append(f"{taken} was a kernel of {former[taken].cell}")
            made = {it: CellKernel(self._function, kernel, name, request.lane) for it, kernel in kernels.items()}
            kept = {it: former[it].becomes(new) if it in former else new for it, new in made.items()}
            self._cells = {**others, key: kept}
        return CudaCell(name, kept, time.perf_counter() - start, () if request.replace else tuple(notes))

    def _compile(self, text: str, number: int, options: tuple[str, ...]) -> dict[str, Kernel]:
        capability = _core.gpu_device(number)[3]
        try:
            code = compiled(text, capability, options, NAME)
            found = kernels_of(text)
        except BuildError as error:
            raise error.in_cell(_messages(error.detail, text)) from None
        except ArgumentValueError as error:
            raise CellError(error.reason, cure="pass numbers, and pointers to arrays") from None
        if not found:
            raise CellError("it has no kernel", cure=f"begin one as here:\n{EXAMPLE}")
        if wrong := sorted(self._reserved & found.keys()):
            raise CellError(f"'{wrong[0]}' means something else in lab.gpu", cure="give the kernel another name")
        module = _core.gpu_load(number, code)
        return {it: Kernel(it, takes, number, _core.gpu_kernel(module, it)) for it, takes in found.items()}


def _messages(log: str, text: str) -> list[Message]:
    """Return what NVRTC said of a cell: each message with its line, and its column where a caret shows that."""
    lines, found = text.split("\n"), list[Message]()
    rest = iter(log.split("\n"))
    for line in rest:
        if not (said := SAID.match(line)):
            continue
        number, shown, caret = int(said[1]), next(rest, ""), next(rest, "")
        column = 0
        if (mark := CARET.match(caret)) and 1 <= number <= len(lines):
            margin = len(lines[number - 1]) - len(lines[number - 1].lstrip())
            column = margin + len(mark[1]) - (len(shown) - len(shown.lstrip())) + 1
        found.append(Message(said[3], number, max(column, 0), 1, said[2] == "error"))
    return found
