"""From the text of a cell to functions of a backend."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import warnings
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .. import _core
from .. import backends as languages
from ..arguments import FORMS, LANES, expect, one_of
from ..backends.base import DEFAULTS, Job, Options, Other
from ..errors import BackendError, BackendNotLoaded, CellError, Message
from ..folders import check_room
from ..progress import Progress
from .cache import Cache, Kept
from .cures import cured
from .handle import Handle
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .._core import Library, Nif
    from ..arguments import Form, Lane
    from ..backends.base import Backend
    from ..lab import LoadedBackend

__all__ = [
    "QUIET",
    "Cell",
    "Cells",
    "Recipe",
    "Request",
    "check_request",
    "check_text",
    "compiled",
    "plain",
    "prewarm",
    "reporting",
    "show",
]

#: Seconds before a cell says that it is being compiled.
QUIET: Final = 0.4
#: Every library has it.
LAYOUT: Final = "layout"
#: Cells of other processes that are kept open: who runs a cell again and again sends many versions of it.
RECEIVED: Final = 64
#: What a loader says of a library that calls what nobody has.
UNDEFINED: Final = re.compile(r"undefined symbol: (\w+)")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell whose functions can be called.

    Attributes
    ----------
    language, name : str
        ``"zig"``, and what its errors call it.
    functions : mapping of str to Handle
        Its functions, which are attributes of the backend too.
    lane : str
        Where they run.
    seconds : float
        From its text to its functions.
    cached : bool
        Whether it had been compiled before.
    warnings : tuple of Message
        What the compiler didn't like.
    report : Report
        The same as text and HTML.
    notes : tuple of str
        Which names it took from other cells or built-in functions.
    """

    language: str
    name: str
    functions: dict[str, Handle]
    lane: Lane
    seconds: float
    cached: bool
    warnings: tuple[Message, ...]
    report: Report
    notes: tuple[str, ...] = ()

    def listed(self, lab: str = "lab") -> str:
        """Return what there is now, a line for each function: ``lab.zig.mean(x: f64[n]) -> f64, 0.21 s``."""
        lines = [f"{lab}.{self.language}.{it.nif.signature}" for it in self.functions.values()]
        lines[-1] += f", {self.seconds:.2f} s"
        return "\n".join([*lines, *self.notes])

    def __str__(self) -> str:
        listed = "\n".join(f"  {it.nif.signature}" for it in self.functions.values())
        how = "found in the cache" if self.cached else "compiled"
        head = f"{self.language} cell {self.name}: {how} in {self.seconds * 1e3:.0f} ms, {self.lane} lane\n{listed}"
        head = "\n".join([head, *self.notes])
        return f"{head}\n{self.report}" if self.warnings else head

    __repr__ = __str__


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A cell, and what is to become of it.

    Attributes
    ----------
    language, code, lane, options
        What, and how.
    name
        What its errors call it; its first function's name unless given.
    key
        Which cell it is: one with the same key takes its place. Its first function's name unless given.
    replace
        Whether to take functions' names from other cells, and hide built-in ones, without a word.
    first
        The number in the notebook's cell of the first line of ``code``.
    """

    language: str
    code: str
    name: str = ""
    key: str = ""
    lane: Lane = "isolated"
    replace: bool = False
    options: Options = DEFAULTS
    first: int = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a cell is compiled from, so that another process can compile it too.

    Attributes
    ----------
    request
        The cell, its text without a margin.
    others
        The cells that it calls.
    """

    request: Request
    others: tuple[Other, ...] = ()


@dataclass(frozen=True, slots=True)
class _Made:
    """A cell that was compiled and opened, and isn't anybody's yet."""

    recipe: Recipe
    library: Library
    functions: dict[str, Nif]
    cached: bool
    warnings: tuple[Message, ...]

    @property
    def other(self) -> Other:
        """What other cells know of it."""
        made = self.recipe.request
        return Other(made.code, tuple(self.functions), made.options.deps)

    def handles(self, name: str) -> dict[str, Handle]:
        backend = self.recipe.request.language
        return {it: Handle(backend, name, nif, self.recipe) for it, nif in self.functions.items()}

    def cell(
        self, request: Request, name: str, handles: dict[str, Handle], seconds: float, notes: tuple[str, ...] = ()
    ) -> Cell:
        report = Report("", _without_mark(request.code), self.warnings, request.first)
        return Cell(request.language, name, handles, request.lane, seconds, self.cached, self.warnings, report, notes)


class Cells:
    """The cells of a Lab.

    Parameters
    ----------
    find
        Gives a backend of the Lab by its name and lane.
    shown
        Gives the backend that users see by its name.
    """

    def __init__(self, find: Callable[[str, Lane], LoadedBackend], shown: Callable[[str], LoadedBackend]) -> None:
        self._find = find
        self._shown = shown
        self._turn = threading.RLock()
        #: What other cells may call, by language and key; the latest is the last.
        self._known: dict[str, dict[str, Other]] = {}
        self._recipes: dict[tuple[str, str], Recipe] = {}
        #: What other processes have sent, which has no name here: two of them may have another function of one name.
        self._received: dict[Recipe, Library] = {}

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """What the cells are compiled from, in the order in which they were."""
        return tuple(self._recipes.copy().values())

    def recipe_of(self, nif: Nif) -> Recipe | None:
        """Return what the cell of a function is compiled from; None for the function of no cell."""
        shelf = self._find(nif.backend, nif.lane_name).cells
        held = shelf.handle_of(nif)
        if held is not None:
            return held.recipe
        received = self._received.copy().items()
        return next((it for it, library in received if library.functions.get(nif.name) is nif), None)

    def receive(self, recipe: Recipe) -> Mapping[str, Nif]:
        """Return the functions of a cell that another process has sent; it is compiled here, or found in the cache."""
        with self._turn:
            if recipe not in self._received:
                request = recipe.request
                backend = languages.find(request.language)
                with reporting(request, 0):
                    made, _ = compiled(backend, request.code, request.options, recipe.others)
                    opened = self._open(backend, request, made.library)
                self._find(request.language, request.lane).cells.added(opened)
                self._received[recipe] = opened
                while len(self._received) > RECEIVED:
                    self._received.pop(next(iter(self._received)))
            return self._received[recipe].functions

    def run(self, request: Request) -> Cell:
        """Compile a cell, or find it compiled, and make its functions those of the backend."""
        start = time.perf_counter()
        backend, made = languages.find(request.language), self._make(request)
        name, key = (it or next(iter(made.functions)) for it in (request.name, request.key))
        homes = dict.fromkeys((self._find(request.language, request.lane), self._shown(request.language)))
        taken: dict[str, str] = {}
        handles = made.handles(name)
        with self._turn:  # no other thread's cell takes a name between the look and the entry
            for home in homes:
                taken |= home.cells.taken(made.functions, key)
            for home in homes:
                handles = home.cells.add(made.library, key, handles)
            known = self._known.setdefault(backend.name, {})
            known.pop(key, None)
            known[key] = made.other
            self._recipes.pop((backend.name, key), None)
            self._recipes[backend.name, key] = made.recipe
        notes = () if request.replace else tuple(_note(backend.name, *it) for it in taken.items())
        return made.cell(request, name, handles, time.perf_counter() - start, notes)

    def module(self, request: Request) -> Cell:
        """Compile a file as a cell is compiled; its functions are those of nothing but the cell that is returned.

        Its key is the file's path; when it is compiled again who holds a function calls the new one.
        """
        start = time.perf_counter()
        made = self._make(request)
        handles = made.handles(request.name)
        with self._turn:
            home = self._find(request.language, request.lane)
            handles = home.cells.keep_apart(made.library, request.key, handles)
        return made.cell(request, request.name, handles, time.perf_counter() - start)

    def _make(self, request: Request) -> _Made:
        """Compile a cell, or find it compiled, and open it."""
        backend = languages.find(request.language)
        check_request(request)
        options = replace(request.options, deps=tuple(map(backend.needed, request.options.deps)))
        text, margin = plain(request.code)
        others = self.others(request) if not options.folder else ()
        with reporting(request, margin), Progress(QUIET) as show:
            check_text(text)
            kept, cached = compiled(backend, text, options, others, lambda it: show(f"{backend.title} cell: {it}"))
            show(f"{backend.title} cell: a {request.lane} library opens")
            recipe = Recipe(replace(request, code=text, options=options), others)
            opened = self._open(backend, recipe.request, kept.library)
            functions = {name: nif for name, nif in opened.functions.items() if name != LAYOUT}
            if not functions:
                raise CellError("it exports no function", cure=f"make one public, as here:\n{backend.example}")
        return _Made(recipe, opened, functions, cached, _at(kept.warnings, margin))

    def others(self, request: Request) -> tuple[Other, ...]:
        """Return the cells that a cell names, and those that they name, in the order in which they were compiled."""
        backend = languages.find(request.language)
        known = self._known.get(backend.name, {}).copy()
        known.pop(request.key, None)
        if not request.key:  # then it is that of its first function
            mine = Other(request.code, ())
            known = {it: other for it, other in known.items() if not mine.is_named_in(it)}
        if not backend.cells.search(request.code):
            return ()
        owners = {name: it for it, other in known.items() for name in other.functions}
        own = {
            it: replace(other, functions=tuple(name for name in other.functions if owners[name] == it))
            for it, other in known.items()
        }
        named, waiting = set[str](), [request.code]
        while waiting:
            code = waiting.pop()
            found = {it for it, other in own.items() if it not in named and other.is_named_in(code)}
            named |= found
            waiting += [own[it].code for it in found if backend.cells.search(own[it].code)]
        return tuple(other for it, other in own.items() if it in named)

    def _open(self, backend: Backend, request: Request, library: Path) -> Library:
        home = self._find(request.language, request.lane)
        try:
            if request.lane == "direct":
                return backend.open_cell(request.code, library, *home.recorded_in, request.options)
            if home.workers is None:
                raise BackendNotLoaded(f"{backend.title} has no workers: {home.reason}", home.cure)
            source = backend.cell_source(request.code, library, request.options)
            return _core.open_beside(home.workers, source, backend.name, *home.recorded_in)
        except BackendError as error:
            messages = backend.cell_messages(str(error))
            if messages:
                raise CellError("", tuple(messages)) from None
            if missing := UNDEFINED.search(str(error)):
                reason = f"no library has the function '{missing[1]}' that the cell declares"
                raise CellError(reason, cure="name the library that has it by a flag: as -lm") from None
            raise


def show(request: Request, form: Form, others: tuple[Other, ...] = ()) -> str:
    """Return what the compiler makes of a cell: ``"asm"``, ``"c"`` or ``"llvm"``, as its language can."""
    backend = languages.find(request.language)
    if one_of("form", form, FORMS) not in backend.forms:
        can = f"use one of {', '.join(backend.forms)}"
        raise BackendError(f"{backend.title} can't show a cell as {form}", can)
    check_request(request)
    options = replace(request.options, deps=tuple(map(backend.needed, request.options.deps)))
    text, margin = plain(request.code)
    cache = Cache()
    with reporting(request, margin):
        check_text(text)
        with cache.work() as work:
            return backend.show_cell(Job(text, work, cache.shared(backend.name), options, others), form)


def compiled(
    backend: Backend,
    code: str,
    options: Options,
    others: tuple[Other, ...] = (),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Kept, bool]:
    """Return a compiled cell, and whether it was in the cache. One that somebody changed is compiled again."""
    if not backend.compiled:
        return Kept(Path(), ()), False
    cache = Cache()
    here = [*backend.taken_here(code, options.folder), *(str((it, backend.taken_here(it.code))) for it in others)]
    key = cache.key([*backend.cell_key(options), *here, code])
    try:
        kept = cache.find(key)
    except ValueError as error:
        warnings.warn(f"{error}; the cell is compiled again", stacklevel=2)
        kept = None
    if kept is not None:
        return kept, True
    with cache.work() as work:
        job = Job(code, work, cache.shared(backend.name), options, others, say)
        started = time.time_ns()
        try:
            said = backend.compile_cell(job)
        except BackendError as error:
            if not any(it.line for it in getattr(error, "messages", ())):  # nothing about the cell's own text
                check_room(work)
            raise
        # Of a file that a flag names, the compiler or the linker may not tell what else is read because of it.
        read = None if any(map(_names_a_file, options.flags)) else backend.files_read(job)
        return cache.keep(key, job.library, said, read, started), False


def _names_a_file(flag: str) -> bool:
    return "/" in flag or bool(re.search(r"\.(zig|nim|rs|rlib|c|h|cpp|hpp|o|a|so)\b", flag))


def prewarm(names: Iterable[str], deps: Iterable[str] = ()) -> None:
    """Compile each language's example: it fills the compilers' own caches. What fails is said when it matters."""
    options = Options(deps=tuple(deps))
    for name in names:
        with contextlib.suppress(BackendError, OSError):
            backend = languages.find(name)
            backend.warm()
            if backend.compiled:
                compiled(backend, backend.example, options)


def check_request(request: Request) -> None:
    """Refuse a request whose parts are of other types, or no lane's name."""
    one_of("lane", request.lane, LANES)
    for what in ("code", "name", "key"):
        expect(what if what != "code" else "source", getattr(request, what), str, "text")
    expect("replace", request.replace, bool, "True or False")


def _without_mark(code: str) -> str:
    """Return a text without the byte order mark that editors of Windows put before it."""
    return code.removeprefix("\ufeff")


def plain(code: str) -> tuple[str, int]:
    """Return a cell without the margin that all its lines have, and how wide that was."""
    lines = _without_mark(code).split("\n")
    margins = sorted(it[: len(it) - len(it.lstrip(" \t"))] for it in lines if it.strip())
    pairs = zip(margins[0], margins[-1], strict=False) if margins else ()
    margin = len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])
    return "\n".join(it[margin:] for it in lines), margin


def _at(messages: tuple[Message, ...], margin: int) -> tuple[Message, ...]:
    """Put messages where their text is in a cell that has a margin."""
    return tuple(replace(it, column=it.column + margin) if it.column else it for it in messages)


def check_text(code: str) -> None:
    """Refuse a text that no compiler could read."""
    for number, line in enumerate(code.split("\n"), 1):
        odd = re.search("[\0\ud800-\udfff]", line)
        if odd:
            raise CellError("", (Message(f"this character can't be written in UTF-8 source: {odd[0]!r}", number, 0),))
    if not code.strip():
        raise CellError("it is empty")


def _note(language: str, name: str, cell: str) -> str:
    """Say from whom a name was taken."""
    if cell:
        return f"{name} was a function of {cell}"
    return f"{name} was a built-in function, which is lab.{language}.builtin.{name} now"


@contextlib.contextmanager
def reporting(request: Request, margin: int) -> Iterator[None]:
    """Raise what is wrong with a cell under the lines of the cell."""
    try:
        yield
    except CellError as error:
        raise _reported(error, request, margin) from None


def _reported(error: CellError, request: Request, margin: int) -> CellError:
    """Return the error with the cell's own lines."""
    messages = tuple(replace(it, text=cured(request.language, it, request.code)) for it in _at(error.messages, margin))
    count = sum(it.is_error for it in messages)
    what = f"{count} error{'s' if count > 1 else ''}" if count else error.reason
    kind = "file" if request.options.folder else "cell"
    title = f"{request.language} {kind}{request.name and ' '}{request.name}: {what}"
    # The report has all that was said, so the error needs no detail of its own.
    report = Report(title, _without_mark(request.code), messages, request.first, error.detail)
    return CellError(str(report), messages, error.cure, report=report)
